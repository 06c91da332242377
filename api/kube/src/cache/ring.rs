//! Recent events of one scope.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::watch;

use super::entry::Entry;

/// Events kept in the ring of a whole resource.
pub const MAX_EVENTS: usize = 16_384;
/// Events kept in the ring of a narrower scope.
pub const MAX_SCOPED_EVENTS: usize = 1_024;
/// Bytes of encoded events kept in one ring, whatever their number.
const MAX_BYTES: usize = 32 << 20;

/// One change.
#[derive(Debug)]
pub struct Event {
    pub revision: i64,
    pub deleted: bool,
    /// The new state, or the last one (at the revision of the deletion) if deleted.
    pub entry: Arc<Entry>,
    pub previous: Option<Arc<Entry>>,
}

/// A bounded queue of events, read by any number of cursors.
pub struct Ring {
    events: VecDeque<Arc<Event>>,
    /// Number of the first event still here; numbers never repeat.
    first: u64,
    bytes: usize,
    capacity: usize,
    /// Open watchers.
    pub watchers: usize,
    wake: watch::Sender<()>,
}

impl Ring {
    pub fn new(capacity: usize) -> Ring {
        Ring { events: VecDeque::new(), first: 0, bytes: 0, capacity, watchers: 0, wake: watch::Sender::new(()) }
    }

    /// Appends an event; returns the revision of the newest event that had to go.
    pub fn push(&mut self, event: Arc<Event>) -> Option<i64> {
        self.bytes += event.entry.size();
        self.events.push_back(event);
        let mut dropped = None;
        while self.events.len() > self.capacity || (self.bytes > MAX_BYTES && self.events.len() > 1) {
            let Some(event) = self.events.pop_front() else { break };
            self.bytes -= event.entry.size();
            self.first += 1;
            dropped = Some(event.revision);
        }
        dropped
    }

    /// Forgets all events; every cursor before this moment is lost.
    pub fn clear(&mut self) {
        self.first += self.events.len() as u64 + 1;
        self.events.clear();
        self.bytes = 0;
        self.wake();
    }

    /// The cursor after the newest event.
    pub fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    /// Revision of the newest event, 0 if there is none.
    pub fn newest(&self) -> i64 {
        self.events.back().map_or(0, |event| event.revision)
    }

    /// The cursor of the first event after `revision`.
    pub fn after(&self, revision: i64) -> u64 {
        self.first + self.events.partition_point(|event| event.revision <= revision) as u64
    }

    /// Events from the cursor on, at most `limit`; `None` if the cursor fell out of the ring.
    pub fn read(&self, cursor: u64, limit: usize) -> Option<impl Iterator<Item = &Arc<Event>>> {
        let skip = usize::try_from(cursor.checked_sub(self.first)?).ok()?;
        Some(self.events.iter().skip(skip).take(limit))
    }

    /// Wakes the watchers.
    pub fn wake(&self) {
        self.wake.send_replace(());
    }

    /// A handle that is told of each wake.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.wake.subscribe()
    }
}
