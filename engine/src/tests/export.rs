//! What is exported stands still, and founds a state that nobody can tell from the first.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::{Store, all, bytes, delete_range, position, put, request, txn};
use crate::auth::{Auth, AuthCommand};
use crate::backend::{Backend, Space};
use crate::command::{Op, Put, RangeRequest};
use crate::{
    Alarm, AlarmAction, AlarmKind, Applied, Command, Engine, Error, Importer, LeaseTime, MemoryBackend, Reader,
    Revision, Write,
};

/// Owned, to compare.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owned {
    at: Revision,
    tombstone: bool,
    key: Bytes,
    value: Bytes,
    create_revision: i64,
    version: i64,
    lease: i64,
}

impl Owned {
    fn borrowed(&self) -> Write<'_> {
        let Owned { at, tombstone, create_revision, version, lease, .. } = *self;
        Write { at, tombstone, key: &self.key, value: &self.value, create_revision, version, lease }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Exported {
    revision: i64,
    compacted: i64,
    applied: Option<Applied>,
    writes: Vec<Owned>,
    leases: Vec<LeaseTime>,
    alarms: Vec<Alarm>,
    auth: Auth,
}

fn exported(reader: &Reader, mut between: impl FnMut()) -> Exported {
    let read = |export: &crate::Export| -> Result<Exported, Error> {
        let (mut writes, mut leases) = (Vec::new(), Vec::new());
        between();
        export.writes::<Error>(|write| {
            let Write { at, tombstone, key, value, create_revision, version, lease } = *write;
            let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
            writes.push(Owned { at, tombstone, key, value, create_revision, version, lease });
            Ok(())
        })?;
        export.leases::<Error>(|lease| {
            leases.push(lease);
            Ok(())
        })?;
        let (alarms, auth) = (export.alarms()?.to_vec(), export.auth()?);
        let (revision, compacted) = (export.revision(), export.compacted_revision());
        Ok(Exported { revision, compacted, applied: export.applied(), writes, leases, alarms, auth })
    };
    reader.export(read).unwrap()
}

fn import(from: &Exported) -> Result<Arc<MemoryBackend>, Error> {
    let backend = Arc::new(MemoryBackend::new());
    let mut importer = Importer::new(backend.clone(), from.compacted)?;
    from.writes.iter().try_for_each(|write| importer.write(&write.borrowed()))?;
    from.leases.iter().try_for_each(|lease| importer.lease(*lease))?;
    from.alarms.iter().for_each(|alarm| importer.alarm(*alarm));
    importer.auth(&from.auth);
    importer.finish(from.revision, from.compacted, position(1), &[("origin", bytes("test"))])?;
    Ok(backend)
}

fn imported(from: &Exported) -> Store {
    Store { engine: Engine::open(import(from).unwrap()).unwrap(), index: 1 }
}

/// Everything that a client can read: all keys at every revision, and the leases with their keys.
fn readable(reader: &Reader) -> impl PartialEq + std::fmt::Debug + use<> {
    let at = |revision| reader.range(&RangeRequest { revision, ..request(all()) });
    let revisions: Vec<_> = (reader.compacted_revision().max(1)..=reader.revision()).map(at).collect();
    let ids: Vec<i64> = exported(reader, || ()).leases.iter().map(|lease| lease.id).collect();
    let leases: Vec<_> = ids.iter().map(|&id| reader.lease(id)).collect();
    let hash = reader.hash_kv(0).map(|kv| (kv.hash, kv.hash_revision));
    (reader.revision(), reader.compacted_revision(), reader.key_count(), revisions, leases, reader.alarms(), hash)
}

fn with_lease(key: &str, lease: i64) -> Command {
    Command::Put(Put { lease, ..put(key, "held") })
}

fn sample() -> Store {
    let mut store = Store::new();
    store.apply(Command::LeaseGrant { id: 7, ttl: 60 });
    store.apply(Command::LeaseGrant { id: -9, ttl: 30 });
    store.put("a", "1");
    store.put("a", "2");
    store.apply(with_lease("b", 7));
    store.delete("a");
    let many = txn(vec![], vec![Op::Put(put("c", "1")), Op::Put(put("d", "1")), delete_range("b")], vec![]);
    store.apply(Command::Txn(many));
    store.put("a", "3");
    store
}

#[test]
fn an_export_is_imported_whole() {
    let mut store = sample();
    store.apply(Command::Auth(AuthCommand::RoleAdd { name: "reader".into() }));
    store.apply(Command::Auth(AuthCommand::UserAdd { name: "ann".into(), hash: bytes("hash"), no_password: false }));
    store.apply(Command::Auth(AuthCommand::UserGrantRole { user: "ann".into(), role: "reader".into() }));
    store.apply(Command::LeaseCheckpoint { leases: vec![(7, 11)] });
    store.apply(Command::Alarm { action: AlarmAction::Activate, member: 3, alarm: AlarmKind::NoSpace });
    for compact in [0, 4, 6, 7] {
        if compact > 0 {
            store.compact_fully(compact);
        }
        let export = exported(&store.engine.reader(), || ());
        let again = imported(&export);
        assert_eq!(
            format!("{:?}", readable(&again.engine.reader())),
            format!("{:?}", readable(&store.engine.reader()))
        );
        assert_eq!(
            Exported { applied: None, ..exported(&again.engine.reader(), || ()) },
            Exported { applied: None, ..export }
        );
        assert_eq!(again.engine.meta("origin").unwrap(), Some(bytes("test")));
        assert_eq!(again.engine.applied(), Some(position(1)));
        assert_eq!(again.engine.reader().lease(7).map(|lease| lease.remaining), Some(11));
        assert_eq!(again.engine.reader().alarms().len(), 1);
        assert_eq!(again.engine.reader().auth().user("ann").map(|user| user.roles.len()), Some(1));
    }
}

#[test]
fn what_a_compaction_has_yet_to_free_is_not_exported() {
    let mut many = Store::new();
    for number in 0..5_000 {
        many.put(&format!("{:03}", number % 100), "x");
    }
    many.apply(Command::Compact { revision: 4_000 });
    assert!(many.engine.compaction_pending());
    let export = exported(&many.engine.reader(), || ());
    assert_eq!(export.writes.len(), 100 + 1_001);
    while many.engine.compaction_step().unwrap() {}
    assert_eq!(exported(&many.engine.reader(), || ()), export);
    assert_eq!(readable(&imported(&export).engine.reader()), readable(&many.engine.reader()));
}

#[test]
fn writes_and_compactions_meanwhile_do_not_show() {
    let mut store = sample();
    let reader = store.engine.reader();
    let before = exported(&reader, || ());
    let during = exported(&reader, || {
        store.put("new", "1");
        store.apply(Command::LeaseRevoke { id: 7 });
        store.compact_fully(8);
    });
    assert_eq!(during, before);
    assert_eq!(exported(&reader, || ()).compacted, 8);
}

#[test]
fn the_newest_write_may_be_compacted_away_in_what_is_imported() {
    let mut store = Store::new();
    store.put("a", "1");
    store.delete("a");
    store.compact_fully(3);
    let mut export = exported(&store.engine.reader(), || ());
    // etcd before 3.5.16 drops a tombstone at the compacted revision.
    export.writes.clear();
    let mut again = imported(&export);
    assert_eq!((again.engine.reader().revision(), again.now().as_str()), (3, ""));
    assert_eq!(again.put("b", "1"), 4);
    // And a jump of the revision leaves nothing to read in between.
    let export = exported(&sample().engine.reader(), || ());
    let mut again = imported(&Exported { revision: 1_000, compacted: 1_000, ..export });
    assert_eq!(again.put("z", "1"), 1_001);
    assert_eq!(again.at(999, all()), "!Compacted");
    assert_eq!(again.at(1_000, all()), "a=3 c=1 d=1");
}

#[test]
fn a_history_that_cannot_be_is_refused_with_the_record() {
    let good = exported(&sample().engine.reader(), || ());
    let refused = |spoil: &dyn Fn(&mut Exported), reason: &str| {
        let mut export = good.clone();
        spoil(&mut export);
        let error = import(&export).err().expect(reason).to_string();
        assert!(error.starts_with("import: ") && error.contains(reason), "{error}");
    };
    refused(&|export| drop(export.writes.remove(1)), "revision 3, write 0 is missing before it");
    refused(&|export| drop(export.writes.remove(4)), "revision 6, write 0 is missing");
    refused(&|export| export.writes.swap(0, 1), "is missing before it");
    refused(&|export| export.writes.push(good.writes[0].clone()), "it does not follow revision 7");
    refused(
        &|export| export.writes[1].version = 7,
        "revision 3, write 0 (key \"a\"): it was created at 2 and is version 7",
    );
    refused(&|export| export.writes[7].create_revision = 2, "should be 7 and 1");
    refused(&|export| export.writes[0].version = 0, "cannot be");
    refused(&|export| export.writes[3].key = bytes("nobody"), "it deletes a key that does not exist");
    refused(&|export| export.writes[0].key = Bytes::new(), "it has no key");
    refused(&|export| export.revision = 99, "does not fit");
    refused(&|export| drop(export.writes.pop()), "does not fit");
    refused(&|export| export.compacted = 99, "does not fit");
    refused(&|export| export.leases[0].id = 0, "lease 0");
    refused(&|export| export.leases[0].ttl = i64::MAX, "cannot be");
    refused(&|export| export.leases[0].remaining = 1_000, "cannot be");
    let backend = import(&good).unwrap();
    assert!(matches!(Importer::new(backend, 0), Err(Error::Import(_))));
}

#[test]
fn an_import_that_was_cut_off_is_no_state() {
    let export = exported(&sample().engine.reader(), || ());
    let backend = Arc::new(MemoryBackend::new());
    let mut importer = Importer::new(backend.clone(), 0).unwrap();
    let lease = LeaseTime { id: 5, ttl: 60, remaining: 0 };
    (0..5_000_u32).for_each(|_| importer.lease(lease).unwrap());
    export.writes.iter().for_each(|write| importer.write(&write.borrowed()).unwrap());
    drop(importer);
    assert_eq!(Backend::get(&*backend, Space::Meta, b"state").unwrap(), None);
}

/// One step of a random history over few keys, so that they meet.
fn step() -> impl Strategy<Value = Command> {
    let key = || prop::sample::select(vec!["a", "b", "c", "d"]);
    prop_oneof![
        6 => (key(), 0..3_i64).prop_map(|(key, lease)| Command::Put(Put { lease, ..put(key, "v") })),
        2 => key().prop_map(|key| match delete_range(key) {
            Op::DeleteRange(delete) => Command::DeleteRange(delete),
            _ => unreachable!("a deletion"),
        }),
        1 => (1..3_i64).prop_map(|id| Command::LeaseGrant { id, ttl: 60 }),
        1 => (1..3_i64).prop_map(|id| Command::LeaseRevoke { id }),
        1 => (1..40_i64).prop_map(|revision| Command::Compact { revision }),
        2 => (key(), key()).prop_map(|(one, other)| {
            let (one, other) = (Op::Put(put(one, "t")), delete_range(other));
            Command::Txn(txn(vec![], vec![one, other], vec![]))
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_is_imported_whole_and_goes_on_the_same(
        before in prop::collection::vec(step(), 0..60),
        after in prop::collection::vec(step(), 0..20),
    ) {
        let mut store = Store::new();
        before.into_iter().for_each(|command| drop(store.try_apply(command)));
        let export = exported(&store.engine.reader(), || ());
        let mut again = imported(&export);
        for command in after {
            prop_assert_eq!(again.try_apply(command.clone()), store.try_apply(command));
        }
        prop_assert_eq!(readable(&again.engine.reader()), readable(&store.engine.reader()));
    }
}
