//! Leases and the keys on them.

use super::*;
use crate::{EventKind, MAX_LEASE_TTL, WatchPoll, WatchSpec};

fn with_leases() -> Store {
    let mut store = Store::new();
    store.apply(Command::LeaseGrant { id: 1, ttl: 10 });
    store.apply(Command::LeaseGrant { id: 2, ttl: 20 });
    store
}

fn leased(key: &str, lease: i64) -> Command {
    Command::Put(Put { lease, ..put(key, "v") })
}

fn keys(store: &Store, id: i64) -> Vec<String> {
    store.engine.reader().lease(id).unwrap().keys.iter().map(text).collect()
}

#[test]
fn granting() {
    let mut store = with_leases();
    let leases: Vec<_> = store.engine.reader().leases().map(|lease| (lease.id, lease.ttl)).collect();
    assert_eq!(leases, [(1, 10), (2, 20)]);
    assert_eq!(store.try_apply(Command::LeaseGrant { id: 1, ttl: 10 }), Err(Error::LeaseExists));
    let long = Command::LeaseGrant { id: 3, ttl: MAX_LEASE_TTL + 1 };
    assert_eq!(store.try_apply(long), Err(Error::LeaseTtlTooLarge));
    assert_eq!(store.try_apply(Command::LeaseRevoke { id: 3 }), Err(Error::LeaseNotFound));
    assert_eq!(store.try_apply(leased("k", 3)), Err(Error::LeaseNotFound));
    assert_eq!(store.engine.reader().revision(), 1, "leases are not revisions");
}

#[test]
fn a_key_hangs_on_one_lease_at_a_time() {
    let mut store = with_leases();
    store.apply(leased("k", 1));
    store.apply(leased("k", 1));
    assert_eq!(keys(&store, 1), ["k"]);
    store.apply(leased("k", 2));
    assert_eq!((keys(&store, 1), keys(&store, 2)), (vec![], vec!["k".into()]));
    store.put("k", "unleased");
    assert_eq!(keys(&store, 2).len(), 0);
    store.apply(leased("k", 2));
    store.delete("k");
    assert_eq!(keys(&store, 2).len(), 0);
}

#[test]
fn revocation_deletes_all_keys_at_one_revision() {
    let mut store = with_leases();
    for key in ["c", "a", "b"] {
        store.apply(leased(key, 1));
    }
    store.apply(leased("other", 2));
    let spec = WatchSpec { range: all(), start_revision: 0, no_put: false, no_delete: false, prev_kv: false };
    let mut watcher = store.engine.reader().watch(spec);
    let Outcome::LeaseRevoke { revision } = store.apply(Command::LeaseRevoke { id: 1 }) else { panic!("not revoked") };
    assert_eq!(revision, 6);
    let WatchPoll::Events { events, revision: 6 } = Arc::new(Bell::default()).with(|cx| watcher.poll(cx, 1)) else {
        panic!("not in one piece")
    };
    let deleted: Vec<_> = events.iter().map(|event| (event.kind, text(&event.kv.key), event.revision())).collect();
    assert_eq!(deleted, ["a", "b", "c"].map(|key| (EventKind::Delete, key.to_string(), 6)));
    assert_eq!(store.now(), "other=v");
    assert_eq!(store.engine.reader().lease(1), None);
    store.apply(Command::LeaseGrant { id: 3, ttl: 10 });
    let Outcome::LeaseRevoke { revision } = store.apply(Command::LeaseRevoke { id: 3 }) else { panic!("not revoked") };
    assert_eq!(revision, 6, "a lease without keys leaves no revision");
}
