//! One run of the load: its clients and watchers, and the verdict on what they were told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kelson_wire::pb::etcdserverpb::kv_client::KvClient;
use kelson_wire::pb::etcdserverpb::lease_client::LeaseClient;
use kelson_wire::pb::etcdserverpb::{LeaseLeasesRequest, RangeRequest};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use super::audit::{self, Evidence, Held};
use super::load::{self, Life, Oracle};
use super::watchers::{self, Kept};
use crate::poll;

/// Clients of the shared keys.
const CLIENTS: usize = 5;
const LEASE_CLIENTS: usize = 2;
/// Longest that anything may take after the load has stopped, in seconds.
const SETTLE: u64 = 60;

/// A number from the environment.
pub fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

/// The load while it runs.
pub struct Run {
    runtime: Runtime,
    lives: watch::Sender<Life>,
    oracle: Arc<Oracle>,
    clients: Vec<JoinHandle<()>>,
    watching: Vec<JoinHandle<()>>,
    kept: [Kept; 2],
}

impl Run {
    /// Clients of the members at these addresses; they wait for the first life.
    pub fn new(urls: Vec<String>, random: &mut StdRng) -> Run {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let (lives, life) = watch::channel(Life::default());
        let oracle = Oracle::new(urls, life);
        let mut seed = || random.random::<u64>();
        let mut clients = Vec::new();
        let over = |life: Life| life.over;
        for _ in 0..CLIENTS {
            clients.push(runtime.spawn(load::live(oracle.clone(), seed(), over, load::registers)));
        }
        for _ in 0..LEASE_CLIENTS {
            clients.push(runtime.spawn(load::live(oracle.clone(), seed(), over, load::leases)));
        }
        clients.push(runtime.spawn(load::live(oracle.clone(), seed(), over, load::pairs)));
        clients.push(runtime.spawn(load::live(oracle.clone(), seed(), over, load::compactor)));
        let kept: [Kept; 2] = Default::default();
        let watching = ["", "register/"].into_iter().enumerate().map(|(number, prefix)| {
            let kept = kept[number].clone();
            let watch = async move |oracle: &Oracle, random: &mut StdRng, channel| {
                watchers::watcher(&kept, number, prefix, oracle, random, channel).await
            };
            runtime.spawn(load::live(oracle.clone(), seed(), |life| life.closed, watch))
        });
        let watching = watching.collect();
        Run { runtime, lives, oracle, clients, watching, kept }
    }

    /// The server serves, in its `number`th life.
    pub fn begin(&self, number: u64) {
        self.lives.send_replace(Life { number, began: self.oracle.now(), ..Life::default() });
    }

    /// Fails where a client has a complaint.
    pub fn check(&self) {
        if let Some(client) = self.clients.iter().chain(&self.watching).position(JoinHandle::is_finished) {
            panic!("client {client} has ended: see its complaint above");
        }
    }

    /// Runs a future beside the load.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// Ends the load, reads everything that is left from the member at `url`, and fails unless all of it fits together.
    pub fn judge(self, what: &str, url: &str) {
        let Run { runtime, lives, oracle, clients, watching, kept } = self;
        lives.send_modify(|life| life.over = true);
        let patience = Duration::from_secs(SETTLE);
        runtime.block_on(async {
            for client in clients {
                let ended = tokio::time::timeout(patience, client).await.expect("a client ends");
                ended.expect("a client's complaint is above");
            }
        });
        let channel = runtime.block_on(async { Channel::from_shared(url.to_owned()).expect("a URL").connect_lazy() });
        poll::until("forgotten leases end", SETTLE, || {
            let mut leases = LeaseClient::new(channel.clone());
            let left =
                runtime.block_on(leases.lease_leases(LeaseLeasesRequest {})).expect("leases").into_inner().leases;
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
        let (revision, held) = runtime.block_on(everything(channel.clone()));
        poll::until("the watcher has everything", SETTLE, || {
            let last = kept[0].lock().expect("record").last_key_value().map_or(1, |(last, _)| *last);
            if last == revision { Ok(()) } else { Err((last, revision)) }
        });
        let record = kept[0].lock().expect("record").clone();
        part_of_all(&kept[1], &record);
        lives.send_modify(|life| life.closed = true);
        runtime.block_on(async {
            for watcher in watching {
                let ended = tokio::time::timeout(patience, watcher).await.expect("a watcher ends");
                ended.expect("its complaint is above");
            }
        });

        let mut told = oracle.told();
        let history = runtime.block_on(watchers::history(channel, told.compacted.max(1), revision));
        let calls: usize = told.registers.iter().map(Vec::len).sum();
        eprintln!(
            "{what}: {} answers, {} without one, {calls} calls of shared keys, {revision} revisions, {} leases ({} revoked), {} compactions",
            told.answers.len(),
            told.unknown,
            told.leases.len(),
            told.revoked,
            told.compactions,
        );
        audit::settle(&mut told, &record);
        let evidence = Evidence { told: &told, record: &record, history: &history, held: &held, revision };
        let complaints = audit::complaints(&evidence);
        assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    }
}

/// The store's revision and every key.
async fn everything(channel: Channel) -> (i64, BTreeMap<String, Held>) {
    let request = RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..Default::default() };
    let answer = KvClient::new(channel).range(request).await.expect("a range").into_inner();
    let held = answer.kvs.into_iter().map(|kv| {
        let key = String::from_utf8(kv.key.to_vec()).expect("keys are text");
        let (value, lease) = (load::number(&kv.value), kv.lease);
        (key, Held { value, create: kv.create_revision, modified: kv.mod_revision, version: kv.version, lease })
    });
    (answer.header.expect("a header").revision, held.collect())
}

/// A watcher of a prefix is told what the watcher of everything is told of it.
fn part_of_all(part: &Kept, all: &watchers::Record) {
    let wanted = |changes: &[watchers::Change]| -> Vec<watchers::Change> {
        changes.iter().filter(|change| change.key.starts_with("register/")).cloned().collect()
    };
    let expected: Vec<_> = all.iter().map(|(revision, (_, changes))| (*revision, wanted(changes))).collect();
    let expected: Vec<_> = expected.into_iter().filter(|(_, changes)| !changes.is_empty()).collect();
    poll::until("the watcher of a prefix has its part", SETTLE, || {
        let part = part.lock().expect("record");
        if part.len() >= expected.len() { Ok(()) } else { Err((part.len(), expected.len())) }
    });
    let part: Vec<_> = part.lock().expect("record").iter().map(|(at, (_, changes))| (*at, changes.clone())).collect();
    assert_eq!(part, expected);
}
