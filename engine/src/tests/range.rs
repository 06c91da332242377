//! Reads with every option.

use super::*;
use crate::command::{SortOrder, SortTarget};

fn store() -> Store {
    let mut store = Store::new();
    // Revisions 2 to 7; c is rewritten, so that keys, versions and revisions have different orders.
    for (key, value) in [("c", "1"), ("a", "9"), ("d", "5"), ("b", "7"), ("c", "3"), ("c", "2")] {
        store.put(key, value);
    }
    store
}

fn keys(store: &Store, request: RangeRequest) -> (String, bool, i64) {
    let (_, response) = store.engine.reader().range(&request).unwrap();
    (response.kvs.iter().map(|kv| text(&kv.key)).collect(), response.more, response.count)
}

#[test]
fn count_ignores_the_limit() {
    let store = store();
    assert_eq!(keys(&store, RangeRequest { limit: 2, ..request(all()) }), ("ab".into(), true, 4));
    assert_eq!(keys(&store, RangeRequest { limit: 4, ..request(all()) }), ("abcd".into(), false, 4));
    assert_eq!(keys(&store, RangeRequest { limit: -1, ..request(all()) }), ("abcd".into(), false, 4));
    assert_eq!(keys(&store, RangeRequest { count_only: true, limit: 1, ..request(all()) }), ("".into(), false, 4));
}

#[test]
fn sorts_first_and_truncates_then() {
    let store = store();
    let sorted = |sort_target, sort_order, limit| {
        keys(&store, RangeRequest { sort_target, sort_order, limit, ..request(all()) }).0
    };
    assert_eq!(sorted(SortTarget::Value, SortOrder::Ascend, 0), "cdba");
    assert_eq!(sorted(SortTarget::Value, SortOrder::Descend, 2), "ab");
    assert_eq!(sorted(SortTarget::ModRevision, SortOrder::Ascend, 3), "adb");
    assert_eq!(sorted(SortTarget::CreateRevision, SortOrder::Descend, 1), "b");
    assert_eq!(sorted(SortTarget::Version, SortOrder::Descend, 1), "c");
    assert_eq!(sorted(SortTarget::Key, SortOrder::Descend, 3), "dcb");
    // Without an order only what the limit leaves (and one key more) is sorted, as in etcd.
    assert_eq!(sorted(SortTarget::ModRevision, SortOrder::None, 2), "ab");
    assert_eq!(sorted(SortTarget::ModRevision, SortOrder::None, 3), "adb");
}

#[test]
fn filters_apply_before_the_limit_and_not_to_the_count() {
    let store = store();
    let after = RangeRequest { min_mod_revision: 4, limit: 2, ..request(all()) };
    assert_eq!(keys(&store, after), ("bc".into(), true, 4));
    let created = RangeRequest { min_create_revision: 3, max_create_revision: 4, ..request(all()) };
    assert_eq!(keys(&store, created), ("ad".into(), false, 4));
    let old = RangeRequest { max_mod_revision: 4, revision: 6, ..request(all()) };
    assert_eq!(keys(&store, old), ("ad".into(), false, 4));
}

#[test]
fn old_revisions_and_their_bounds() {
    let mut store = store();
    assert_eq!(store.at(2, all()), "c=1");
    assert_eq!(store.at(6, all()), "a=9 b=7 c=3 d=5");
    assert_eq!(store.at(8, all()), "!FutureRevision");
    let (header, _) = store.engine.reader().range(&RangeRequest { revision: 2, ..request(all()) }).unwrap();
    assert_eq!(header, 7, "the header carries the current revision");
    store.compact_fully(5);
    assert_eq!(store.at(4, all()), "!Compacted");
    assert_eq!(store.at(5, all()), "a=9 b=7 c=1 d=5");
    assert_eq!(store.at(6, one("c")), "c=3");
}

#[test]
fn keys_only_has_no_value_and_no_lease_but_all_revisions() {
    let mut store = store();
    store.apply(Command::LeaseGrant { id: 5, ttl: 60 });
    store.apply(Command::Put(Put { lease: 5, ..put("c", "4") }));
    for revision in [0, 8, 7] {
        let request = RangeRequest { keys_only: true, revision, ..request(one("c")) };
        let (_, response) = store.engine.reader().range(&request).unwrap();
        let kv = &response.kvs[0];
        assert!(kv.value.is_empty() && kv.lease == 0);
        let newest = if revision == 7 { 7 } else { 8 };
        assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (2, newest, newest - 4));
    }
}

#[test]
fn range_ends() {
    let store = store();
    for (range, found) in [
        (one("b"), "b"),
        (one("bb"), ""),
        (span("b", "d"), "bc"),
        (span("b", "\0"), "bcd"),
        (span("", "\0"), "abcd"),
        (span("\0", "\0"), "abcd"),
        (span("c", "b"), ""),
        (span("b", "b"), ""),
        (span("aa", "cz"), "bc"),
    ] {
        assert_eq!(keys(&store, request(range.clone())).0, found, "{range:?}");
    }
}

#[test]
fn counting_many_keys_at_any_revision() {
    let mut store = Store::new();
    for number in 0..500 {
        store.put(&format!("{number:04}"), "v");
    }
    for number in (0..500).step_by(3) {
        store.delete(&format!("{number:04}"));
    }
    let count = |revision, range| {
        let request = RangeRequest { revision, count_only: true, ..request(range) };
        store.engine.reader().range(&request).unwrap().1.count
    };
    assert_eq!(count(0, all()), 500 - 167);
    assert_eq!(count(501, all()), 500);
    assert_eq!(count(101, all()), 100);
    assert_eq!(count(511, all()), 490);
    assert_eq!(count(501, span("0100", "0200")), 100);
    assert_eq!(count(0, span("0100", "0200")), 67);
    assert_eq!(store.engine.reader().key_count(), 333);
}

#[test]
fn large_reads_find_every_value_wherever_it_lies() {
    let backend = Arc::new(super::observed::Observed::default());
    let options = EngineOptions { cache_bytes: 0, ..EngineOptions::default() };
    let mut store = Store { engine: Engine::open_with(backend.clone(), options).unwrap(), index: 0 };
    let pad = |key: usize| format!("{key:05}");
    // Scattered over few revisions, then one transaction so large that reading through it is not worth it, then dense.
    for key in 0..600 {
        store.put(&pad(key * 7 % 600), &format!("v{}", key * 7 % 600));
    }
    let ops = (0..5000).map(|key| Op::Put(put(&format!("x{key:05}"), "x"))).collect();
    store.apply(Command::Txn(txn(vec![], ops, vec![])));
    for key in (0..600).step_by(2) {
        store.put(&pad(key), &format!("w{key}"));
    }
    let check = |revision, range: KeyRange, expected: &dyn Fn(usize) -> String| {
        let (_, response) = store.engine.reader().range(&RangeRequest { revision, ..request(range) }).unwrap();
        assert!(response.kvs.len() > 64);
        for kv in &response.kvs {
            assert_eq!(text(&kv.value), expected(text(&kv.key).parse().unwrap()));
        }
    };
    let opening = backend.lookups.load(Ordering::SeqCst);
    check(601, span("0", "1"), &|key| format!("v{key}"));
    assert_eq!(backend.lookups.load(Ordering::SeqCst), opening, "dense history is read in one go");
    check(0, span("0", "1"), &|key| if key % 2 == 0 { format!("w{key}") } else { format!("v{key}") });
    check(0, span("00100", "00300"), &|key| if key % 2 == 0 { format!("w{key}") } else { format!("v{key}") });
    check(650, span("00000", "00200"), &|key| {
        if key < 96 && key % 2 == 0 { format!("w{key}") } else { format!("v{key}") }
    });
    assert_eq!(store.at(0, span("x", "y")).split(' ').count(), 5000);
}
