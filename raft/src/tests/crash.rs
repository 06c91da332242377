//! The power goes at a random moment: whatever was acknowledged is there afterwards.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use kelson_engine::{Engine, MemoryBackend};
use parking_lot::Mutex;
use proptest::prelude::*;

use super::{TestDisk, config, dump, eventually, open, put};
use crate::{Config, Node};

#[derive(Clone, Debug)]
struct Plan {
    clients: usize,
    /// Crash after this many answers.
    answers: usize,
    snapshot_entries: u64,
    log_tail_bytes: usize,
    /// Unsynced log writes and unflushed state batches that survive by luck.
    kept_log: usize,
    kept_state: usize,
    crashes: usize,
}

fn plans() -> impl Strategy<Value = Plan> {
    (1..12_usize, 1..150_usize, 3..60_u64, 0..4096_usize, 0..3_usize, 0..200_usize, 1..4_usize).prop_map(
        |(clients, answers, snapshot_entries, log_tail_bytes, kept_log, kept_state, crashes)| Plan {
            clients,
            answers,
            snapshot_entries,
            log_tail_bytes,
            kept_log,
            kept_state,
            crashes,
        },
    )
}

/// Highest acknowledged value of each key.
type Acknowledged = Arc<Mutex<BTreeMap<String, u64>>>;

/// Each client counts its own keys up until the node dies.
async fn load(node: Node, client: usize, from: u64, acknowledged: Acknowledged, stop: Arc<AtomicBool>) {
    for n in from.. {
        let key = format!("client{client}/key{}", n % 5);
        if stop.load(Ordering::SeqCst) || node.propose(put(key.clone(), format!("{n:06}"))).await.is_err() {
            return;
        }
        acknowledged.lock().insert(key, n);
    }
}

async fn crash_and_check(plan: Plan) {
    let settings = Config { snapshot_entries: plan.snapshot_entries, log_tail_bytes: plan.log_tail_bytes, ..config() };
    let (mut disk, mut backend) = (Arc::new(TestDisk::default()), Arc::new(MemoryBackend::with_crashes()));
    let acknowledged = Acknowledged::default();
    for life in 0..plan.crashes as u64 {
        let node = open(settings.clone(), &disk, &backend).await.unwrap();
        check(&node, &acknowledged);
        let stop = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..plan.clients)
            .map(|client| tokio::spawn(load(node.clone(), client, life * 100_000, acknowledged.clone(), stop.clone())))
            .collect();
        let goal = node.reader().revision() + plan.answers as i64;
        eventually("enough writes", || node.reader().revision() >= goal).await;
        // From here on nothing new becomes durable in the log, as if the machine had stopped; the state may still get
        // what the log has, never more.
        disk.hold();
        // The log first: what the state gets in between is in there, and nothing is dropped from it for that.
        let crashed_disk = Arc::new(disk.crashed(plan.kept_log));
        let crashed_backend = Arc::new(backend.crashed(plan.kept_state));
        let at_crash = acknowledged.lock().clone();
        stop.store(true, Ordering::SeqCst);
        disk.break_down();
        for client in clients {
            client.await.unwrap();
        }
        // Fails if the disk was needed again, which is what it would do after a crash too.
        let _ = node.shutdown().await;
        *acknowledged.lock() = at_crash;

        // Whatever of the state survived, the log brings it to the same end.
        let bare = Arc::new(backend.crashed(0));
        let hashes = [&bare, &crashed_backend].map(|backend| (backend.clone(), Arc::new(crashed_disk.crashed(0))));
        let mut seen = Vec::new();
        for (backend, disk) in hashes {
            let recovered = open(settings.clone(), &disk, &backend).await.unwrap();
            check(&recovered, &acknowledged);
            let contents = dump(&recovered);
            recovered.shutdown().await.unwrap();
            drop(recovered);
            let hash = Engine::open(backend).unwrap().state_hash().unwrap();
            seen.push((contents, hash));
        }
        assert_eq!(seen[0], seen[1], "replay depends on what of the state survived");
        (disk, backend) = (crashed_disk, crashed_backend);
    }
}

fn check(node: &Node, acknowledged: &Acknowledged) {
    let there: BTreeMap<String, u64> = dump(node)
        .into_iter()
        .map(|kv| {
            (String::from_utf8(kv.key.to_vec()).unwrap(), std::str::from_utf8(&kv.value).unwrap().parse().unwrap())
        })
        .collect();
    for (key, value) in acknowledged.lock().iter() {
        let found = there.get(key).copied();
        assert!(found >= Some(*value), "{key}: {value} was acknowledged, {found:?} is there");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn acknowledged_writes_survive_any_crash(plan in plans()) {
        tokio::runtime::Runtime::new().unwrap().block_on(crash_and_check(plan));
    }
}
