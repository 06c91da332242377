//! Recovery and determinism.

use proptest::collection::vec;
use proptest::prelude::*;

use super::observed::Observed;
use super::sequences::a_command;
use super::*;
use crate::backend::{Backend, Batch, Space};

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Two members that cut the same log into different batches, and compact at different times, agree.
    #[test]
    fn replaying_a_log_gives_the_same_hash(commands in vec(a_command(), 1..60), cuts in vec(any::<bool>(), 60)) {
        let (mut one, mut other) = (Store::new().engine, Store::new().engine);
        let mut from = 0;
        for index in 0..commands.len() {
            one.apply(position(index as u64 + 1), &commands[index..=index], &[]).unwrap();
            while one.compaction_step().unwrap() {}
            if cuts[index] || index + 1 == commands.len() {
                other.apply(position(index as u64 + 1), &commands[from..=index], &[]).unwrap();
                from = index + 1;
                prop_assert_eq!(one.state_hash().unwrap(), other.state_hash().unwrap(), "after {}", index);
            }
        }
    }
}

#[test]
fn every_difference_that_a_client_could_see_changes_the_hash() {
    let hash = |commands: Vec<Command>| {
        let mut store = Store::new();
        commands.into_iter().for_each(|command| _ = store.apply(command));
        store.engine.state_hash().unwrap()
    };
    let put_command = |key: &str, value: &str| Command::Put(put(key, value));
    let grant = Command::LeaseGrant { id: 1, ttl: 10 };
    let hashes = [
        hash(vec![]),
        hash(vec![put_command("a", "1")]),
        hash(vec![put_command("a", "2")]),
        hash(vec![put_command("b", "1")]),
        hash(vec![put_command("a", "1"), put_command("a", "1")]),
        hash(vec![put_command("a", "1"), Command::Compact { revision: 2 }]),
        hash(vec![grant.clone()]),
        hash(vec![Command::LeaseGrant { id: 1, ttl: 11 }]),
        hash(vec![grant.clone(), put_command("a", "1")]),
        hash(vec![grant, Command::Put(Put { lease: 1, ..put("a", "1") })]),
    ];
    for (index, hash) in hashes.iter().enumerate() {
        assert!(!hashes[..index].contains(hash), "{index}");
    }
}

#[test]
fn position_and_blobs_are_stored_with_the_state() {
    let backend = Arc::new(MemoryBackend::with_crashes());
    let mut engine = Engine::open(backend.clone()).unwrap();
    assert_eq!((engine.applied(), engine.meta("membership").unwrap()), (None, None));
    let first = Applied { term: 3, node: 7, index: 10 };
    engine.apply(first, &[Command::Put(put("a", "1"))], &[("membership", bytes("one"))]).unwrap();
    assert_eq!(engine.flush().unwrap(), Some(first));
    let second = Applied { term: 4, node: 7, index: 11 };
    engine.apply(second, &[Command::Put(put("a", "2"))], &[("membership", bytes("two"))]).unwrap();
    assert_eq!(engine.reader().applied(), Some(second));
    for (kept, applied, blob, value) in [(0, first, "one", "a=1"), (1, second, "two", "a=2")] {
        let store = Store { engine: Engine::open(Arc::new(backend.crashed(kept))).unwrap(), index: 0 };
        assert_eq!(store.engine.applied(), Some(applied));
        assert_eq!(store.engine.meta("membership").unwrap(), Some(bytes(blob)));
        assert_eq!(store.now(), value);
    }
}

#[test]
fn an_entry_is_applied_once() {
    let mut store = Store::new();
    store.put("a", "1");
    for index in [0, 1] {
        let again = store.engine.apply(position(index), &[Command::Put(put("a", "2"))], &[]);
        assert_eq!(again, Err(Error::OutOfOrder { index, applied: 1 }));
    }
    assert_eq!(store.now(), "a=1");
    assert_eq!(store.put("a", "3"), 3);
}

#[test]
fn entries_without_commands_move_the_position_only() {
    let mut store = Store::new();
    assert_eq!(store.engine.apply(position(9), &[], &[]).unwrap(), []);
    assert_eq!((store.engine.applied(), store.engine.reader().revision()), (Some(position(9)), 1));
}

#[test]
fn a_damaged_or_foreign_store_is_refused() {
    let written = || {
        let backend = Arc::new(MemoryBackend::new());
        let mut store = Store { engine: Engine::open(backend.clone()).unwrap(), index: 0 };
        store.put("a", "1");
        store.put("b", "1");
        backend
    };
    let refused = |space, key: &[u8], value: Option<&'static [u8]>, says: &str| {
        let backend = written();
        let mut batch = Batch::default();
        match value {
            Some(value) => batch.put(space, key, Bytes::from_static(value)),
            None => batch.delete(space, key),
        }
        backend.write(batch).unwrap();
        let Err(Error::Storage(text)) = Engine::open(backend) else { panic!("opened: {says}") };
        assert!(text.contains(says), "{text}");
    };
    let newest = crate::Revision { main: 3, sub: 0 }.to_bytes();
    refused(Space::Meta, b"format", Some(&[9]), "format [9]");
    refused(Space::Meta, b"format", None, "no format");
    refused(Space::Meta, b"state", Some(b"short"), "unreadable state");
    refused(Space::Revisions, &newest, None, "newest record 2");
    refused(Space::Revisions, &newest, Some(b"junk"), "damaged record");
    refused(Space::Revisions, b"odd", Some(b""), "unreadable revision");
    refused(Space::Leases, b"odd", Some(b""), "unreadable lease id");
    assert!(Engine::open(written()).is_ok());
}

#[test]
fn after_a_failed_write_nothing_is_published_and_nothing_more_is_applied() {
    let backend = Observed { writes_left: AtomicUsize::new(2), ..Observed::default() };
    let mut engine = Engine::open(Arc::new(backend)).unwrap();
    let command = [Command::Put(put("a", "1"))];
    engine.apply(position(1), &command, &[]).unwrap();
    for index in [2, 3] {
        assert!(matches!(engine.apply(position(index), &command, &[]), Err(Error::Storage(_))));
        assert_eq!((engine.reader().revision(), engine.reader().applied()), (2, Some(position(1))));
    }
    assert!(engine.compaction_step().is_err());
}
