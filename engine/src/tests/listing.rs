//! Ranges that are read while they are sent.

use super::*;
use crate::backend::{Batch, Space};
use crate::{Head, Listing, Revision};

fn listing(store: &Store, request: &RangeRequest) -> Option<Listing> {
    store.engine.reader().listing(request, 0, &size).unwrap()
}

/// Bytes of a key and its value.
fn size(head: &Head, value: usize) -> usize {
    head.key.len() + value
}

/// What is read, `key=value`, up to `most` keys.
fn read(listing: &Listing, most: usize) -> Result<Vec<String>, Error> {
    let mut pairs = Vec::new();
    listing.read(&mut |head, value| {
        pairs.push(format!("{}={}", String::from_utf8_lossy(head.key), String::from_utf8_lossy(value)));
        pairs.len() < most
    })?;
    Ok(pairs)
}

fn key(number: usize) -> String {
    format!("key/{number:04}")
}

#[test]
fn it_is_in_the_order_of_keys_however_the_records_lie() {
    // Written in order, in some other order, by large transactions of which it holds little, and with all that mixed.
    let orders: [&dyn Fn(usize) -> usize; 2] = [&|number| number, &|number| number * 7 % 1000];
    for (order, others) in orders.into_iter().flat_map(|order| [(order, 0), (order, 20)]) {
        let mut store = Store::with(EngineOptions { cache_bytes: 0, ..EngineOptions::default() });
        for number in (0..1000).map(order) {
            let mut ops = vec![Op::Put(put(&key(number), &"x".repeat(number)))];
            ops.extend((0..others).map(|other| Op::Put(put(&format!("other/{number}/{other}"), "y"))));
            store.apply(Command::Txn(txn(vec![], ops, vec![])));
        }
        let request = RangeRequest { limit: 990, ..request(span("key/", "key0")) };
        let listing = listing(&store, &request).unwrap();
        assert_eq!((listing.count, listing.more, listing.revision), (1000, true, 1001));
        let expected: Vec<String> = (0..990).map(|number| format!("{}={}", key(number), "x".repeat(number))).collect();
        assert_eq!(read(&listing, usize::MAX).unwrap(), expected);
        assert_eq!(listing.size, expected.iter().map(|pair| pair.len() - 1).sum::<usize>());
        for most in [1, 63, 700] {
            assert_eq!(read(&listing, most).unwrap(), expected[..most]);
        }
    }
}

#[test]
fn what_is_not_known_beforehand_or_not_worth_it_is_left_to_others() {
    let mut store = Store::new();
    (0..10).for_each(|number| _ = store.put(&key(number), "old"));
    let before = store.put(&key(3), "new");
    assert!(listing(&store, &request(all())).is_some());
    let older = |revision| listing(&store, &RangeRequest { revision, ..request(all()) }).is_some();
    assert_eq!((older(before), older(before - 1)), (true, false));
    let least = |least| store.engine.reader().listing(&request(all()), least, &size).unwrap().is_some();
    assert_eq!((least(110), least(111)), (true, false));
    let ahead = RangeRequest { revision: before + 1, ..request(all()) };
    assert!(matches!(store.engine.reader().listing(&ahead, 0, &size), Err(Error::FutureRevision)));
}

#[test]
fn a_compaction_waits_for_those_that_began_before_it_and_for_no_others() {
    let mut store = Store::with(EngineOptions { cache_bytes: 0, ..EngineOptions::default() });
    let write = |store: &mut Store, value: &str| (0..100).map(|number| store.put(&key(number), value)).last().unwrap();
    write(&mut store, "old");
    let old = listing(&store, &request(all())).unwrap();
    let revision = write(&mut store, "new");
    let all_are = |listing: &Listing, value: &str| {
        let expected: Vec<String> = (0..100).map(|number| format!("{}={value}", key(number))).collect();
        assert_eq!(read(listing, usize::MAX).unwrap(), expected);
    };
    store.apply(Command::Compact { revision });
    // Neither when there is nothing else to do nor beside other work.
    (0..10).for_each(|_| assert!(store.engine.compaction_step().unwrap(), "it is done"));
    (0..10).for_each(|_| _ = store.put("other", "x"));
    all_are(&old, "old");
    let neighbour = listing(&store, &request(span("key/", "key0"))).unwrap();
    drop(old);
    while store.engine.compaction_step().unwrap() {}
    assert_eq!(store.engine.reader().history_count(), 9, "those of the other key are not compacted");
    all_are(&neighbour, "new");
}

#[test]
fn a_record_that_is_missing_is_an_error_that_names_it() {
    for (keys, lost) in [(100, 40), (100, 99), (10, 4)] {
        let mut store = Store::with(EngineOptions { cache_bytes: 0, ..EngineOptions::default() });
        (0..keys).for_each(|number| _ = store.put(&key(number), "x"));
        let at = Revision { main: lost as i64 + 2, sub: 0 };
        let mut batch = Batch::default();
        batch.delete(Space::Revisions, &at.to_bytes());
        store.engine.shared.backend.write(batch).unwrap();
        let listing = listing(&store, &request(all())).unwrap();
        let Err(Error::Storage(text)) = read(&listing, usize::MAX) else { panic!("it is lost") };
        assert!(text.contains(&format!("revision {}", at.main)), "{text}");
        assert_eq!(read(&listing, lost).unwrap().len(), lost);
    }
}

#[test]
fn nothing_is_missing_while_history_is_compacted() {
    let mut store = Store::with(EngineOptions { cache_bytes: 0, ..EngineOptions::default() });
    let stop = std::sync::atomic::AtomicBool::new(false);
    (0..100).for_each(|number| _ = store.put(&key(number), "0"));
    std::thread::scope(|scope| {
        let (reader, stop) = (store.engine.reader(), &stop);
        let reads = scope.spawn(move || {
            let mut reads = 0;
            while !stop.load(Ordering::Relaxed) {
                let listing = reader.listing(&request(all()), 0, &size).unwrap().unwrap();
                let (mut keys, mut newest) = (0, 0);
                listing
                    .read(&mut |head, _| {
                        (keys, newest) = (keys + 1, newest.max(head.mod_revision));
                        true
                    })
                    .unwrap();
                assert_eq!((keys, newest), (100, listing.revision));
                reads += 1;
            }
            reads
        });
        let mut round = 0;
        while round < 3998 || store.engine.compaction_pending() {
            if round < 3998 {
                let revision = store.put(&key(round % 100), "x");
                if round % 7 == 0 {
                    store.apply(Command::Compact { revision });
                }
            } else {
                stop.store(true, Ordering::Relaxed);
                store.engine.compaction_step().unwrap();
            }
            round += 1;
        }
        assert!(reads.join().unwrap() > 0);
    });
    assert_eq!(store.engine.reader().history_count(), 0);
}
