//! Watches: every event of a range once, in order, whole revisions at a time, never before it is published.
//!
//! A watcher pulls. It takes what another one of the same range has read already; else, near the head, it reads the
//! shared ring, and behind that history from the backend, in bounded pieces. It holds nothing of the writer's, so one that is never polled costs the others nothing.

use std::sync::Arc;
use std::task::Context;

use bytes::Bytes;

use crate::backend::Space;
use crate::command::KeyRange;
use crate::event::{Event, EventKind};
use crate::events::Events;
use crate::interest::{Member, Sleep};
use crate::plant::{Bug, planted};
use crate::record::{self, Record};
use crate::ring::Place;
use crate::snapshot::{Records, Shared};
use crate::tree::Span;
use crate::{Error, Revision};

/// Records of history read in one poll, and bytes of events collected; the revision at hand is always finished.
const HISTORY_RECORDS: usize = 4096;
const HISTORY_BYTES: usize = 4 << 20;

/// What to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchSpec {
    pub range: KeyRange,
    /// The first revision whose events are delivered; 0: what happens from now on. May lie in the future.
    pub start_revision: i64,
    /// Leaves puts out.
    pub no_put: bool,
    /// Leaves deletions out.
    pub no_delete: bool,
    /// Whether [`Event::prev_kv`] is to be known.
    pub prev_kv: bool,
}

/// What a poll found.
#[derive(Debug)]
pub enum WatchPoll {
    /// Events in order. All events up to and including `revision` have been delivered with these.
    Events { events: Arc<Events>, revision: i64 },
    /// History that was not yet delivered has been compacted away: the watch is over.
    Compacted { compact_revision: i64 },
    /// Nothing for now; all events up to and including `synced_to` have been delivered. The task will be woken: when
    /// there is an event, or at once where there is more history to look through.
    Idle { synced_to: i64 },
    /// The backend failed: the watch is over.
    Failed(Error),
}

/// A running watch; ends when dropped.
pub struct Watcher {
    shared: Arc<Shared>,
    spec: WatchSpec,
    member: Member,
    /// Next revision to deliver.
    cursor: i64,
    place: Option<Place>,
    /// Everything before the cursor was looked through after the sleeper had been armed: so what the sleeper knows
    /// holds from the cursor on.
    idle: bool,
    /// The start has not been checked against compaction.
    fresh: bool,
}

impl Watcher {
    pub(crate) fn new(shared: Arc<Shared>, spec: WatchSpec) -> Watcher {
        let member = shared.interest.join(spec.range.clone());
        let fresh = spec.start_revision > 0;
        let cursor = if fresh { spec.start_revision } else { shared.snapshot.load().revision + 1 };
        Watcher { shared, spec, member, cursor, place: None, idle: false, fresh }
    }

    /// What it watches.
    pub fn spec(&self) -> &WatchSpec {
        &self.spec
    }

    /// Every event up to and including this revision has been delivered.
    pub fn progress(&self) -> i64 {
        let reached = if self.idle { self.known_quiet() } else { self.cursor };
        (reached.max(self.cursor) - 1).min(self.shared.snapshot.load().revision)
    }

    /// The first revision that may hold an event for an idle watcher.
    fn known_quiet(&self) -> i64 {
        // In this order: what is notified was notified before the sleeper is looked at.
        let notified = self.shared.interest.notified();
        match self.member.sleeper.state() {
            Sleep::Undisturbed => notified + 1,
            Sleep::WokenAt(revision) => revision,
        }
    }

    /// Returns what there is: about `max_events` events (at least one, and never a part of a revision), or
    /// [`WatchPoll::Idle`] after which `cx` is woken. Reads history from the backend where the watcher is far
    /// behind, a few milliseconds at a time; never waits for the writer.
    pub fn poll(&mut self, cx: &mut Context<'_>, max_events: usize) -> WatchPoll {
        if std::mem::take(&mut self.idle) {
            let quiet = self.known_quiet();
            if quiet > self.cursor {
                self.cursor = quiet;
                self.place = None;
            }
        }
        let mut armed = false;
        loop {
            let (revision, compacted) = {
                let snapshot = self.shared.snapshot.load();
                (snapshot.revision, snapshot.compacted)
            };
            if planted(Bug::GapIsSkipped) && self.cursor < compacted {
                (self.cursor, self.place) = (compacted, None);
            }
            if std::mem::take(&mut self.fresh) && self.cursor < compacted {
                self.fresh = true;
                return WatchPoll::Compacted { compact_revision: compacted };
            }
            if self.cursor > revision {
                if armed {
                    self.idle = true;
                    return WatchPoll::Idle { synced_to: revision };
                }
                // Armed first and looked again then, so that nothing is published unseen in between.
                self.member.arm(cx.waker());
                armed = true;
                continue;
            }
            if let Some((events, upto)) = self.left_by_others(max_events.max(1)) {
                // What another has read is read: the place in the ring is behind now.
                self.cursor = upto + 1;
                self.place = None;
                return WatchPoll::Events { events, revision: upto };
            }
            let floor = self.cursor;
            let (events, more) = match self.read_ring(revision, max_events.max(1)) {
                Some(events) => (events, false),
                None if self.cursor < compacted => return WatchPoll::Compacted { compact_revision: compacted },
                None => match self.read_history(revision, max_events.max(1)) {
                    Err(error) => return WatchPoll::Failed(error),
                    Ok(read) => {
                        let compacted = self.shared.snapshot.load().compacted;
                        if floor < compacted {
                            return WatchPoll::Compacted { compact_revision: compacted };
                        }
                        read
                    }
                },
            };
            if !events.is_empty() {
                if let Err(error) = self.resolve_previous(&events) {
                    return WatchPoll::Failed(error);
                }
                let (events, upto) = (Events::new(events), self.cursor - 1);
                if let Some(recent) = self.member.recent() {
                    recent.leave(&self.spec, floor, upto, &events, &self.shared.shelf);
                }
                return WatchPoll::Events { events, revision: upto };
            }
            if more {
                cx.waker().wake_by_ref();
                return WatchPoll::Idle { synced_to: self.cursor - 1 };
            }
        }
    }

    /// What another watcher of the range was told, if it is what comes next here.
    fn left_by_others(&self, most: usize) -> Option<(Arc<Events>, i64)> {
        self.member.recent()?.find(&self.spec, self.cursor, most)
    }

    fn wants(&self, kind: EventKind, key: &[u8]) -> bool {
        let filtered = match kind {
            EventKind::Put => self.spec.no_put,
            EventKind::Delete => self.spec.no_delete,
        };
        !filtered && Span::from(&self.spec.range).contains(key)
    }

    /// `None`: the ring does not reach back to the cursor.
    fn read_ring(&mut self, revision: i64, max_events: usize) -> Option<Vec<Arc<Event>>> {
        let mut place = match self.place.take() {
            Some(place) => place,
            None => self.shared.ring.find(self.cursor)?,
        };
        let mut events: Vec<Arc<Event>> = Vec::new();
        let mut full = false;
        let mut visit = |event: &Arc<Event>| {
            if event.revision() < self.cursor {
                return true;
            }
            if events.len() >= max_events && events.last().is_some_and(|last| last.revision() < event.revision()) {
                full = true;
                return false;
            }
            if self.wants(event.kind, &event.kv.key) {
                events.push(Arc::clone(event));
            }
            true
        };
        if place.read(revision, &mut visit).is_none() {
            place = self.shared.ring.find(self.cursor)?;
            place.read(revision, &mut visit)?;
        }
        self.place = Some(place);
        self.cursor = match events.last() {
            Some(last) if full => last.revision() + 1,
            _ => revision + 1,
        };
        Some(events)
    }

    /// Reads on from the cursor in the backend; also returns whether it stopped before `revision`.
    fn read_history(&mut self, revision: i64, max_events: usize) -> Result<(Vec<Arc<Event>>, bool), Error> {
        let start = Revision { main: self.cursor, sub: 0 }.to_bytes();
        let end = Revision { main: revision + 1, sub: 0 }.to_bytes();
        let mut events = Vec::new();
        let (mut records, mut bytes, mut last) = (0, 0, 0);
        let mut stopped = None;
        let backend = Arc::clone(&self.shared.backend);
        backend.scan(Space::Revisions, &start, Some(&end), &mut |key, value| {
            let at = Revision::from_bytes(key).ok_or_else(|| Error::Storage("damaged revision key".into()))?;
            let full = records >= HISTORY_RECORDS || bytes >= HISTORY_BYTES || events.len() >= max_events;
            if full && at.main != last {
                stopped = Some(at.main);
                return Ok(false);
            }
            last = at.main;
            records += 1;
            let record = Record::decode(value)?;
            let kind = if record.is_tombstone() { EventKind::Delete } else { EventKind::Put };
            if self.wants(kind, record.key) {
                let event = Event::of(at, &Bytes::copy_from_slice(value))?;
                bytes += event.cost();
                events.push(Arc::new(event));
            }
            Ok(true)
        })?;
        self.cursor = stopped.unwrap_or(revision + 1);
        Ok((events, stopped.is_some()))
    }

    fn resolve_previous(&self, events: &[Arc<Event>]) -> Result<(), Error> {
        if !self.spec.prev_kv {
            return Ok(());
        }
        let open: Vec<(&Event, Revision)> =
            events.iter().filter_map(|event| event.unresolved().map(|at| (&**event, at))).collect();
        let at: Vec<Revision> = open.iter().map(|(_, at)| *at).collect();
        for ((event, at), bytes) in open.into_iter().zip(self.shared.records(&at)?) {
            event.resolve(bytes.map(|bytes| record::key_value(at, &bytes)).transpose()?);
        }
        Ok(())
    }
}
