//! Clients that do a bit of everything, and remember exactly what they were told.
//!
//! Each draws its operations from a seed of its own. One that loses its server notes that it does not know what became
//! of its last operation, and goes on with the next life of the server.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use kelson_wire::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kelson_wire::pb::etcdserverpb::kv_client::KvClient;
use kelson_wire::pb::etcdserverpb::lease_client::LeaseClient;
use kelson_wire::pb::etcdserverpb::request_op::Request;
use kelson_wire::pb::etcdserverpb::response_op::Response;
use kelson_wire::pb::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest,
    PutRequest, RangeRequest, RequestOp, ResponseHeader, TxnRequest, TxnResponse,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::linear::{Action, Call, Swapped, Value};
use super::order::Answer;
use crate::poll;

/// Keys that are read, put, swapped and deleted.
pub const REGISTERS: usize = 8;
/// Time to live of leases, in seconds: the shortest that the store grants.
pub const TTL: i64 = 2;
/// Longest that any one request may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause before one who has lost a member goes on at another.
const AGAIN: Duration = Duration::from_millis(10);
/// History that the compactor leaves in front of the slowest watcher, in revisions.
const KEPT: i64 = 100;

/// One life of the server.
#[derive(Clone, Copy, Debug, Default)]
pub struct Life {
    pub number: u64,
    /// When it began to serve, in nanoseconds of the oracle's clock.
    pub began: u64,
    /// No life comes after this one: clients end when they have finished what they are at.
    pub over: bool,
    /// Watchers end too.
    pub closed: bool,
}

/// A write that was sent, by its value (unique) or by the lease that its key hangs on.
#[derive(Clone, Debug)]
pub struct Sent {
    pub key: String,
    /// `None`: a deletion.
    pub value: Value,
    /// 0: no answer came.
    pub revision: i64,
}

/// What is known of one lease.
#[derive(Clone, Debug, Default)]
pub struct Lease {
    /// When the newest acknowledged grant or renewal was sent, in nanoseconds.
    pub renewed: u64,
    /// When its revocation was asked for.
    pub revoked: Option<u64>,
}

/// Everything that clients were told.
#[derive(Default)]
pub struct Told {
    pub registers: [Vec<Call>; REGISTERS],
    pub answers: Vec<Answer>,
    pub sent: Vec<Sent>,
    pub leases: BTreeMap<i64, Lease>,
    /// Operations whose answer never came.
    pub unknown: usize,
    pub revoked: usize,
    /// History before this revision may be gone.
    pub compacted: i64,
    pub compactions: usize,
    next_value: u64,
}

/// What the clients share.
pub struct Oracle {
    clock: Instant,
    /// Of each member.
    urls: Vec<String>,
    life: watch::Receiver<Life>,
    told: Mutex<Told>,
    /// Revisions that the watchers have seen.
    watched: Mutex<[i64; 2]>,
}

/// The server has gone.
pub struct Lost;

impl Oracle {
    pub fn new(urls: Vec<String>, life: watch::Receiver<Life>) -> Arc<Oracle> {
        let (clock, told, watched) = (Instant::now(), Mutex::default(), Mutex::default());
        Arc::new(Oracle { clock, urls, life, told, watched })
    }

    /// Whether there are several members: who loses one goes on at another, and what it had asked may take effect at any
    /// time.
    fn has_others(&self) -> bool {
        self.urls.len() > 1
    }

    /// Nanoseconds since the oracle was made.
    pub fn now(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }

    pub fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().expect("a client has panicked")
    }

    /// A watcher has everything up to a revision.
    pub fn watched(&self, watcher: usize, revision: i64) {
        self.watched.lock().expect("a client has panicked")[watcher] = revision;
    }

    /// The life at hand.
    pub fn life(&self) -> Life {
        *self.life.borrow()
    }

    /// Waits for a life after the one with this number; `None` when there is none.
    pub async fn next_life(&self, after: u64) -> Option<Life> {
        let mut life = self.life.clone();
        let next = life.wait_for(|life| life.over || life.number > after).await.expect("the test holds the sender");
        Some(*next).filter(|life| life.number > after)
    }

    /// Waits until watchers are to end.
    pub async fn closed(&self) {
        let _ = self.life.clone().wait_for(|life| life.closed).await;
    }

    fn value(&self) -> u64 {
        let mut told = self.told();
        told.next_value += 1;
        told.next_value
    }

    fn answered(&self, start: u64, header: Option<ResponseHeader>, wrote: bool) -> (u64, i64) {
        let (end, revision) = (self.now(), header.expect("every answer has a header").revision);
        self.told().answers.push(Answer { start, end, revision, wrote });
        (end, revision)
    }
}

/// Waits for an answer; a refusal that a client of this load never deserves fails the test.
pub async fn ask<T>(call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, Lost> {
    let answer = tokio::time::timeout(PATIENCE, call).await.unwrap_or_else(|_| panic!("no answer within {PATIENCE:?}"));
    match answer {
        Ok(answer) => Ok(answer.into_inner()),
        Err(status)
            if matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal) =>
        {
            Err(Lost)
        }
        Err(status) => panic!("refused: {status}"),
    }
}

pub fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).expect("values are numbers")
}

/// Until when a lease lives at least that was granted or renewed by a request sent at `renewed`.
pub fn promised(renewed: u64) -> u64 {
    renewed + TTL as u64 * 1_000_000_000
}

fn text(value: u64) -> Bytes {
    value.to_string().into()
}

fn operation(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn read(key: &str) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), ..Default::default() }
}

fn put(key: &str, value: u64, lease: i64) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: text(value), lease, ..Default::default() }
}

fn delete(key: &str) -> DeleteRangeRequest {
    DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() }
}

/// Holds where the key has this value, or does not exist.
fn guard(key: &str, from: Value) -> Compare {
    let (target, union) = match from {
        Some(from) => (CompareTarget::Value, TargetUnion::Value(text(from))),
        None => (CompareTarget::Create, TargetUnion::CreateRevision(0)),
    };
    let result = CompareResult::Equal.into();
    Compare {
        result,
        target: target.into(),
        key: key.to_owned().into(),
        target_union: Some(union),
        range_end: Bytes::new(),
    }
}

fn seen(answer: &TxnResponse) -> Value {
    match answer.responses.first().and_then(|op| op.response.as_ref()) {
        Some(Response::ResponseRange(range)) => range.kvs.first().map(|kv| number(&kv.value)),
        other => panic!("a read answered with {other:?}"),
    }
}

/// Runs one client through all lives of the server, until `ends`.
pub async fn live<F>(oracle: Arc<Oracle>, seed: u64, ends: fn(Life) -> bool, client: F)
where
    F: AsyncFn(&Oracle, &mut StdRng, Channel) -> Lost,
{
    let mut random = StdRng::seed_from_u64(seed);
    let mut number = 0;
    while let Some(life) = oracle.next_life(number).await {
        number = life.number;
        loop {
            let url = oracle.urls[random.random_range(0..oracle.urls.len())].clone();
            let channel = Channel::from_shared(url).expect("a URL").connect_lazy();
            let Lost = client(&oracle, &mut random, channel).await;
            if !oracle.has_others() || ends(oracle.life()) {
                break;
            }
            poll::pause(AGAIN).await;
        }
    }
}

/// Reads, puts, guarded puts and deletions of a few keys that all such clients share.
pub async fn registers(oracle: &Oracle, random: &mut StdRng, channel: Channel) -> Lost {
    let life = oracle.life();
    let mut client = KvClient::new(channel);
    let mut last: [Value; REGISTERS] = [None; REGISTERS];
    while !oracle.life().over {
        let at = random.random_range(0..REGISTERS);
        let key = format!("register/{at}");
        let to = oracle.value();
        let kind = random.random_range(0..10);
        let start = oracle.now();
        let told = match kind {
            0..3 => ask(client.range(read(&key))).await.map(|answer| {
                let seen = answer.kvs.first().map(|kv| number(&kv.value));
                (answer.header, false, Action::Read { seen }, None)
            }),
            3..6 => ask(client.put(put(&key, to, 0)))
                .await
                .map(|answer| (answer.header, true, Action::Put { to }, Some(Some(to)))),
            6 => ask(client.delete_range(delete(&key))).await.map(|answer| {
                let found = answer.deleted > 0;
                (answer.header, found, Action::Delete { found }, found.then_some(None))
            }),
            _ => {
                let request = TxnRequest {
                    compare: vec![guard(&key, last[at])],
                    success: vec![operation(Request::RequestPut(put(&key, to, 0)))],
                    failure: vec![operation(Request::RequestRange(read(&key)))],
                };
                ask(client.txn(request)).await.map(|answer| {
                    let done = answer.succeeded;
                    let result = if done { Swapped::Done } else { Swapped::Refused(seen(&answer)) };
                    let action = Action::Swap { from: last[at], to: Some(to), result };
                    (answer.header, done, action, done.then_some(Some(to)))
                })
            }
        };
        match told {
            Ok((header, wrote, action, written)) => {
                let (end, revision) = oracle.answered(start, header, wrote);
                last[at] = match action {
                    Action::Read { seen } => seen,
                    Action::Put { to } => Some(to),
                    Action::Swap { to, result: Swapped::Done, .. } => to,
                    Action::Swap { result: Swapped::Refused(seen), .. } => seen,
                    _ => None,
                };
                let mut told = oracle.told();
                told.registers[at].push(Call { start, end, action });
                if let Some(value) = written {
                    told.sent.push(Sent { key, value, revision });
                }
            }
            Err(Lost) => {
                // It can take effect until the next life begins, from the log at the latest; where there are others, at any
                // time: see `audit::settle`.
                let end = match oracle.has_others() {
                    true => u64::MAX,
                    false => oracle.next_life(life.number).await.map_or(u64::MAX, |next| next.began),
                };
                let (action, value) = match kind {
                    0..3 => return Lost,
                    3..6 => (Action::MaybeWrite { to: Some(to) }, Some(to)),
                    6 => (Action::MaybeWrite { to: None }, None),
                    _ => (Action::MaybeSwap { from: last[at], to: Some(to) }, Some(to)),
                };
                let mut told = oracle.told();
                told.unknown += 1;
                told.registers[at].push(Call { start, end, action });
                told.sent.push(Sent { key, value, revision: 0 });
                return Lost;
            }
        }
    }
    Lost
}

/// Writes two keys at one revision, again and again, guarded by the revision of the last time.
pub async fn pairs(oracle: &Oracle, random: &mut StdRng, channel: Channel) -> Lost {
    let mut client = KvClient::new(channel);
    while !oracle.life().over {
        let value = oracle.value();
        let keys = ["pair/left", "pair/right"];
        let deletes = random.random_range(0..8) == 0;
        let write = |key: &str| match deletes {
            true => operation(Request::RequestDeleteRange(delete(key))),
            false => operation(Request::RequestPut(put(key, value, 0))),
        };
        let start = oracle.now();
        let Ok(found) = ask(client.range(read(keys[0]))).await else { return Lost };
        oracle.answered(start, found.header, false);
        let at = found.kvs.first().map_or(0, |kv| kv.mod_revision);
        let compare = Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Mod.into(),
            key: keys[0].into(),
            target_union: Some(TargetUnion::ModRevision(at)),
            range_end: Bytes::new(),
        };
        let request = TxnRequest { compare: vec![compare], success: keys.map(write).to_vec(), failure: vec![] };
        let start = oracle.now();
        let value = Some(value).filter(|_| !deletes);
        let answer = ask(client.txn(request)).await;
        let wrote = at != 0 || !deletes;
        let revision = match &answer {
            Ok(answer) => {
                if !answer.succeeded {
                    assert!(oracle.has_others() && oracle.told().unknown > 0, "nobody else writes the pair");
                    // One of its own, given up long ago, has come between.
                    oracle.answered(start, answer.header, false);
                    continue;
                }
                oracle.answered(start, answer.header, wrote).1
            }
            Err(Lost) => 0,
        };
        if wrote {
            let mut told = oracle.told();
            told.unknown += usize::from(answer.is_err());
            told.sent.extend(keys.map(|key| Sent { key: key.into(), value, revision }));
        }
        if answer.is_err() {
            return Lost;
        }
    }
    Lost
}

/// Takes leases, hangs keys on them, renews some for a while, revokes some and forgets the others.
pub async fn leases(oracle: &Oracle, random: &mut StdRng, channel: Channel) -> Lost {
    let mut kv = KvClient::new(channel.clone());
    let mut client = LeaseClient::new(channel);
    while !oracle.life().over {
        let start = oracle.now();
        let Ok(granted) = ask(client.lease_grant(LeaseGrantRequest { ttl: TTL, id: 0 })).await else { return Lost };
        assert_eq!(granted.ttl, TTL);
        let id = granted.id;
        oracle.told().leases.insert(id, Lease { renewed: start, ..Lease::default() });
        // On a busy machine it may run out before it is used.
        let early = || oracle.now() < promised(oracle.told().leases[&id].renewed);
        let (key, value) = (format!("lease/{id:016x}"), oracle.value());
        let sent = oracle.now();
        let answer = match kv.put(put(&key, value, id)).await {
            Err(status) if status.code() == Code::NotFound => {
                assert!(!early(), "lease {id:x} ended before its time: {status}");
                continue;
            }
            answer => ask(async { answer }).await,
        };
        let revision = answer.as_ref().map_or(0, |answer| oracle.answered(sent, answer.header, true).1);
        oracle.told().unknown += usize::from(answer.is_err());
        oracle.told().sent.push(Sent { key, value: Some(value), revision });
        if answer.is_err() {
            return Lost;
        }
        for _ in 0..random.random_range(0..6) {
            poll::pause(Duration::from_millis(random.random_range(5..60))).await;
            let start = oracle.now();
            let request = stream::once(async move { LeaseKeepAliveRequest { id } });
            let Ok(mut answers) = ask(client.lease_keep_alive(request)).await else { return Lost };
            match answers.message().await {
                Ok(Some(answer)) if answer.ttl == TTL => {
                    oracle.told().leases.entry(id).or_default().renewed = start;
                }
                Ok(Some(answer)) => {
                    assert!(answer.ttl <= 0 && !early(), "lease {id:x} ended before its time: {answer:?}");
                    break;
                }
                _ => return Lost,
            }
        }
        if random.random_range(0..3) == 0 {
            oracle.told().leases.entry(id).or_default().revoked = Some(oracle.now());
            match client.lease_revoke(LeaseRevokeRequest { id }).await {
                Ok(_) => oracle.told().revoked += 1,
                Err(status) if status.code() == Code::NotFound => assert!(!early(), "lease {id:x} is gone: {status}"),
                Err(_) => return Lost,
            }
        }
    }
    Lost
}

/// Compacts, now and then, what no watcher needs any more.
pub async fn compactor(oracle: &Oracle, random: &mut StdRng, channel: Channel) -> Lost {
    let mut client = KvClient::new(channel);
    // The revision before the compacted one is read below, and 0 would be the newest.
    let mut compacted = 1;
    while !oracle.life().over {
        poll::pause(Duration::from_millis(random.random_range(5..80))).await;
        let slowest = *oracle.watched.lock().expect("a client has panicked").iter().min().expect("two watchers");
        let revision = slowest - KEPT;
        if revision <= compacted {
            continue;
        }
        let physical = random.random_range(0..4) == 0;
        oracle.told().compacted = revision;
        let call = client.compact(CompactionRequest { revision, physical });
        match tokio::time::timeout(PATIENCE, call).await.expect("a compaction ends") {
            Ok(_) => oracle.told().compactions += 1,
            // Of one whose answer was lost with an earlier life.
            Err(status) if status.code() == Code::OutOfRange => {}
            Err(_) => return Lost,
        }
        compacted = revision;
        let old = RangeRequest { revision: revision - 1, ..read("register/0") };
        match client.range(old).await {
            Ok(answer) => panic!("revision {} is compacted and answers {answer:?}", revision - 1),
            Err(status) if status.code() == Code::OutOfRange => {}
            Err(_) => return Lost,
        }
    }
    Lost
}
