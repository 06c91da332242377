//! The power goes under a mixed load, and the medium has whatever it likes of what was not synced: writes torn in the
//! middle, later ones without earlier ones. Every key stays linearizable and no acknowledged lease is lost.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use kelson_engine::{
    Command, MemoryBackend, Outcome,
    command::{Compare, CompareResult, CompareTarget, DeleteRange, KeyRange, Op, Put, Txn},
};
use parking_lot::Mutex;
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    TestDisk, config, dump, eventually,
    linear::{self, Action, Call, Swapped, Value},
    open,
};
use crate::{Config, Node};

const KEYS: usize = 4;
const CLIENTS: u64 = 5;

#[derive(Clone, Debug)]
struct Plan {
    seed: u64,
    /// Revisions after which the power goes, in each life.
    lives: Vec<i64>,
    snapshot_entries: u64,
    /// What is left of each write that was not synced, of 255 parts.
    parts: Vec<u8>,
    kept_state: usize,
}

fn plans() -> impl Strategy<Value = Plan> {
    let part = prop_oneof![2 => Just(0_u8), 2 => Just(255_u8), 1 => any::<u8>()];
    let lives = prop::collection::vec(5..120_i64, 1..4);
    (any::<u64>(), lives, 3..60_u64, prop::collection::vec(part, 1..6), 0..200_usize).prop_map(
        |(seed, lives, snapshot_entries, parts, kept_state)| Plan { seed, lives, snapshot_entries, parts, kept_state },
    )
}

/// What clients were told.
#[derive(Default)]
struct Told {
    calls: [Vec<Call>; KEYS],
    /// Of the life at hand, without an answer.
    cut: Vec<(usize, u64, Action)>,
    /// Leases that were granted.
    leases: BTreeSet<i64>,
}

#[derive(Default)]
struct Shared {
    clock: AtomicU64,
    values: AtomicU64,
    told: Mutex<Told>,
    stop: AtomicBool,
}

impl Shared {
    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }
}

fn key(at: usize) -> String {
    format!("key{at}")
}

fn one(at: usize) -> KeyRange {
    KeyRange { start: key(at).into(), end: Vec::new().into() }
}

fn put(at: usize, value: u64) -> Put {
    Put { key: key(at).into(), value: value.to_string().into(), ..Put::default() }
}

fn read(node: &Node, at: usize) -> Value {
    let found = dump(node).into_iter().find(|kv| kv.key == key(at));
    found.map(|kv| std::str::from_utf8(&kv.value).unwrap().parse().unwrap())
}

fn swap(at: usize, from: Value, to: u64) -> Command {
    let target = match from {
        Some(from) => CompareTarget::Value(from.to_string().into()),
        None => CompareTarget::CreateRevision(0),
    };
    let compares = vec![Compare { range: one(at), result: CompareResult::Equal, target }];
    Command::Txn(Txn { compares, success: vec![Op::Put(put(at, to))], failure: vec![] })
}

/// One client until the node dies.
async fn client(node: Node, shared: Arc<Shared>, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    while !shared.stop.load(Ordering::SeqCst) {
        let at = random.random_range(0..KEYS);
        let to = shared.values.fetch_add(1, Ordering::SeqCst) + 1;
        let from = if random.random() { read(&node, at) } else { None };
        let kind = random.random_range(0..12);
        let start = shared.tick();
        let command = match kind {
            0..3 => {
                if node.read_barrier().await.is_err() {
                    return;
                }
                let seen = read(&node, at);
                let end = shared.tick();
                shared.told.lock().calls[at].push(Call { start, end, action: Action::Read { seen } });
                continue;
            }
            3..6 => Command::Put(put(at, to)),
            6 => Command::DeleteRange(DeleteRange { range: one(at), prev_kv: false }),
            7..10 => swap(at, from, to),
            10 => Command::Compact { revision: (node.reader().revision() - 20).max(1) },
            _ => Command::LeaseGrant { id: to as i64, ttl: 3_600 },
        };
        let grants = matches!(command, Command::LeaseGrant { .. });
        let answer = node.propose(command).await;
        let end = shared.tick();
        let mut told = shared.told.lock();
        let action = match answer {
            Ok(Outcome::Put { .. }) => Action::Put { to },
            Ok(Outcome::DeleteRange { deleted, .. }) => Action::Delete { found: deleted > 0 },
            Ok(Outcome::Txn { response, .. }) if response.succeeded => {
                Action::Swap { from, to: Some(to), result: Swapped::Done }
            }
            // What was there instead is not told: it is known to be something else only.
            Ok(Outcome::Txn { .. }) => continue,
            Ok(Outcome::LeaseGrant { id, .. }) => {
                told.leases.insert(id);
                continue;
            }
            Ok(_) | Err(crate::Error::Engine(_)) => continue,
            Err(_) => {
                match kind {
                    3..6 => told.cut.push((at, start, Action::MaybeWrite { to: Some(to) })),
                    6 => told.cut.push((at, start, Action::MaybeWrite { to: None })),
                    7..10 => told.cut.push((at, start, Action::MaybeSwap { from, to: Some(to) })),
                    _ => assert!(grants || kind == 10),
                }
                return;
            }
        };
        told.calls[at].push(Call { start, end, action });
    }
}

fn check(node: &Node, shared: &Shared, plan: &Plan) {
    let mut told = shared.told.lock();
    for at in 0..KEYS {
        let start = shared.tick();
        let action = Action::Read { seen: read(node, at) };
        told.calls[at].push(Call { start, end: shared.tick(), action });
        if let Err(violation) = linear::check(&told.calls[at]) {
            panic!("{plan:?}, {}: {violation}", key(at));
        }
    }
    for id in &told.leases {
        assert!(node.reader().lease(*id).is_some(), "{plan:?}: lease {id} was acknowledged and is gone");
    }
}

async fn lose_power(plan: Plan) {
    let settings = Config { snapshot_entries: plan.snapshot_entries, ..config() };
    let (mut disk, mut backend) = (Arc::new(TestDisk::default()), Arc::new(MemoryBackend::with_crashes()));
    let shared = Arc::new(Shared::default());
    for (life, revisions) in (0..).zip(&plan.lives) {
        let node = open(settings.clone(), &disk, &backend).await.unwrap();
        check(&node, &shared, &plan);
        shared.stop.store(false, Ordering::SeqCst);
        let goal = node.reader().revision() + revisions;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| tokio::spawn(client(node.clone(), shared.clone(), plan.seed ^ life << 8 ^ number)))
            .collect();
        eventually("enough writes", || node.reader().revision() >= goal).await;
        // From here on nothing more becomes durable, as if the machine had stopped.
        disk.hold();
        let part = |write: usize, changes: usize| changes * usize::from(plan.parts[write % plan.parts.len()]) / 255;
        let torn = Arc::new(disk.crashed_with(part));
        let whole = Arc::new(disk.crashed_with(|write, changes| part(write, changes) / changes.max(1) * changes));
        let state = Arc::new(backend.crashed(plan.kept_state));
        shared.stop.store(true, Ordering::SeqCst);
        disk.break_down();
        for client in clients {
            client.await.unwrap();
        }
        let _ = node.shutdown().await;
        // What had no answer is in effect when the next life begins, or never.
        let end = shared.tick();
        {
            let mut told = shared.told.lock();
            for (at, start, action) in std::mem::take(&mut told.cut) {
                told.calls[at].push(Call { start, end, action });
            }
        }
        // A write that is there in part may be noticed, by name, instead of being left out; nothing else may.
        let noticed = open(settings.clone(), &Arc::new(torn.crashed(0)), &Arc::new(state.crashed(0))).await;
        match noticed {
            Ok(node) => {
                check(&node, &shared, &plan);
                node.shutdown().await.unwrap();
                disk = torn;
            }
            Err(error) => {
                assert!(error.to_string().contains("the test's log is corrupted"), "{plan:?}: {error}");
                disk = whole;
            }
        }
        backend = state;
    }
    let node = open(settings, &disk, &backend).await.unwrap();
    check(&node, &shared, &plan);
    node.shutdown().await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_key_stays_linearizable(plan in plans()) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(lose_power(plan));
    }
}
