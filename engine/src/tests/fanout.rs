//! Very many watchers: what they cost in memory and work, and that none costs the others anything.

use std::collections::HashSet;

use super::allocations::during;
use super::*;
use crate::{Events, WatchPoll, WatchSpec, Watcher};

fn watch(store: &Store, range: KeyRange) -> Watcher {
    let spec = WatchSpec { range, start_revision: 0, no_put: false, no_delete: false, prev_kv: false };
    store.engine.reader().watch(spec)
}

fn poll(watcher: &mut Watcher, bell: &Arc<Bell>) -> Option<Arc<Events>> {
    match bell.with(|cx| watcher.poll(cx, 1000)) {
        WatchPoll::Events { events, .. } => Some(events),
        WatchPoll::Idle { .. } => None,
        end => panic!("{end:?}"),
    }
}

/// A number from the environment, for runs larger than a test should be.
fn size(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().map_or(usual, |text| text.parse().unwrap())
}

#[test]
fn ten_thousand_watchers_of_one_prefix_share_what_they_are_told() {
    const WATCHERS: usize = 10_000;
    const ROUNDS: usize = 20;
    const EACH: usize = 32;
    let mut store = Store::new();
    let bell = Arc::new(Bell::default());
    let mut watchers: Vec<Watcher> = (0..WATCHERS).map(|_| watch(&store, span("k", "l"))).collect();
    // Never polled again after this.
    let mut stuck = watch(&store, span("k", "l"));
    assert!(watchers.iter_mut().chain([&mut stuck]).all(|watcher| poll(watcher, &bell).is_none()));
    let value = "v".repeat(1000);
    let mut pieces = HashSet::new();
    let (told, ()) = during(|| {
        for round in 0..ROUNDS {
            for number in 0..EACH {
                store.put(&format!("k{number}"), &value);
            }
            for watcher in &mut watchers {
                let events = poll(watcher, &bell).unwrap();
                assert_eq!(events.len(), EACH);
                assert_eq!(events[0].revision() as usize, 2 + round * EACH);
                pieces.insert(Arc::as_ptr(&events));
                assert!(poll(watcher, &bell).is_none());
            }
        }
    });
    assert!(pieces.len() <= ROUNDS, "{} pieces were made of {ROUNDS}", pieces.len());
    assert!(store.engine.shared.shelf.bytes() <= EngineOptions::default().shelf_bytes);
    // The puts themselves, lists of sleepers, and one piece a round: nothing for each watcher and event.
    let each = told.times as f64 / (WATCHERS * ROUNDS) as f64;
    assert!(each < 0.2, "{each} allocations for each watcher and round");
    let mut late = Vec::new();
    while let Some(events) = poll(&mut stuck, &bell) {
        late.extend(events.iter().map(|event| event.revision()));
    }
    assert_eq!(late, (2..2 + (ROUNDS * EACH) as i64).collect::<Vec<_>>(), "who was stuck misses nothing");
}

/// `KELSON_TEST_WATCHERS=1000000` for a million.
#[test]
fn idle_watchers_of_distinct_keys_cost_little_and_are_not_disturbed() {
    const MOST_BYTES: usize = 768;
    let count = size("KELSON_TEST_WATCHERS", 50_000);
    let mut store = Store::new();
    let bell = Arc::new(Bell::default());
    let (held, mut watchers) = during(|| {
        let watching = (0..count).map(|number| {
            let mut watcher = watch(&store, one(&format!("key-{number:09}")));
            assert!(poll(&mut watcher, &bell).is_none());
            watcher
        });
        watching.collect::<Vec<Watcher>>()
    });
    let each = held.bytes as usize / count;
    assert!(each <= MOST_BYTES, "{each} bytes for each");
    // A write wakes whom it concerns, and allocates no more than it does without them.
    let mut alone = Store::new();
    let write = |store: &mut Store| during(|| store.put("key-000000007", "v")).0.times;
    let (beside, without) = (write(&mut store), write(&mut alone));
    assert_eq!(bell.rings(), 1);
    assert!(beside <= without + 4, "{beside} allocations, {without} alone");
    assert_eq!(poll(&mut watchers[7], &bell).unwrap().len(), 1);
    let quiet = |at: usize, watchers: &mut Vec<Watcher>| poll(&mut watchers[at], &bell).is_none();
    assert!(quiet(7, &mut watchers) && quiet(0, &mut watchers) && quiet(count - 1, &mut watchers));
    assert_eq!(
        watchers.iter().filter(|watcher| watcher.progress() < 2).count(),
        0,
        "all know that nothing was for them"
    );
}
