//! Events on their way to watchers, read once for all who stand at the same place and watch the same.
//!
//! A thousand watchers of one prefix are told the same events in the same pieces. Who comes first reads them from the
//! ring or from history and leaves them with the group of its range; the others take them from there, with what the
//! first has made of them. The group points at them weakly: what is kept alive for those who are still to come is
//! bounded for the whole store, the oldest going first, so a watcher that never comes costs nothing.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::{Arc, OnceLock, Weak};

use crate::event::Event;
use crate::sync::Mutex;
use crate::watch::WatchSpec;

/// Pieces that a group points at.
const RECENT: usize = 8;

/// Events in revision order, as one poll of a watcher finds them.
#[derive(Debug)]
pub struct Events {
    events: Vec<Arc<Event>>,
    encoded: OnceLock<Encoded>,
}

/// Events as a caller has encoded them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// One behind the other.
    pub bytes: Vec<u8>,
    /// Where each ends in `bytes`.
    pub ends: Vec<usize>,
    /// Which of them tell their previous version: those of a later revision, if any.
    pub previous_after: Option<i64>,
}

impl Deref for Events {
    type Target = [Arc<Event>];

    fn deref(&self) -> &[Arc<Event>] {
        &self.events
    }
}

impl Events {
    pub(crate) fn new(events: Vec<Arc<Event>>) -> Arc<Events> {
        Arc::new(Events { events, encoded: OnceLock::new() })
    }

    /// What `encode` makes of the events; kept for everyone who is told the same events and wants to tell previous
    /// versions from the same revision on. All callers of a store must encode alike. For another revision it is made anew
    /// and not kept: the revision moves with compactions, which are rare.
    pub fn encoded<T>(
        &self,
        previous_after: Option<i64>,
        encode: impl Fn(&[Arc<Event>]) -> Encoded,
        told: impl FnOnce(&Encoded) -> T,
    ) -> T {
        let kept = self.encoded.get_or_init(|| encode(&self.events));
        if kept.previous_after == previous_after { told(kept) } else { told(&encode(&self.events)) }
    }

    /// Bytes that it keeps in memory, about: its events, which may have left the ring, and them encoded.
    fn cost(&self) -> usize {
        let previous = |event: &Event| event.prev_kv().map_or(0, |kv| kv.key.len() + kv.value.len());
        2 * self.events.iter().map(|event| event.cost() + previous(event)).sum::<usize>()
    }
}

/// One piece that a group points at.
struct Piece {
    /// Who stands from `floor` up to the first event's revision, both included, is to be told these next.
    floor: i64,
    first: i64,
    /// All events up to here are among them.
    upto: i64,
    length: usize,
    wants: Wants,
    events: Weak<Events>,
}

/// What of a watch, beside its range, decides what it is told.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Wants {
    no_put: bool,
    no_delete: bool,
    prev_kv: bool,
}

impl From<&WatchSpec> for Wants {
    fn from(spec: &WatchSpec) -> Wants {
        Wants { no_put: spec.no_put, no_delete: spec.no_delete, prev_kv: spec.prev_kv }
    }
}

/// The newest pieces of a group.
#[derive(Default)]
pub(crate) struct Recent {
    pieces: Mutex<VecDeque<Piece>>,
}

impl Recent {
    /// What is to be told next to a watcher that stands at `cursor`, and up to where that leads; no more than `most`
    /// events.
    pub fn find(&self, spec: &WatchSpec, cursor: i64, most: usize) -> Option<(Arc<Events>, i64)> {
        let wants = Wants::from(spec);
        let pieces = self.pieces.lock();
        let fits = |piece: &&Piece| {
            piece.floor <= cursor && cursor <= piece.first && piece.length <= most && piece.wants == wants
        };
        let piece = pieces.iter().rev().find(fits)?;
        Some((piece.events.upgrade()?, piece.upto))
    }

    /// Leaves what was read from `floor` up to `upto` for the others, and keeps it on `shelf`.
    pub fn leave(&self, spec: &WatchSpec, floor: i64, upto: i64, events: &Arc<Events>, shelf: &Shelf) {
        let Some(first) = events.first().map(|event| event.revision()) else { return };
        let piece =
            Piece { floor, first, upto, length: events.len(), wants: spec.into(), events: Arc::downgrade(events) };
        if !shelf.keep(events) {
            return;
        }
        let mut pieces = self.pieces.lock();
        if pieces.len() == RECENT {
            pieces.pop_front();
        }
        pieces.push_back(piece);
    }
}

/// What keeps pieces alive for those who are still to come: the newest of all groups together.
pub(crate) struct Shelf {
    kept: Mutex<Kept>,
    /// In bytes.
    most: usize,
}

#[derive(Default)]
struct Kept {
    /// With what each costs.
    pieces: VecDeque<(Arc<Events>, usize)>,
    bytes: usize,
}

impl Shelf {
    /// At most so many bytes; 0 keeps nothing, and every watcher reads for itself.
    pub fn new(most: usize) -> Shelf {
        Shelf { kept: Mutex::new(Kept::default()), most }
    }

    /// Keeps a piece, and drops the oldest for it; `false` for one that is larger than a quarter of the shelf.
    fn keep(&self, events: &Arc<Events>) -> bool {
        let cost = events.cost();
        if cost > self.most / 4 {
            return false;
        }
        let mut gone = Vec::new();
        let mut kept = self.kept.lock();
        kept.pieces.push_back((Arc::clone(events), cost));
        kept.bytes += cost;
        while kept.bytes > self.most {
            let Some((oldest, cost)) = kept.pieces.pop_front() else { break };
            kept.bytes -= cost;
            gone.push(oldest);
        }
        // Freed when the lock is.
        drop(kept);
        true
    }

    /// Bytes kept.
    #[cfg(all(test, not(loom)))]
    pub fn bytes(&self) -> usize {
        self.kept.lock().bytes
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::Revision;
    use crate::command::KeyRange;
    use crate::record::Record;

    fn spec() -> WatchSpec {
        let range = KeyRange { start: "k".into(), end: "l".into() };
        WatchSpec { range, start_revision: 0, no_put: false, no_delete: false, prev_kv: false }
    }

    fn events(mains: std::ops::RangeInclusive<i64>, length: usize) -> Arc<Events> {
        let value = vec![0; length];
        let event = |main| {
            let record = Record { create: main, version: 1, lease: 0, previous: None, key: b"k", value: &value };
            Arc::new(Event::of(Revision { main, sub: 0 }, &record.encode()).unwrap())
        };
        Events::new(mains.map(event).collect())
    }

    #[test]
    fn who_stands_within_the_gap_before_a_piece_takes_it_and_nobody_else() {
        let (recent, shelf) = (Recent::default(), Shelf::new(1 << 20));
        let piece = events(7..=9, 1);
        recent.leave(&spec(), 5, 12, &piece, &shelf);
        let found = |spec: &WatchSpec, cursor, most| recent.find(spec, cursor, most).map(|(_, upto)| upto);
        for (cursor, expected) in [(4, None), (5, Some(12)), (6, Some(12)), (7, Some(12)), (8, None), (13, None)] {
            assert_eq!(found(&spec(), cursor, 3), expected, "at {cursor}");
        }
        assert_eq!(found(&spec(), 5, 2), None, "more than was asked for");
        for other in [
            WatchSpec { no_put: true, ..spec() },
            WatchSpec { no_delete: true, ..spec() },
            WatchSpec { prev_kv: true, ..spec() },
        ] {
            assert_eq!(found(&other, 5, 3), None, "{other:?}");
        }
    }

    #[test]
    fn the_shelf_is_bounded_and_the_oldest_goes_first() {
        let shelf = Shelf::new(100_000);
        let recent: Vec<Recent> = (0..100).map(|_| Recent::default()).collect();
        for (number, recent) in (1..).zip(&recent) {
            recent.leave(&spec(), number, number, &events(number..=number, 1000), &shelf);
            assert!(shelf.bytes() <= 100_000);
        }
        let found: Vec<bool> = (1..).zip(&recent).map(|(at, recent)| recent.find(&spec(), at, 9).is_some()).collect();
        let kept = found.iter().filter(|found| **found).count();
        assert!((20..60).contains(&kept), "{kept}");
        assert!(found[100 - kept..].iter().all(|found| *found), "the newest are kept");
        let large = events(1..=1, 50_000);
        recent[0].leave(&spec(), 1, 1, &large, &shelf);
        assert!(recent[0].find(&spec(), 1, 9).is_none(), "what would push all others out is not kept");
    }

    #[test]
    fn encoded_once_for_one_revision() {
        let piece = events(7..=9, 1);
        let times = std::cell::Cell::new(0);
        let encode = |previous_after| {
            let encode = |events: &[Arc<Event>]| {
                times.set(times.get() + 1);
                Encoded { bytes: vec![events.len() as u8], ends: Vec::new(), previous_after }
            };
            piece.encoded(previous_after, encode, |encoded| encoded.previous_after)
        };
        assert_eq!((encode(Some(3)), encode(Some(3)), times.get()), (Some(3), Some(3), 1));
        assert_eq!((encode(Some(4)), encode(Some(4)), times.get()), (Some(4), Some(4), 3));
        assert_eq!((encode(Some(3)), encode(None), times.get()), (Some(3), None, 4));
    }
}
