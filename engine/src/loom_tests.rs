//! Every interleaving (up to a number of preemptions) of one writer with readers and watchers, on the real engine.
//!
//! `make loom` runs them. A lost wake-up shows as a deadlock, which loom reports; everything else is asserted.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::task::{Context, Wake, Waker};

use bytes::Bytes;
use loom::sync::{Condvar, Mutex};
use loom::thread;

use crate::command::{Op, Put, RangeRequest, Txn};
use crate::event::Event;
use crate::record::Record;
use crate::ring::RingWriter;
use crate::sync::AtomicI64;
use crate::{
    Applied, Command, Engine, EngineOptions, Error, KeyRange, MemoryBackend, Reader, Revision, WatchPoll, WatchSpec,
    Watcher,
};

/// Checks all interleavings with at most this many preemptions.
fn model(preemptions: usize, case: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 10_000;
    builder.check(case);
}

/// Lets a task sleep until it is woken; one that is never woken is a deadlock.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *self.rung.lock().unwrap() = true;
        self.changed.notify_one();
    }
}

impl Bell {
    fn wait(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.changed.wait(rung).unwrap();
        }
        *rung = false;
    }
}

/// The one writer, and the index of its last entry.
struct Writer {
    engine: Engine,
    index: u64,
}

impl Writer {
    /// A ring of `ring_events` events at most; nothing is cached.
    fn new(ring_events: usize) -> Writer {
        let options = EngineOptions { cache_bytes: 0, ring_events, ..EngineOptions::default() };
        Writer { engine: Engine::open_with(Arc::new(MemoryBackend::new()), options).unwrap(), index: 0 }
    }

    fn apply(&mut self, command: Command) {
        self.index += 1;
        let applied = Applied { term: 1, node: 1, index: self.index };
        self.engine.apply(applied, &[command], &[]).unwrap().remove(0).unwrap();
    }

    fn put(&mut self, key: &'static str) {
        self.apply(Command::Put(put(key, "value")));
    }

    fn watch(&self, range: KeyRange, start_revision: i64) -> Watcher {
        let spec = WatchSpec { range, start_revision, no_put: false, no_delete: false, prev_kv: false };
        self.engine.reader().watch(spec)
    }
}

fn put(key: &'static str, value: &'static str) -> Put {
    Put { key: Bytes::from_static(key.as_bytes()), value: Bytes::from_static(value.as_bytes()), ..Put::default() }
}

fn one(key: &'static str) -> KeyRange {
    KeyRange { start: Bytes::from_static(key.as_bytes()), end: Bytes::new() }
}

fn all() -> KeyRange {
    KeyRange { start: Bytes::from_static(b"\0"), end: Bytes::from_static(b"\0") }
}

/// Polls, sleeping where there is nothing, until `expected` (ascending revisions) have come: these and no others, each
/// once, and progress never ahead of what was delivered.
fn receive(watcher: &mut Watcher, max_events: usize, expected: &[i64]) {
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(bell.clone());
    let mut seen = 0;
    loop {
        // The first that has not been delivered.
        let missing = |seen: usize| expected.get(seen).copied().unwrap_or(i64::MAX);
        match watcher.poll(&mut Context::from_waker(&waker), max_events) {
            WatchPoll::Events { events, revision } => {
                for event in events.iter() {
                    assert_eq!(Some(&event.revision()), expected.get(seen), "after {seen} events");
                    seen += 1;
                }
                assert!(revision < missing(seen), "it says that {revision} is delivered");
                assert!(watcher.progress() < missing(seen));
            }
            WatchPoll::Idle { synced_to } => {
                assert!(synced_to < missing(seen), "{synced_to} passed over an event");
                assert!(watcher.progress() < missing(seen), "progress passed over an event");
                if seen == expected.len() {
                    return;
                }
                bell.wait();
            }
            end => panic!("{end:?}"),
        }
        if seen == expected.len() {
            return;
        }
    }
}

fn read(reader: &Reader, revision: i64) -> Result<(i64, Vec<(Bytes, Bytes)>), Error> {
    let request = RangeRequest::whole(all(), revision);
    let (current, response) = reader.range(&request)?;
    assert_eq!(response.count as usize, response.kvs.len());
    Ok((current, response.kvs.into_iter().map(|kv| (kv.key, kv.value)).collect()))
}

/// Two keys that change together, in the index and in the values, at every revision that a reader can ask for.
#[test]
fn loom_a_reader_sees_whole_states_and_never_goes_back() {
    model(3, || {
        let mut writer = Writer::new(8);
        let reader = writer.engine.reader();
        let write = |value| {
            let ops = vec![Op::Put(put("a", value)), Op::Put(put("b", value))];
            Command::Txn(Txn { compares: vec![], success: ops, failure: vec![] })
        };
        writer.apply(write("2"));
        let writing = thread::spawn(move || {
            writer.apply(write("3"));
            writer.apply(write("4"));
        });
        let mut last = 2;
        for _ in 0..3 {
            let seen = reader.revision();
            assert!(seen >= last, "the revision went from {last} back to {seen}");
            let (current, pairs) = read(&reader, 0).unwrap();
            assert!(current >= seen, "{seen} was published, {current} is read");
            let value = Bytes::from(current.to_string());
            assert_eq!(pairs, [("a".into(), value.clone()), ("b".into(), value)]);
            assert_eq!(read(&reader, 2).unwrap().1, [("a".into(), "2".into()), ("b".into(), "2".into())]);
            assert!(reader.applied().unwrap().index as i64 >= current - 1);
            last = current;
        }
        writing.join().unwrap();
        assert_eq!(reader.revision(), 4);
    });
}

/// Every read is either of a whole state or says that its revision was compacted.
#[test]
fn loom_a_compaction_never_leaves_a_part() {
    model(2, || {
        let mut writer = Writer::new(8);
        let reader = writer.engine.reader();
        for _ in 0..3 {
            writer.put("a");
        }
        let writing = thread::spawn(move || {
            writer.apply(Command::Compact { revision: 4 });
            while writer.engine.compaction_step().unwrap() {}
        });
        for revision in [3, 0] {
            match read(&reader, revision) {
                Ok((current, pairs)) => assert_eq!((current, pairs.len()), (4, 1)),
                Err(error) => assert_eq!((error, revision, reader.compacted_revision()), (Error::Compacted, 3, 4)),
            }
        }
        writing.join().unwrap();
        assert_eq!(read(&reader, 3), Err(Error::Compacted));
        assert_eq!(read(&reader, 4).unwrap().1.len(), 1);
    });
}

fn event(main: i64) -> Arc<Event> {
    let record = Record { create: main, version: 1, lease: 0, previous: None, key: b"k", value: b"" };
    Arc::new(Event::of(Revision { main, sub: 0 }, &record.encode()).unwrap())
}

/// A cursor that reads behind an appending, wrapping ring: nothing torn, skipped or repeated; where its place is gone it
/// is told, and the ring then says itself that it does not reach back so far.
#[test]
fn loom_a_cursor_skips_nothing_and_notices_that_it_was_lapped() {
    model(3, || {
        const LAST: i64 = 6;
        let mut writer = RingWriter::new(1, 2, 1 << 20);
        let ring = writer.reader();
        let published = Arc::new(AtomicI64::new(1));
        let mut place = ring.find(2).expect("nothing is dropped yet");
        let writing = thread::spawn({
            let published = published.clone();
            move || {
                for main in 2..=LAST {
                    writer.append(event(main));
                    published.store(main, Release);
                    writer.shrink();
                }
                writer
            }
        });
        let mut next = 2;
        for _ in 0..3 {
            let revision = published.load(Acquire);
            let told = place.read(revision, &mut |event| {
                // A place found for a revision begins with its segment.
                if event.revision() >= next {
                    assert_eq!(event.revision(), next);
                    next += 1;
                }
                true
            });
            if told.is_some() {
                assert!(next > revision, "{revision} was published and {next} not found");
                continue;
            }
            match ring.find(next) {
                Some(found) => place = found,
                // Lapped: history goes on from here, and later the ring can be entered again.
                None => {
                    assert!(published.load(Acquire) > next);
                    break;
                }
            }
        }
        drop(writing.join().unwrap());
    });
}

/// The watcher arms itself while the writer publishes: it sees the event when it looks again, or it is woken.
#[test]
fn loom_arming_while_the_writer_publishes() {
    model(3, || {
        let mut writer = Writer::new(8);
        let mut watcher = writer.watch(one("k"), 0);
        let writing = thread::spawn(move || {
            writer.put("k");
            writer.put("k");
        });
        receive(&mut watcher, 9, &[2, 3]);
        writing.join().unwrap();
    });
}

/// Events that do not concern the watcher move its progress on, and never past one that does.
#[test]
fn loom_progress_past_what_does_not_concern_it() {
    model(3, || {
        let mut writer = Writer::new(1);
        let mut watcher = writer.watch(one("k"), 0);
        let writing = thread::spawn(move || {
            writer.put("other");
            writer.put("k");
            writer.put("other");
        });
        receive(&mut watcher, 9, &[3]);
        writing.join().unwrap();
        let bell = Arc::new(Bell::default());
        let polled = watcher.poll(&mut Context::from_waker(&Waker::from(bell)), 9);
        assert!(matches!(polled, WatchPoll::Idle { synced_to: 4 }), "{polled:?}");
    });
}

/// A watcher whose filter drops what wakes it sleeps again, and is still woken by what it wants.
#[test]
fn loom_woken_for_nothing_and_armed_again() {
    model(2, || {
        let mut writer = Writer::new(8);
        let spec = WatchSpec { range: one("k"), start_revision: 0, no_put: true, no_delete: false, prev_kv: false };
        let mut watcher = writer.engine.reader().watch(spec);
        let writing = thread::spawn(move || {
            writer.put("k");
            let range = one("k");
            writer.apply(Command::DeleteRange(crate::command::DeleteRange { range, prev_kv: false }));
        });
        receive(&mut watcher, 9, &[3]);
        writing.join().unwrap();
    });
}

/// One watcher reads history and comes to its end while the ring moves on below it.
#[test]
fn loom_leaving_history_while_the_ring_moves() {
    model(3, || {
        let mut writer = Writer::new(1);
        for _ in 0..3 {
            writer.put("k");
        }
        // The ring begins behind its start: history first.
        let mut watcher = writer.watch(all(), 2);
        let writing = thread::spawn(move || {
            for _ in 0..3 {
                writer.put("k");
            }
        });
        receive(&mut watcher, 2, &[2, 3, 4, 5, 6, 7]);
        writing.join().unwrap();
    });
}

/// A watcher at the head is lapped while it reads: it goes on in history.
#[test]
fn loom_lapped_at_the_head() {
    model(3, || {
        let mut writer = Writer::new(1);
        let mut watcher = writer.watch(all(), 0);
        writer.put("k");
        receive(&mut watcher, 1, &[2]);
        let writing = thread::spawn(move || {
            for _ in 0..4 {
                writer.put("k");
            }
        });
        receive(&mut watcher, 1, &[3, 4, 5, 6]);
        writing.join().unwrap();
    });
}

/// History that is compacted while a watcher reads it ends the watch, or was read whole.
#[test]
fn loom_compaction_overtakes_a_watch() {
    model(2, || {
        let mut writer = Writer::new(1);
        for _ in 0..4 {
            writer.put("k");
        }
        let mut watcher = writer.watch(all(), 2);
        let writing = thread::spawn(move || {
            writer.apply(Command::Compact { revision: 5 });
            while writer.engine.compaction_step().unwrap() {}
        });
        let waker = Waker::from(Arc::new(Bell::default()));
        let mut next = 2;
        while next <= 5 {
            match watcher.poll(&mut Context::from_waker(&waker), 2) {
                WatchPoll::Events { events, revision } => {
                    for event in events.iter() {
                        assert_eq!(event.revision(), next);
                        next += 1;
                    }
                    assert_eq!(revision, next - 1);
                }
                WatchPoll::Compacted { compact_revision } => {
                    assert!(compact_revision == 5 && next < 5, "ended at {next}");
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        writing.join().unwrap();
    });
}

/// A listing that begins while a compaction does, and is read while that goes on: it lacks nothing.
#[test]
fn loom_a_compaction_waits_for_listings() {
    model(2, || {
        let mut writer = Writer::new(8);
        writer.put("a");
        let reader = writer.engine.reader();
        let writing = thread::spawn(move || {
            writer.put("a");
            writer.apply(Command::Compact { revision: 3 });
            writer.engine.compaction_step().unwrap();
        });
        let request = RangeRequest::whole(all(), 0);
        let listing = reader.listing(&request, 0, &|_, value| value).unwrap().unwrap();
        let mut seen = 0;
        listing
            .read(&mut |head, _| {
                seen = head.mod_revision;
                true
            })
            .unwrap();
        assert_eq!(seen, listing.revision);
        drop(listing);
        writing.join().unwrap();
    });
}

/// One watcher leaves its group while another in it is woken.
#[test]
fn loom_a_neighbour_leaves_while_the_group_is_woken() {
    model(2, || {
        let mut writer = Writer::new(8);
        let mut watcher = writer.watch(all(), 0);
        let mut neighbour = writer.watch(all(), 0);
        let waker = Waker::from(Arc::new(Bell::default()));
        assert!(matches!(neighbour.poll(&mut Context::from_waker(&waker), 9), WatchPoll::Idle { .. }));
        let writing = thread::spawn(move || writer.put("k"));
        let leaving = thread::spawn(move || drop(neighbour));
        receive(&mut watcher, 9, &[2]);
        writing.join().unwrap();
        leaving.join().unwrap();
    });
}

/// Two watchers of one range, each of which takes what the other has read: both are told everything, once.
#[test]
fn loom_neighbours_take_what_the_other_has_read() {
    model(2, || {
        let mut writer = Writer::new(8);
        let (mut watcher, mut neighbour) = (writer.watch(all(), 0), writer.watch(all(), 0));
        let writing = thread::spawn(move || {
            writer.put("k");
            writer.put("k");
        });
        let receiving = thread::spawn(move || receive(&mut neighbour, 9, &[2, 3]));
        receive(&mut watcher, 9, &[2, 3]);
        receiving.join().unwrap();
        writing.join().unwrap();
    });
}
