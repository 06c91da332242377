//! The store is killed at random moments under a load of everything that it can do: nothing acknowledged is lost, every
//! key is linearizable, watches go on without a gap or a repetition, and leases live as long as was promised.

use std::collections::BTreeMap;
use std::time::Duration;

use kelson_wire::pb::etcdserverpb::kv_client::KvClient;
use kelson_wire::pb::etcdserverpb::lease_client::LeaseClient;
use kelson_wire::pb::etcdserverpb::{LeaseLeasesRequest, RangeRequest};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tonic::transport::Channel;

use super::audit::{self, Evidence, Held};
use super::load::{self, Life, Oracle, TTL};
use super::store::Place;
use super::watchers::{self, Kept};
use crate::poll;

/// Kills in a run of all tests; `KELSON_TEST_KILLS` sets another number.
const KILLS: u64 = 12;
/// Clients of the shared keys.
const CLIENTS: u64 = 5;
const LEASE_CLIENTS: u64 = 2;
/// A life lasts at most so long; every eighth so long that leases run out in it.
const LIFE: Duration = Duration::from_millis(500);
/// Longest that anything may take after the load has stopped, in seconds.
const SETTLE: u64 = 60;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

#[test]
fn killed_at_random_moments_under_a_mixed_load() {
    let kills = setting("KELSON_TEST_KILLS").unwrap_or(KILLS);
    let seed = setting("KELSON_TEST_SEED").unwrap_or_else(rand::random);
    eprintln!("replay: KELSON_TEST_SEED={seed} KELSON_TEST_KILLS={kills} cargo test --test all killed_at_random");
    let mut random = StdRng::seed_from_u64(seed);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let place = Place::new();
    let (lives, life) = watch::channel(Life::default());
    let oracle = Oracle::new(place.url(), life);
    let mut seeds = std::iter::repeat_with(|| random.random::<u64>()).take(32).collect::<Vec<_>>().into_iter();
    let mut seed = || seeds.next().expect("enough seeds");

    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(runtime.spawn(load::live(oracle.clone(), seed(), load::registers)));
    }
    for _ in 0..LEASE_CLIENTS {
        clients.push(runtime.spawn(load::live(oracle.clone(), seed(), load::leases)));
    }
    clients.push(runtime.spawn(load::live(oracle.clone(), seed(), load::pairs)));
    clients.push(runtime.spawn(load::live(oracle.clone(), seed(), load::compactor)));
    let kept: [Kept; 2] = Default::default();
    let watching = ["", "register/"].into_iter().enumerate().map(|(number, prefix)| {
        let kept = kept[number].clone();
        let watch = async move |oracle: &Oracle, random: &mut StdRng, channel| {
            watchers::watcher(&kept, number, prefix, oracle, random, channel).await
        };
        runtime.spawn(load::live(oracle.clone(), seed(), watch))
    });
    let watching: Vec<_> = watching.collect();

    let begin = |number| {
        lives.send_replace(Life { number, began: oracle.now(), ..Life::default() });
    };
    let mut program = place.start();
    for kill in 1..=kills {
        begin(kill);
        let longer = if kill % 8 == 5 { Duration::from_secs(TTL as u64 + 1) } else { Duration::ZERO };
        poll::strike_after(longer + LIFE.mul_f64(random.random_range(0.05..1.0)));
        if let Some(client) = clients.iter().chain(&watching).position(|client| client.is_finished()) {
            panic!("client {client} has ended: see its complaint above");
        }
        program.kill();
        program = place.start();
    }
    begin(kills + 1);
    poll::strike_after(LIFE);
    lives.send_modify(|life| life.over = true);
    let patience = Duration::from_secs(SETTLE);
    runtime.block_on(async {
        for client in clients {
            tokio::time::timeout(patience, client)
                .await
                .expect("a client ends")
                .expect("a client's complaint is above");
        }
    });

    let channel = runtime.block_on(async { Channel::from_shared(place.url()).expect("a URL").connect_lazy() });
    poll::until("forgotten leases end", SETTLE, || {
        let mut leases = LeaseClient::new(channel.clone());
        let left = runtime.block_on(leases.lease_leases(LeaseLeasesRequest {})).expect("leases").into_inner().leases;
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
            tokio::time::timeout(patience, watcher).await.expect("a watcher ends").expect("its complaint is above");
        }
    });

    let told = oracle.told();
    let history = runtime.block_on(watchers::history(channel, told.compacted.max(1), revision));
    let calls: usize = told.registers.iter().map(Vec::len).sum();
    eprintln!(
        "{kills} kills: {} answers, {} without one, {calls} calls of shared keys, {revision} revisions, {} leases ({} revoked), {} compactions",
        told.answers.len(),
        told.unknown,
        told.leases.len(),
        told.revoked,
        told.compactions,
    );
    let evidence = Evidence { told: &told, record: &record, history: &history, held: &held, revision };
    let complaints = audit::complaints(&evidence);
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    drop(told);
    program.kill();
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
