//! The newest events, in memory, for all watchers: appended by the writer, read without a lock.
//!
//! A linked list of segments of fixed size. A slot is set once and a `next` pointer is set once, so a reader that
//! holds a segment reads on with nothing but atomic loads. The writer drops the oldest segments when the ring holds
//! too many events or bytes; readers keep only a weak pointer between polls, so none of them can keep memory alive:
//! one that finds its segment gone reads history from the backend instead.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use crate::event::Event;
use crate::sync::{self, ArcSwap, OnceLock};

/// Slots in a segment. Under loom so few that every case crosses from one segment into the next.
const SEGMENT: usize = if cfg!(all(test, loom)) { 2 } else { 256 };

/// A run of events in revision order.
pub(crate) struct Segment {
    /// Every event with this revision or a later one is in this segment or behind it.
    floor: i64,
    slots: Box<[OnceLock<Arc<Event>>]>,
    next: OnceLock<Arc<Segment>>,
}

impl Segment {
    fn new(floor: i64) -> Arc<Segment> {
        let slots = (0..SEGMENT).map(|_| OnceLock::new()).collect();
        Arc::new(Segment { floor, slots, next: OnceLock::new() })
    }
}

/// The writer's side.
pub(crate) struct RingWriter {
    segments: VecDeque<(Arc<Segment>, usize)>,
    /// Slots taken in the newest segment.
    filled: usize,
    last_revision: i64,
    events: usize,
    bytes: usize,
    max_events: usize,
    max_bytes: usize,
    oldest: Arc<ArcSwap<Segment>>,
}

/// The readers' side.
#[derive(Clone)]
pub(crate) struct Ring {
    oldest: Arc<ArcSwap<Segment>>,
}

/// A reader's place in the ring; it keeps nothing alive.
#[derive(Clone)]
pub(crate) struct Place {
    segment: Weak<Segment>,
    slot: usize,
}

impl RingWriter {
    /// An empty ring for events after `revision`. It holds at most `max_events` and `max_bytes`, rounded up to
    /// whole segments of 256 events or an eighth of the bytes, and never less than the newest segment.
    pub fn new(revision: i64, max_events: usize, max_bytes: usize) -> RingWriter {
        let first = Segment::new(revision + 1);
        RingWriter {
            oldest: Arc::new(ArcSwap::new(Arc::clone(&first))),
            segments: VecDeque::from([(first, 0)]),
            filled: 0,
            last_revision: revision,
            events: 0,
            bytes: 0,
            max_events,
            max_bytes,
        }
    }

    pub fn reader(&self) -> Ring {
        Ring { oldest: Arc::clone(&self.oldest) }
    }

    /// Appends one event. Readers see it when its revision is published.
    pub fn append(&mut self, event: Arc<Event>) {
        let cost = event.cost();
        let revision = event.revision();
        let (newest, bytes) = self.segments.back_mut().expect("there is always a newest segment");
        let newest = if self.filled == SEGMENT || (*bytes > 0 && *bytes + cost > self.max_bytes / 8) {
            // A segment that begins within a revision holds all of the next ones only.
            let floor = if revision == self.last_revision { revision + 1 } else { revision };
            let fresh = Segment::new(floor);
            // Nobody else sets it: there is one writer, and this segment was the newest until now.
            let _ = newest.next.set(Arc::clone(&fresh));
            self.filled = 0;
            self.segments.push_back((Arc::clone(&fresh), cost));
            fresh
        } else {
            *bytes += cost;
            Arc::clone(newest)
        };
        let _ = newest.slots[self.filled].set(event);
        self.filled += 1;
        self.events += 1;
        self.bytes += cost;
        self.last_revision = revision;
    }

    /// Drops the oldest segments while the bounds are exceeded. Called after publication.
    pub fn shrink(&mut self) {
        let mut shrunk = false;
        while self.segments.len() > 1 && (self.events > self.max_events || self.bytes > self.max_bytes) {
            let Some((gone, bytes)) = self.segments.pop_front() else { break };
            self.events -= gone.slots.iter().take_while(|slot| slot.get().is_some()).count();
            self.bytes -= bytes;
            shrunk = true;
        }
        if let Some((oldest, _)) = self.segments.front().filter(|_| shrunk) {
            self.oldest.store(Arc::clone(oldest));
        }
    }
}

impl Ring {
    /// The place from which every event with `revision` or a later one can be read; `None` if the ring does not
    /// reach that far back.
    pub fn find(&self, revision: i64) -> Option<Place> {
        let mut segment = self.oldest.load_full();
        if segment.floor > revision {
            return None;
        }
        while let Some(next) = segment.next.get().filter(|next| next.floor <= revision) {
            segment = Arc::clone(next);
        }
        Some(Place { segment: Arc::downgrade(&segment), slot: 0 })
    }
}

impl Place {
    /// Visits the events from here on up to `revision` (inclusive) and moves behind each one for which `visit`
    /// returns `true`; stops at the first `false`. Returns `None` when the place has been dropped from the ring.
    pub fn read(&mut self, revision: i64, visit: &mut dyn FnMut(&Arc<Event>) -> bool) -> Option<()> {
        let mut segment = sync::upgrade(&self.segment)?;
        loop {
            if self.slot == SEGMENT || segment.slots[self.slot].get().is_none() {
                // An early end of a segment is known by its successor. The slot is looked at again after that: it
                // may have been filled in between.
                let Some(next) = segment.next.get() else { return Some(()) };
                if self.slot == SEGMENT || segment.slots[self.slot].get().is_none() {
                    let next = Arc::clone(next);
                    self.segment = Arc::downgrade(&next);
                    self.slot = 0;
                    segment = next;
                    continue;
                }
            }
            let Some(event) = segment.slots[self.slot].get() else { continue };
            if event.revision() > revision || !visit(event) {
                return Some(());
            }
            self.slot += 1;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::Revision;
    use crate::record::Record;

    fn event(main: i64, sub: u32, length: usize) -> Arc<Event> {
        let value = vec![0; length];
        let record = Record { create: main, version: 1, lease: 0, previous: None, key: b"k", value: &value };
        Arc::new(Event::of(Revision { main, sub }, &record.encode()).unwrap())
    }

    fn read(place: &mut Place, upto: i64) -> Option<Vec<i64>> {
        let mut seen = Vec::new();
        place.read(upto, &mut |event| {
            seen.push(event.revision());
            true
        })?;
        Some(seen)
    }

    #[test]
    fn reads_on_across_segments_up_to_the_published_revision() {
        let mut writer = RingWriter::new(1, 10_000, 1 << 20);
        let mut place = writer.reader().find(2).unwrap();
        for main in 2..=1000 {
            writer.append(event(main, 0, 0));
        }
        assert_eq!(read(&mut place, 600).unwrap(), (2..=600).collect::<Vec<_>>());
        assert_eq!(read(&mut place, 600).unwrap(), []);
        assert_eq!(read(&mut place, 1000).unwrap(), (601..=1000).collect::<Vec<_>>());
        let mut late = writer.reader().find(990).unwrap();
        assert!(
            read(&mut late, 1000).unwrap().ends_with(&[989, 990, 991, 992, 993, 994, 995, 996, 997, 998, 999, 1000])
        );
    }

    #[test]
    fn a_dropped_place_is_noticed_and_the_floor_rises() {
        let mut writer = RingWriter::new(1, 600, 1 << 20);
        let mut place = writer.reader().find(2).unwrap();
        for main in 2..=2000 {
            writer.append(event(main, 0, 0));
            writer.shrink();
        }
        assert_eq!(read(&mut place, 2000), None);
        assert!(writer.reader().find(2).is_none());
        assert!(writer.events <= 600 + SEGMENT);
        let floor = writer.reader().oldest.load().floor;
        let mut place = writer.reader().find(floor).unwrap();
        assert_eq!(read(&mut place, 2000).unwrap(), (floor..=2000).collect::<Vec<_>>());
    }

    #[test]
    fn bytes_bound_it_too_and_huge_events_pass() {
        let mut writer = RingWriter::new(1, 10_000, 64 << 10);
        for main in 2..=500 {
            writer.append(event(main, 0, if main % 50 == 0 { 100 << 10 } else { 1000 }));
            writer.shrink();
            assert!(writer.bytes <= (64 << 10) + (110 << 10), "{}", writer.bytes);
        }
        let floor = writer.reader().oldest.load().floor;
        let mut place = writer.reader().find(floor).unwrap();
        assert_eq!(read(&mut place, 500).unwrap(), (floor..=500).collect::<Vec<_>>());
    }

    #[test]
    fn a_segment_that_begins_within_a_revision_does_not_claim_it() {
        let mut writer = RingWriter::new(1, 10, 1 << 20);
        for sub in 0..300 {
            writer.append(event(2, sub, 0));
        }
        writer.append(event(3, 0, 0));
        writer.shrink();
        assert!(writer.reader().find(2).is_none(), "the first part of revision 2 is gone");
        assert!(writer.reader().find(3).is_some());
    }

    #[test]
    fn readers_while_writing_see_each_event_once() {
        let mut writer = RingWriter::new(1, 100_000, 64 << 20);
        let ring = writer.reader();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                let mut place = ring.find(2).unwrap();
                scope.spawn(move || {
                    let mut expected = 2;
                    while expected <= 20_000 {
                        for revision in read(&mut place, i64::MAX).unwrap() {
                            assert_eq!(revision, expected);
                            expected += 1;
                        }
                    }
                });
            }
            for main in 2..=20_000 {
                writer.append(event(main, 0, 0));
            }
        });
    }
}
