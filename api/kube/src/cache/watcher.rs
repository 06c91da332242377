//! One open watch: a cursor in a ring.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::watch;

use super::ring::{Event, MAX_SCOPED_EVENTS, Ring};
use super::{Cache, Entry, Scope, Snapshot};
use crate::status::{Answer, Failure};

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the objects that exist.
    Initial,
    /// With the first change after this revision.
    After(i64),
}

/// What a pull found.
pub enum Pulled {
    /// Changes, in order.
    Events(Vec<Arc<Event>>),
    /// None left; everything up to this revision has been handed out.
    Idle(i64),
    /// The watcher fell behind what is kept, or the cache began anew.
    Lost,
}

/// An open watch. Dropping it closes it.
pub struct Watcher {
    cache: Arc<Cache>,
    scope: Scope,
    life: u64,
    cursor: u64,
    /// Events between the requested revision and the moment the scope's own channel took over.
    backlog: VecDeque<Arc<Event>>,
    wake: watch::Receiver<()>,
}

impl Cache {
    /// Opens a watch; with [`Start::Initial`] the snapshot holds the objects in scope.
    ///
    /// # Errors
    /// 410 if the revision is older than what is kept.
    pub fn open(self: &Arc<Cache>, scope: Scope, start: Start, prefix: &[u8]) -> Answer<(Watcher, Snapshot)> {
        let mut guard = self.state.write();
        let state = &mut *guard;
        let mut snapshot = Snapshot { revision: state.revision, entries: Vec::new(), remaining: 0 };
        let mut backlog = VecDeque::new();
        let mut cursor = state.ring.end();
        match start {
            Start::Initial => {
                let in_scope = |entry: &&Arc<Entry>| scope.contains(entry);
                snapshot.entries = match &scope {
                    Scope::Object(key) => state.objects.get(key).cloned().into_iter().collect(),
                    _ => state
                        .objects
                        .range::<[u8], _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded))
                        .take_while(|(key, _)| key.starts_with(prefix))
                        .map(|(_, entry)| entry)
                        .filter(in_scope)
                        .cloned()
                        .collect(),
                };
            }
            Start::After(revision) => {
                if revision < state.oldest {
                    return Err(Failure::too_old(revision, state.oldest));
                }
                let from = state.ring.after(revision);
                if scope == Scope::All {
                    cursor = from;
                } else if let Some(events) = state.ring.read(from, usize::MAX) {
                    let concerns = |event: &&Arc<Event>| {
                        scope.contains(&event.entry) || event.previous.as_ref().is_some_and(|old| scope.contains(old))
                    };
                    backlog = events.filter(concerns).cloned().collect();
                }
            }
        }
        let ring = match scope.channel() {
            None => &mut state.ring,
            Some((map, key)) => {
                let ring = state.channels[map].entry(key.clone()).or_insert_with(|| Ring::new(MAX_SCOPED_EVENTS));
                cursor = ring.end();
                ring
            }
        };
        ring.watchers += 1;
        let wake = ring.subscribe();
        let life = state.life;
        drop(guard);
        Ok((Watcher { cache: self.clone(), scope, life, cursor, backlog, wake }, snapshot))
    }
}

impl Watcher {
    /// Takes at most `limit` changes that are there now.
    pub fn pull(&mut self, limit: usize) -> Pulled {
        if !self.backlog.is_empty() {
            let count = limit.min(self.backlog.len());
            return Pulled::Events(self.backlog.drain(..count).collect());
        }
        self.wake.borrow_and_update();
        let state = self.cache.state.read();
        if state.life != self.life {
            return Pulled::Lost;
        }
        let ring = match self.scope.channel() {
            None => Some(&state.ring),
            Some((map, key)) => state.channels[map].get(key),
        };
        let Some(events) = ring.and_then(|ring| ring.read(self.cursor, limit)) else { return Pulled::Lost };
        let events: Vec<_> = events.cloned().collect();
        self.cursor += events.len() as u64;
        if events.is_empty() { Pulled::Idle(state.revision) } else { Pulled::Events(events) }
    }

    /// Waits until there may be something to pull.
    pub async fn changed(&mut self) {
        // The sender lives in the ring, which lives as long as it has watchers.
        let _ = self.wake.changed().await;
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut state = self.cache.state.write();
        match self.scope.channel() {
            None => state.ring.watchers -= 1,
            Some((map, key)) => {
                if let Some(ring) = state.channels[map].get_mut(key) {
                    ring.watchers -= 1;
                    if ring.watchers == 0 {
                        state.channels[map].remove(key);
                    }
                }
            }
        }
    }
}
