//! Revisions and transactions, as etcd defines them.

use super::*;
use crate::command::{OpResponse, TxnResponse};

fn put_op(key: &str, value: &str) -> Op {
    Op::Put(put(key, value))
}

fn get_op(key: &str) -> Op {
    Op::Range(request(one(key)))
}

fn run(store: &mut Store, txn: Txn) -> (i64, TxnResponse) {
    let Outcome::Txn { revision, response } = store.apply(Command::Txn(txn)) else { panic!("not a transaction") };
    (revision, response)
}

#[test]
fn revisions_are_dense_from_two() {
    let mut store = Store::new();
    assert_eq!(store.engine.reader().revision(), 1);
    assert_eq!(store.put("a", "1"), 2);
    assert_eq!(store.put("b", "1"), 3);
    assert_eq!(store.delete("absent"), 3);
    assert_eq!(store.delete("a"), 4);
    assert_eq!(run(&mut store, txn(vec![], vec![get_op("b")], vec![])).0, 4);
    let ops = vec![put_op("c", "1"), put_op("d", "1"), Op::DeleteRange(DeleteRange { range: one("b"), prev_kv: true })];
    assert_eq!(run(&mut store, txn(vec![], ops, vec![])).0, 5);
    assert_eq!(store.put("e", "1"), 6);
    assert_eq!(store.at(5, all()), "c=1 d=1");
}

#[test]
fn a_transaction_reads_its_own_writes() {
    let mut store = Store::new();
    store.put("k", "old");
    let ops = vec![get_op("k"), put_op("k", "new"), get_op("k"), Op::Range(request(all()))];
    let (revision, response) = run(&mut store, txn(vec![], ops, vec![]));
    assert_eq!(revision, 3);
    let seen: Vec<_> = response
        .responses
        .iter()
        .filter_map(|response| match response {
            OpResponse::Range(range) => Some((text(&range.kvs[0].value), range.kvs[0].mod_revision)),
            _ => None,
        })
        .collect();
    assert_eq!(seen, [("old".into(), 2), ("new".into(), 3), ("new".into(), 3)]);
}

#[test]
fn a_refused_operation_leaves_nothing_behind() {
    let mut store = Store::new();
    store.put("a", "1");
    let before = store.engine.state_hash().unwrap();
    let refused = |op: Op| Command::Txn(txn(vec![], vec![put_op("a", "2"), put_op("b", "2"), op], vec![]));
    let lease = Put { lease: 99, ..put("c", "2") };
    let value = Put { ignore_value: true, ..put("absent", "") };
    let kept_lease = Put { ignore_lease: true, ..put("absent", "x") };
    for (op, error) in [
        (Op::Put(lease.clone()), Error::LeaseNotFound),
        (Op::Put(value.clone()), Error::KeyNotFound),
        (Op::Put(kept_lease), Error::KeyNotFound),
        (Op::Range(RangeRequest { revision: 3, ..request(one("a")) }), Error::FutureRevision),
        (Op::Txn(txn(vec![], vec![Op::Put(lease)], vec![])), Error::LeaseNotFound),
    ] {
        assert_eq!(store.try_apply(refused(op)), Err(error));
        assert_eq!(store.now(), "a=1");
        assert_eq!(store.engine.reader().revision(), 2);
    }
    assert_eq!(store.try_apply(Command::Put(value)), Err(Error::KeyNotFound));
    assert_eq!(store.engine.state_hash().unwrap(), before);
    assert_eq!(store.put("b", "3"), 3);
}

#[test]
fn an_operation_in_the_branch_not_taken_is_not_checked() {
    let mut store = Store::new();
    let never = Op::Put(Put { lease: 99, ..put("c", "2") });
    let missing = compare(one("k"), CompareResult::Equal, CompareTarget::Version(0));
    let (revision, response) = run(&mut store, txn(vec![missing], vec![put_op("k", "1")], vec![never]));
    assert_eq!((revision, response.succeeded), (2, true));
}

#[test]
fn comparing_what_does_not_exist() {
    let mut store = Store::new();
    store.put("present", "v");
    use CompareResult::*;
    use CompareTarget::*;
    for (range, result, target, holds) in [
        (one("absent"), Equal, Version(0), true),
        (one("absent"), Equal, CreateRevision(0), true),
        (one("absent"), Equal, ModRevision(0), true),
        (one("absent"), Equal, Lease(0), true),
        (one("absent"), Less, ModRevision(1), true),
        (one("absent"), NotEqual, Version(0), false),
        (one("absent"), Equal, Value(Bytes::new()), false),
        (one("absent"), NotEqual, Value(bytes("x")), false),
        (span("q", "r"), Equal, CreateRevision(0), true),
        (span("q", "r"), NotEqual, Value(bytes("x")), false),
        (one("present"), Equal, Value(bytes("v")), true),
        (one("present"), Greater, CreateRevision(0), true),
    ] {
        let compare = compare(range, result, target);
        let (_, response) = run(&mut store, txn(vec![compare.clone()], vec![], vec![]));
        assert_eq!(response.succeeded, holds, "{compare:?}");
    }
}

#[test]
fn a_range_compare_holds_for_every_key_or_not_at_all() {
    let mut store = Store::new();
    for (key, value) in [("a1", "x"), ("a2", "x"), ("a3", "y")] {
        store.put(key, value);
    }
    let mut holds = |end: &str, result, target| {
        run(&mut store, txn(vec![compare(span("a", end), result, target)], vec![], vec![])).1.succeeded
    };
    assert!(holds("a3", CompareResult::Equal, CompareTarget::Value(bytes("x"))));
    assert!(!holds("b", CompareResult::Equal, CompareTarget::Value(bytes("x"))));
    assert!(holds("b", CompareResult::Equal, CompareTarget::Version(1)));
    assert!(!holds("b", CompareResult::Less, CompareTarget::ModRevision(4)));
    assert!(holds("b", CompareResult::Less, CompareTarget::ModRevision(5)));
}

#[test]
fn nested_transactions_share_one_revision_and_compare_the_state_before() {
    let mut store = Store::new();
    let is_new = compare(one("k"), CompareResult::Equal, CompareTarget::Version(0));
    let nested = txn(vec![is_new], vec![put_op("n", "was absent")], vec![put_op("n", "was there")]);
    let (revision, response) = run(&mut store, txn(vec![], vec![put_op("k", "1"), Op::Txn(nested)], vec![]));
    assert_eq!(revision, 2);
    let OpResponse::Txn(inner) = &response.responses[1] else { panic!("{response:?}") };
    assert!(inner.succeeded, "etcd evaluates all compares before the first operation");
    assert_eq!(store.now(), "k=1 n=was absent");
}

#[test]
fn versions_and_create_revisions_follow_the_life_of_a_key() {
    let mut store = Store::new();
    store.put("k", "1");
    store.put("k", "2");
    store.delete("k");
    store.put("k", "3");
    let at = |revision| {
        let (_, response) = store.engine.reader().range(&RangeRequest { revision, ..request(one("k")) }).unwrap();
        response.kvs.first().map(|kv| (kv.create_revision, kv.mod_revision, kv.version))
    };
    assert_eq!([2, 3, 4, 5].map(at), [Some((2, 2, 1)), Some((2, 3, 2)), None, Some((5, 5, 1))]);
}

#[test]
fn ignore_value_and_ignore_lease_keep_what_was_there() {
    let mut store = Store::new();
    store.apply(Command::LeaseGrant { id: 7, ttl: 60 });
    store.apply(Command::Put(Put { lease: 7, ..put("k", "v") }));
    store.apply(Command::Put(Put { ignore_lease: true, ..put("k", "w") }));
    assert_eq!(store.engine.reader().lease(7).unwrap().keys, ["k"]);
    let outcome = store.apply(Command::Put(Put { ignore_value: true, prev_kv: true, ..put("k", "") }));
    let Outcome::Put { prev_kv: Some(previous), .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!((text(&previous.value), previous.lease), ("w".into(), 7));
    assert_eq!(store.now(), "k=w");
    assert_eq!(store.engine.reader().lease(7).unwrap().keys.len(), 0);
}

#[test]
fn one_key_written_twice_in_one_transaction_is_well_defined() {
    let mut store = Store::new();
    let delete = Op::DeleteRange(DeleteRange { range: one("k"), prev_kv: false });
    let revive = Op::Put(Put { ignore_value: true, ..put("k", "") });
    store.put("k", "0");
    run(&mut store, txn(vec![], vec![put_op("k", "1"), delete, revive, put_op("k", "2")], vec![]));
    assert_eq!(store.now(), "k=2");
    assert_eq!(store.at(2, all()), "k=0");
}

#[test]
fn delete_ranges() {
    let mut store = Store::new();
    for key in ["a", "b", "c", "d"] {
        store.put(key, "1");
    }
    for (range, count) in [(span("b", "b"), 0), (span("c", "b"), 0), (span("b", "d"), 2), (span("b", "\0"), 1)] {
        let outcome = store.apply(Command::DeleteRange(DeleteRange { range: range.clone(), prev_kv: true }));
        let Outcome::DeleteRange { deleted, prev_kvs, .. } = outcome else { panic!("{outcome:?}") };
        assert_eq!((deleted, prev_kvs.len()), (count, count as usize), "{range:?}");
    }
    assert_eq!(store.now(), "a=1");
}
