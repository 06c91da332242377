//! Watches: once, in order, whole, published, and nobody woken in vain.

use super::*;
use crate::{EventKind, Events, WatchPoll, WatchSpec, Watcher};

fn spec(range: KeyRange, start_revision: i64) -> WatchSpec {
    WatchSpec { range, start_revision, no_put: false, no_delete: false, prev_kv: false }
}

fn tiny_ring() -> EngineOptions {
    EngineOptions { cache_bytes: 0, ring_events: 1, ..EngineOptions::default() }
}

/// Polls until idle; gives `revision:key` for puts and `revision!key` for deletions.
fn drain(watcher: &mut Watcher, max_events: usize) -> Vec<String> {
    let mut seen = Vec::new();
    let bell = Arc::new(Bell::default());
    loop {
        let rings = bell.rings();
        match bell.with(|cx| watcher.poll(cx, max_events)) {
            WatchPoll::Events { events, revision } => {
                assert_eq!(events.last().unwrap().revision(), events.last().unwrap().kv.mod_revision);
                assert!(events.last().unwrap().revision() <= revision);
                seen.extend(events.iter().map(|event| {
                    let mark = if event.kind == EventKind::Put { ':' } else { '!' };
                    format!("{}{mark}{}", event.revision(), text(&event.kv.key))
                }));
            }
            WatchPoll::Idle { .. } if bell.rings() > rings => {}
            WatchPoll::Idle { .. } => return seen,
            end => {
                seen.push(format!("{end:?}"));
                return seen;
            }
        }
    }
}

#[test]
fn from_now_on() {
    let mut store = Store::new();
    store.put("a", "before");
    let mut watcher = store.engine.reader().watch(spec(all(), 0));
    assert_eq!(drain(&mut watcher, 10).len(), 0);
    store.put("a", "1");
    store.delete("a");
    store.delete("a");
    assert_eq!(drain(&mut watcher, 10), ["3:a", "4!a"]);
    assert_eq!(drain(&mut watcher, 10).len(), 0);
}

#[test]
fn from_history_through_the_ring_to_the_head_without_gap_or_repetition() {
    for options in [EngineOptions::default(), tiny_ring()] {
        let mut store = Store::with(options);
        for number in 0..600 {
            store.put(&format!("{:03}", number % 7), "v");
        }
        for (start, max_events) in [(1, 1), (2, 50), (300, 7), (601, 1000)] {
            let mut watcher = store.engine.reader().watch(spec(all(), start));
            let seen = drain(&mut watcher, max_events);
            let expected: Vec<_> =
                (0..600).map(|number| (number + 2, number % 7)).filter(|(revision, _)| *revision >= start).collect();
            let expected: Vec<_> = expected.iter().map(|(revision, key)| format!("{revision}:{key:03}")).collect();
            assert_eq!(seen, expected);
            assert_eq!(watcher.progress(), 601);
        }
        let mut watcher = store.engine.reader().watch(spec(all(), 0));
        store.put("end", "v");
        assert_eq!(drain(&mut watcher, 10), ["602:end"]);
    }
}

#[test]
fn a_slow_watcher_falls_off_the_ring_and_misses_nothing() {
    let mut store = Store::with(EngineOptions { ring_events: 300, ..EngineOptions::default() });
    let mut slow = store.engine.reader().watch(spec(span("k", "l"), 0));
    let mut fast = store.engine.reader().watch(spec(span("k", "l"), 0));
    let mut expected = Vec::new();
    let mut fast_seen = Vec::new();
    for number in 0..3000 {
        let key = if number % 3 == 0 { "k" } else { "other" };
        let revision = store.put(key, "v");
        if key == "k" {
            expected.push(format!("{revision}:k"));
        }
        if number % 10 == 0 {
            fast_seen.extend(drain(&mut fast, 4));
        }
        if number == 1000 {
            let bell = Arc::new(Bell::default());
            assert!(matches!(bell.with(|cx| slow.poll(cx, 2)), WatchPoll::Events { revision: 5, .. }));
        }
    }
    fast_seen.extend(drain(&mut fast, 4));
    assert_eq!(fast_seen, expected);
    assert_eq!(drain(&mut slow, 5), expected[2..]);
}

/// One poll that finds events.
fn next(watcher: &mut Watcher, max_events: usize) -> Arc<Events> {
    match Arc::new(Bell::default()).with(|cx| watcher.poll(cx, max_events)) {
        WatchPoll::Events { events, .. } => events,
        other => panic!("{other:?}"),
    }
}

#[test]
fn watchers_of_one_range_that_stand_at_one_place_are_told_the_very_same() {
    for options in [EngineOptions::default(), tiny_ring()] {
        let mut store = Store::with(options);
        let watch = |store: &Store, range, start| store.engine.reader().watch(spec(range, start));
        let mut same: Vec<Watcher> = (0..5).map(|_| watch(&store, span("k", "l"), 0)).collect();
        let mut other = watch(&store, span("k", "m"), 0);
        for number in 0..10 {
            store.put(if number % 2 == 0 { "k" } else { "other" }, "v");
        }
        let first = next(&mut same[0], 3);
        assert_eq!(first.iter().map(|event| event.revision()).collect::<Vec<_>>(), [2, 4, 6]);
        for watcher in &mut same[1..4] {
            assert!(Arc::ptr_eq(&first, &next(watcher, 3)));
        }
        assert!(!Arc::ptr_eq(&first, &next(&mut other, 3)));
        // One is told less at a time, one comes when more is there: each of them all, once.
        store.put("k", "v");
        assert_eq!(drain(&mut same[4], 1), ["2:k", "4:k", "6:k", "8:k", "10:k", "12:k"]);
        assert_eq!(drain(&mut watch(&store, span("k", "l"), 5), 9), ["6:k", "8:k", "10:k", "12:k"]);
        for watcher in &mut same[..4] {
            assert_eq!(drain(watcher, 9), ["8:k", "10:k", "12:k"]);
        }
        drop(same);
        store.put("k", "v");
        assert_eq!(drain(&mut other, 9), ["8:k", "10:k", "12:k", "13:k"]);
    }
}

#[test]
fn a_revision_is_never_split() {
    for options in [EngineOptions::default(), tiny_ring()] {
        let mut store = Store::with(options);
        for round in 0..5 {
            let ops = (0..300).map(|key| Op::Put(put(&format!("{key:03}"), &round.to_string()))).collect();
            store.apply(Command::Txn(txn(vec![], ops, vec![])));
        }
        let mut watcher = store.engine.reader().watch(spec(all(), 1));
        let bell = Arc::new(Bell::default());
        for round in 0..5 {
            let WatchPoll::Events { events, revision } = bell.with(|cx| watcher.poll(cx, 1)) else {
                panic!("no events")
            };
            assert_eq!((events.len(), revision), (300, round + 2));
            assert!(events.iter().all(|event| event.revision() == revision));
            let keys: Vec<_> = events.iter().map(|event| event.kv.key.clone()).collect();
            assert!(keys.is_sorted(), "in the order of the operations");
        }
    }
}

#[test]
fn ranges_and_filters() {
    let mut store = Store::new();
    let reader = store.engine.reader();
    let mut watchers = [
        reader.watch(spec(one("b"), 0)),
        reader.watch(spec(span("b", "d"), 0)),
        reader.watch(spec(span("c", "\0"), 0)),
        reader.watch(WatchSpec { no_put: true, ..spec(all(), 0) }),
        reader.watch(WatchSpec { no_delete: true, ..spec(all(), 0) }),
        reader.watch(spec(span("c", "b"), 0)),
    ];
    for key in ["a", "b", "c", "d"] {
        store.put(key, "v");
    }
    store.delete("b");
    let seen = watchers.each_mut().map(|watcher| drain(watcher, 10).join(" "));
    assert_eq!(seen, ["3:b 6!b", "3:b 4:c 6!b", "4:c 5:d", "6!b", "2:a 3:b 4:c 5:d", ""]);
}

#[test]
fn the_previous_value_comes_on_request() {
    for options in [EngineOptions::default(), tiny_ring()] {
        let mut store = Store::with(options);
        store.put("k", "1");
        store.put("k", "2");
        store.delete("k");
        store.put("k", "3");
        let mut watcher = store.engine.reader().watch(WatchSpec { prev_kv: true, ..spec(all(), 1) });
        let WatchPoll::Events { events, .. } = Arc::new(Bell::default()).with(|cx| watcher.poll(cx, 10)) else {
            panic!("no events")
        };
        let before: Vec<_> = events.iter().map(|event| event.prev_kv().map(|kv| text(&kv.value))).collect();
        assert_eq!(before, [None, Some("1".into()), Some("2".into()), None]);
        assert_eq!(events[2].prev_kv().map(|kv| (kv.create_revision, kv.mod_revision, kv.version)), Some((2, 3, 2)));
    }
}

#[test]
fn compacted_history_is_an_end_not_a_gap() {
    for options in [EngineOptions::default(), tiny_ring()] {
        let mut store = Store::with(options);
        for _ in 0..600 {
            store.put("k", "v");
        }
        store.delete("k");
        let mut lagging = store.engine.reader().watch(spec(all(), 10));
        store.compact_fully(602);
        for start in [1, 601] {
            let seen = drain(&mut store.engine.reader().watch(spec(all(), start)), 10);
            assert_eq!(seen, ["Compacted { compact_revision: 602 }"], "from {start}");
        }
        assert_eq!(drain(&mut lagging, 10), ["Compacted { compact_revision: 602 }"]);
        let seen = drain(&mut store.engine.reader().watch(spec(all(), 602)), 10);
        assert_eq!(seen, ["602!k"], "a watch may start at the compacted revision, a tombstone included");
    }
}

#[test]
fn a_start_in_the_future_waits_for_it() {
    let mut store = Store::new();
    let mut watcher = store.engine.reader().watch(spec(one("k"), 5));
    for _ in 0..3 {
        store.put("k", "v");
        assert_eq!(drain(&mut watcher, 10).len(), 0);
    }
    assert_eq!(watcher.progress(), 4);
    store.put("k", "v");
    assert_eq!(drain(&mut watcher, 10), ["5:k"]);
}

#[test]
fn only_those_concerned_are_woken() {
    let mut store = Store::new();
    let reader = store.engine.reader();
    let idle = |range: KeyRange| {
        let (mut watcher, bell) = (reader.watch(spec(range, 0)), Arc::new(Bell::default()));
        assert!(matches!(bell.with(|cx| watcher.poll(cx, 9)), WatchPoll::Idle { .. }));
        (watcher, bell)
    };
    let mut keys: Vec<_> = (0..200).map(|key| idle(one(&format!("k{key:03}")))).collect();
    let ranges: Vec<_> = (0..200).map(|key| idle(span(&format!("k{key:03}"), &format!("k{:03}", key + 3)))).collect();
    let from = idle(span("k100", "\0"));
    store.put("k150", "v");
    store.put("k150", "v");
    let rung = |watchers: &[(Watcher, Arc<Bell>)]| {
        (0..watchers.len()).filter(|&index| watchers[index].1.rings() > 0).collect::<Vec<_>>()
    };
    assert_eq!(rung(&keys), [150]);
    assert_eq!(rung(&ranges), [148, 149, 150]);
    assert_eq!(from.1.rings(), 1, "woken once until it polls");
    assert_eq!(drain(&mut keys[150].0, 9), ["2:k150", "3:k150"]);
    assert_eq!(keys[0].0.progress(), 3, "those not woken are known to be up to date");
    drop(ranges);
    store.put("k020", "v");
    assert_eq!(rung(&keys), [20, 150]);
}

#[test]
fn an_idle_watcher_is_at_the_head_when_woken_however_far_the_ring_has_moved() {
    let mut store = Store::with(EngineOptions { ring_events: 1, ..EngineOptions::default() });
    let mut watcher = store.engine.reader().watch(spec(one("k"), 0));
    let bell = Arc::new(Bell::default());
    assert!(matches!(bell.with(|cx| watcher.poll(cx, 9)), WatchPoll::Idle { synced_to: 1 }));
    for _ in 0..2000 {
        store.put("other", "v");
    }
    assert_eq!((bell.rings(), watcher.progress()), (0, 2001));
    // History is gone, and it does not matter: nothing in it was for this watcher.
    store.compact_fully(2001);
    store.put("k", "v");
    assert_eq!((bell.rings(), watcher.progress()), (1, 2001));
    assert_eq!(drain(&mut watcher, 9), ["2002:k"]);
}

#[test]
fn a_long_search_through_history_comes_in_pieces() {
    let mut store = Store::with(tiny_ring());
    store.put("k", "v");
    for _ in 0..3 {
        let ops = (0..4000).map(|key| Op::Put(put(&format!("other{key}"), "v"))).collect();
        store.apply(Command::Txn(txn(vec![], ops, vec![])));
    }
    let mut watcher = store.engine.reader().watch(spec(one("x"), 1));
    let bell = Arc::new(Bell::default());
    assert!(matches!(bell.with(|cx| watcher.poll(cx, 9)), WatchPoll::Idle { synced_to: 3 | 4 }));
    assert_eq!(bell.rings(), 1, "it wants to go on");
    assert_eq!(drain(&mut watcher, 9).len(), 0);
    assert_eq!(watcher.progress(), 5);
}

#[test]
fn threads_that_sleep_until_woken_see_every_event_once() {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    for options in [EngineOptions::default(), EngineOptions { ring_events: 300, ..EngineOptions::default() }] {
        let mut store = Store::with(options);
        const WRITES: i64 = 5000;
        const LOST: std::time::Duration = std::time::Duration::from_secs(60);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let range = if thread % 2 == 0 { all() } else { one("3") };
                let mut watcher = store.engine.reader().watch(spec(range, 0));
                scope.spawn(move || {
                    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
                    let mut seen = Vec::new();
                    while seen.last() != Some(&(WRITES + 1)) {
                        match watcher.poll(&mut Context::from_waker(&waker), 16) {
                            WatchPoll::Events { events, .. } => {
                                seen.extend(events.iter().map(|event| event.revision()))
                            }
                            WatchPoll::Idle { .. } => {
                                let asleep = std::time::Instant::now();
                                std::thread::park_timeout(LOST);
                                assert!(asleep.elapsed() < LOST, "a wake-up was lost after {:?}", seen.last());
                            }
                            end => panic!("{end:?}"),
                        }
                    }
                    let step = if thread % 2 == 0 { 1 } else { 10 };
                    let expected: Vec<i64> = (2..WRITES + 2).filter(|revision| (revision - 1) % step == 0).collect();
                    assert_eq!(seen, expected);
                });
            }
            for write in 1..=WRITES {
                store.put(if write % 10 == 0 { "3" } else { "4" }, "v");
            }
        });
    }
}

#[test]
fn history_that_is_compacted_while_it_is_read_never_leaves_a_gap() {
    let mut store = Store::with(tiny_ring());
    let stop = std::sync::atomic::AtomicBool::new(false);
    for _ in 0..700 {
        store.put("k", "v");
    }
    std::thread::scope(|scope| {
        let (reader, stop) = (store.engine.reader(), &stop);
        let watching = scope.spawn(move || {
            let mut ends = 0;
            while !stop.load(Ordering::Relaxed) {
                // Within the compaction's reach, so that it often overtakes the watch.
                let start = (reader.compacted_revision() - 1).max(1);
                let mut watcher = reader.watch(spec(all(), start));
                let mut next = start;
                for _ in 0..8 {
                    match Arc::new(Bell::default()).with(|cx| watcher.poll(cx, 50)) {
                        WatchPoll::Events { events, revision } => {
                            for event in events.iter() {
                                assert_eq!(event.revision(), next.max(2));
                                next = event.revision() + 1;
                            }
                            assert_eq!(revision, next - 1);
                        }
                        WatchPoll::Compacted { compact_revision } => {
                            assert!(next < compact_revision);
                            ends += 1;
                            break;
                        }
                        WatchPoll::Idle { .. } => break,
                        WatchPoll::Failed(error) => panic!("{error}"),
                    }
                }
            }
            ends
        });
        for round in 0..6000 {
            let revision = store.put("k", "v");
            if round % 5 == 0 {
                store.compact_fully(revision - 600);
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(watching.join().unwrap() > 0);
    });
}
