//! What a standing alarm refuses, and that it stands until it is ended.

use super::*;
use crate::{Alarm, AlarmAction, AlarmKind};

fn alarm(action: AlarmAction, member: u64, alarm: AlarmKind) -> Command {
    Command::Alarm { action, member, alarm }
}

fn raised(store: &mut Store, command: Command) -> Vec<Alarm> {
    let Outcome::Alarm { alarms, .. } = store.apply(command) else { panic!("not an alarm") };
    alarms
}

fn deletion(key: &str) -> Op {
    Op::DeleteRange(DeleteRange { range: one(key), prev_kv: false })
}

fn commands() -> Vec<Command> {
    let deeper = Op::Txn(txn(vec![], vec![], vec![Op::Put(put("x", "1"))]));
    vec![
        Command::Put(put("x", "1")),
        Command::LeaseGrant { id: 9, ttl: 10 },
        Command::Txn(txn(vec![], vec![deletion("x")], vec![deeper])),
        Command::Txn(txn(vec![], vec![deletion("x")], vec![])),
        Command::DeleteRange(DeleteRange { range: one("x"), prev_kv: false }),
        Command::Compact { revision: 2 },
        Command::LeaseRevoke { id: 1 },
        Command::LeaseCheckpoint { leases: vec![(1, 5)] },
    ]
}

/// Which of [`commands`] are refused, each on a store of its own, and how.
fn refusals(kind: AlarmKind) -> Vec<Option<Error>> {
    let each = commands().into_iter().map(|command| {
        let mut store = Store::new();
        store.apply(Command::LeaseGrant { id: 1, ttl: 10 });
        store.put("a", "1");
        store.apply(alarm(AlarmAction::Activate, 7, kind));
        let before = store.engine.state_hash().unwrap();
        let refused = store.try_apply(command.clone()).err();
        if refused.is_some() {
            assert_eq!(store.engine.state_hash().unwrap(), before, "{command:?} left a trace");
        }
        store.apply(alarm(AlarmAction::Deactivate, 7, kind));
        if refused.is_some() {
            assert!(store.try_apply(command.clone()).is_ok(), "{command:?} once the alarm has ended");
        }
        refused
    });
    each.collect()
}

#[test]
fn no_space_refuses_what_adds_and_corruption_every_change() {
    let (full, bad) = (Some(Error::NoSpace), Some(Error::Corrupt));
    assert_eq!(refusals(AlarmKind::NoSpace), [full.clone(), full.clone(), full, None, None, None, None, None].to_vec());
    let mut corrupt = vec![bad; 7];
    corrupt.push(None);
    assert_eq!(refusals(AlarmKind::Corrupt), corrupt);
}

#[test]
fn corruption_is_told_before_a_lack_of_space() {
    let mut store = Store::new();
    for kind in [AlarmKind::NoSpace, AlarmKind::Corrupt] {
        store.apply(alarm(AlarmAction::Activate, 7, kind));
    }
    assert_eq!(store.try_apply(Command::Put(put("a", "1"))), Err(Error::Corrupt));
}

#[test]
fn raising_twice_and_ending_twice() {
    let mut store = Store::new();
    let one = Alarm { kind: AlarmKind::NoSpace, member: 7 };
    for _ in 0..2 {
        assert_eq!(raised(&mut store, alarm(AlarmAction::Activate, 7, AlarmKind::NoSpace)), [one]);
    }
    assert_eq!(raised(&mut store, alarm(AlarmAction::Deactivate, 8, AlarmKind::NoSpace)), []);
    assert_eq!(raised(&mut store, alarm(AlarmAction::Deactivate, 7, AlarmKind::Corrupt)), []);
    assert_eq!(*store.engine.reader().alarms(), [one]);
    assert_eq!(raised(&mut store, alarm(AlarmAction::Deactivate, 7, AlarmKind::NoSpace)), [one]);
    assert_eq!(raised(&mut store, alarm(AlarmAction::Deactivate, 7, AlarmKind::NoSpace)), []);
    assert_eq!(*store.engine.reader().alarms(), []);
}

#[test]
fn alarms_and_checkpoints_survive_a_restart() {
    let backend = Arc::new(MemoryBackend::new());
    let open = || Store { engine: Engine::open(backend.clone()).unwrap(), index: 10 };
    let mut store = open();
    store.apply(alarm(AlarmAction::Activate, 7, AlarmKind::Corrupt));
    store.apply(alarm(AlarmAction::Activate, u64::MAX, AlarmKind::NoSpace));
    store.apply(alarm(AlarmAction::Deactivate, 7, AlarmKind::Corrupt));
    let alarms = store.engine.reader().alarms();
    assert_eq!(*alarms, [Alarm { kind: AlarmKind::NoSpace, member: u64::MAX }]);
    drop(store);
    let mut store = open();
    store.index = 20;
    assert_eq!(store.engine.reader().alarms(), alarms);
    assert_eq!(store.try_apply(Command::Put(put("a", "1"))), Err(Error::NoSpace));
}

#[test]
fn the_size_follows_writes_and_what_is_freed() {
    let mut store = Store::new();
    let reader = store.engine.reader();
    let empty = reader.size_bytes();
    let value = "v".repeat(1000);
    for _ in 0..1000 {
        store.put("key", &value);
    }
    let full = reader.size_bytes();
    assert!(full >= empty + 1_000_000, "{empty} {full}");
    reader.measure_size();
    let exact = reader.size_bytes();
    assert!(full.abs_diff(exact) < exact / 10, "{full} is not {exact}");
    let revision = reader.revision();
    store.compact_fully(revision);
    reader.defragment().unwrap();
    assert!(reader.size_bytes() < 10_000, "{}", reader.size_bytes());
    assert!(reader.in_use_bytes() <= reader.size_bytes());
}
