//! Clients: what they ask, and what they are told.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use kelson_engine::{
    Command, Outcome, RangeRequest, RangeResponse,
    command::{Compare, CompareResult, CompareTarget, DeleteRange, KeyRange, Op, Put, Txn},
};
use kelson_raft::{Error, Node, sim::Life};
use tokio::task::JoinHandle;

use crate::{
    chaos::{Aim, Moment},
    dice::Dice,
    eye::everything,
    linear::{Action, Call, Swapped, Value},
    order::Answer,
    poll::pause,
    world::World,
};

/// Keys whose histories are checked for linearizability.
pub const REGISTERS: usize = 4;
/// After this long without a renewal some of a lease's time may have been noted as gone.
const PARTLY_SPENT: Duration = Duration::from_millis(900);
/// Milliseconds for which a client waits for an answer; a node itself gives up after 3 s.
const PATIENCE: [u64; 4] = [150, 600, 1_500, 10_000];

/// What became of a write as far as its client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Done(i64),
    /// Refused: it has not taken effect, and will not.
    Refused,
    Unknown,
}

/// A write of a number that is written once.
#[derive(Clone, Debug)]
pub struct Sent {
    pub key: String,
    pub number: u64,
    pub fate: Fate,
}

/// A write to a register whose outcome is not known: what was asked is in the action.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    pub register: usize,
    pub start: u64,
    pub wanted: Wanted,
    /// Written to the register, or, by a deletion, to the mark beside it.
    pub number: u64,
}

#[derive(Clone, Copy, Debug)]
pub enum Wanted {
    Put,
    Delete,
    Swap { from: Value },
}

/// Every key as a read found it, at a revision.
#[derive(Clone, Debug)]
pub struct Seen {
    pub revision: i64,
    pub response: RangeResponse,
}

/// A lease and what its holder was promised.
#[derive(Clone, Debug)]
pub struct Lease {
    pub ttl: Duration,
    /// When each renewal that was granted, or the grant itself, was asked for.
    pub renewed: Vec<Duration>,
    /// When it was given back.
    pub revoked: Option<Duration>,
}

/// A revision of a read, and whether that was refused as compacted.
#[derive(Clone, Copy, Debug)]
pub struct Old {
    pub revision: i64,
    /// What the member knew as compacted at that moment.
    pub compacted: i64,
    pub refused: bool,
}

/// All that clients were told.
#[derive(Default)]
pub struct Told {
    pub registers: [Vec<Call>; REGISTERS],
    pub cut: Vec<Cut>,
    pub sent: Vec<Sent>,
    pub answers: Vec<Answer>,
    pub seen: Vec<Seen>,
    pub leases: BTreeMap<i64, Lease>,
    pub old: Vec<Old>,
    /// The greatest revision that anybody asked to compact.
    pub compacted: i64,
}

pub fn spawn(world: &Arc<World>) -> Vec<JoinHandle<()>> {
    let client = |number| Client { world: world.clone(), dice: world.dice.fork(1000 + number), at: None };
    let mut tasks = Vec::new();
    tasks.extend((0..world.knobs.writers).map(|number| tokio::spawn(client(number).write())));
    tasks.extend((0..world.knobs.lessees).map(|number| tokio::spawn(client(100 + number).lease())));
    tasks.push(tokio::spawn(client(200).compact()));
    tasks
}

pub struct Client {
    world: Arc<World>,
    dice: Dice,
    /// The member that it is connected to.
    at: Option<u64>,
}

/// Why there is no answer.
enum Lost {
    /// Nothing has happened, and nothing will.
    Refused,
    Unknown,
}

fn one(key: &str) -> KeyRange {
    KeyRange { start: Bytes::copy_from_slice(key.as_bytes()), end: Bytes::new() }
}

pub fn register(at: usize) -> String {
    format!("r/{at}")
}

/// The key that a deletion of a register writes.
pub fn mark(at: usize) -> String {
    format!("mark/{at}")
}

/// A key of a lease.
pub fn leased(id: i64, side: &str) -> String {
    format!("lease/{id}/{side}")
}

fn put(key: &str, number: u64, lease: i64) -> Put {
    let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), number.to_string().into());
    Put { key, value, lease, ..Put::default() }
}

fn read(range: KeyRange, revision: i64) -> RangeRequest {
    RangeRequest::whole(range, revision)
}

fn held(response: &RangeResponse) -> Value {
    let value = &response.kvs.first()?.value;
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn revision(outcome: &Outcome) -> i64 {
    match outcome {
        Outcome::Put { revision, .. }
        | Outcome::DeleteRange { revision, .. }
        | Outcome::Txn { revision, .. }
        | Outcome::Compact { revision }
        | Outcome::LeaseGrant { revision, .. }
        | Outcome::LeaseRevoke { revision }
        | Outcome::Alarm { revision, .. }
        | Outcome::LeaseCheckpoint { revision }
        | Outcome::Auth { revision, .. } => *revision,
    }
}

impl Client {
    /// The member that it is connected to, another one after a failure; none where none runs.
    fn node(&mut self) -> Option<(Node, Life)> {
        if let Some(running) = self.at.and_then(|id| self.world.member(id)?.running()) {
            return Some(running);
        }
        let member = self.dice.pick(&self.world.members())?;
        self.at = Some(member.id);
        member.running()
    }

    /// Sends a request and waits for the answer; the process at the other end may be killed meanwhile.
    async fn ask<T>(&mut self, request: impl AsyncFnOnce(Node) -> Result<T, Error>) -> Result<T, Lost> {
        let Some((node, life)) = self.node() else {
            pause(self.dice.ms(5, 50)).await;
            return Err(Lost::Refused);
        };
        pause(self.dice.ms(0, 2)).await;
        let patience = self.dice.pick(&PATIENCE).unwrap_or(1_000);
        let answer = tokio::select! {
            biased;
            () = life.over() => None,
            answer = request(node) => Some(answer),
            // It goes away while the request is under way.
            () = pause(Duration::from_millis(patience)) => None,
        };
        pause(self.dice.ms(0, 2)).await;
        match answer {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(error)) => {
                self.at = None;
                match error {
                    Error::Engine(_) | Error::TooManyRequests | Error::NoLeader | Error::Learner => Err(Lost::Refused),
                    _ => Err(Lost::Unknown),
                }
            }
            None => {
                self.at = None;
                Err(Lost::Unknown)
            }
        }
    }

    async fn propose(&mut self, command: Command) -> Result<Outcome, Lost> {
        let start = self.world.tick();
        let answer = self.ask(async move |node| node.propose(command).await).await;
        if let Ok(outcome) = &answer {
            let wrote = match outcome {
                Outcome::Put { .. } => true,
                Outcome::Txn { response, .. } => response.succeeded,
                _ => false,
            };
            let answer = Answer { start, end: self.world.tick(), revision: revision(outcome), wrote };
            self.world.told.lock().answers.push(answer);
        }
        answer
    }

    fn sent(&self, key: &str, number: u64, answer: &Result<Outcome, Lost>) {
        let fate = match answer {
            Ok(outcome) => Fate::Done(revision(outcome)),
            Err(Lost::Refused) => Fate::Refused,
            Err(Lost::Unknown) => Fate::Unknown,
        };
        self.world.told.lock().sent.push(Sent { key: key.to_owned(), number, fate });
    }

    /// Everything at one moment; linearizable where it waits for the barrier.
    async fn look(&mut self, range: KeyRange, at: i64, barrier: bool) -> Result<RangeResponse, Lost> {
        let start = self.world.tick();
        let (world, whole) = (self.world.clone(), range == everything());
        let found = self
            .ask(async move |node| {
                if barrier {
                    node.read_barrier().await?;
                }
                let compacted = node.reader().compacted_revision();
                let found = node.reader().range(&read(range, at));
                if at > 0 && !matches!(found, Err(kelson_engine::Error::FutureRevision)) {
                    world.told.lock().old.push(Old { revision: at, compacted, refused: found.is_err() });
                }
                Ok(found?)
            })
            .await;
        let (revision, response) = found?;
        let mut told = self.world.told.lock();
        if barrier && at == 0 {
            told.answers.push(Answer { start, end: self.world.tick(), revision, wrote: false });
        }
        if whole {
            let revision = if at > 0 { at } else { revision };
            told.seen.push(Seen { revision, response: response.clone() });
        }
        Ok(response)
    }

    /// One who reads and writes.
    async fn write(mut self) {
        let (mut revision, mut known) = (1, [None; REGISTERS]);
        while !self.world.is_ending() {
            pause(self.dice.ms(0, 40)).await;
            let at = self.dice.below(REGISTERS as u64) as usize;
            match self.dice.below(20) {
                0..4 => known[at] = self.read(at).await.unwrap_or(known[at]),
                4..9 => self.put(at).await,
                9..11 => self.delete(at).await,
                11..15 => self.swap(at, known[at]).await,
                15 => self.pair().await,
                16 => drop(self.look(everything(), 0, true).await),
                17 => drop(self.look(everything(), 0, false).await),
                18 => {
                    let back = self.dice.between(0, 40) as i64;
                    drop(self.look(everything(), (revision - back).max(1), false).await);
                }
                _ => self.at = None,
            }
            revision = self.world.truth.lock().revision();
        }
    }

    async fn read(&mut self, at: usize) -> Option<Value> {
        let start = self.world.tick();
        let seen = held(&self.look(one(&register(at)), 0, true).await.ok()?);
        let end = self.world.tick();
        self.world.note(format!("register {at} reads {seen:?}"));
        self.world.told.lock().registers[at].push(Call { start, end, action: Action::Read { seen } });
        Some(seen)
    }

    fn done(&self, at: usize, start: u64, answer: &Result<Outcome, Lost>, wanted: Wanted, number: u64) {
        let end = self.world.tick();
        let action = match (answer, wanted) {
            (Err(Lost::Refused), _) => return,
            (Err(Lost::Unknown), _) => {
                self.world.told.lock().cut.push(Cut { register: at, start, wanted, number });
                return;
            }
            (Ok(Outcome::Put { .. }), Wanted::Put) => Action::Put { to: number },
            (Ok(Outcome::Txn { response, .. }), Wanted::Delete) => {
                let deleted = response.responses.iter().map(|response| match response {
                    kelson_engine::command::OpResponse::DeleteRange { deleted, .. } => *deleted,
                    _ => 0,
                });
                Action::Delete { found: deleted.sum::<i64>() > 0 }
            }
            (Ok(Outcome::Txn { response, .. }), Wanted::Swap { from }) => {
                let found = response.responses.iter().find_map(|response| match response {
                    kelson_engine::command::OpResponse::Range(found) => Some(held(found)),
                    _ => None,
                });
                let result = if response.succeeded { Swapped::Done } else { Swapped::Refused(found.flatten()) };
                Action::Swap { from, to: Some(number), result }
            }
            (Ok(other), _) => return self.world.violate("answers", format!("{wanted:?} was answered with {other:?}")),
        };
        self.world.told.lock().registers[at].push(Call { start, end, action });
    }

    async fn put(&mut self, at: usize) {
        let (start, number, key) = (self.world.tick(), self.world.number(), register(at));
        let answer = self.propose(Command::Put(put(&key, number, 0))).await;
        self.sent(&key, number, &answer);
        self.done(at, start, &answer, Wanted::Put, number);
    }

    /// A deletion writes a number beside the key, by which one sees later whether it has taken effect.
    async fn delete(&mut self, at: usize) {
        let (start, number, key) = (self.world.tick(), self.world.number(), mark(at));
        let delete = Op::DeleteRange(DeleteRange { range: one(&register(at)), prev_kv: false });
        let txn = Txn { compares: vec![], success: vec![delete, Op::Put(put(&key, number, 0))], failure: vec![] };
        let answer = self.propose(Command::Txn(txn)).await;
        self.sent(&key, number, &answer);
        self.done(at, start, &answer, Wanted::Delete, number);
    }

    async fn swap(&mut self, at: usize, from: Value) {
        let (start, number, key) = (self.world.tick(), self.world.number(), register(at));
        let target = match from {
            Some(from) => CompareTarget::Value(from.to_string().into()),
            None => CompareTarget::CreateRevision(0),
        };
        let txn = Txn {
            compares: vec![Compare { range: one(&key), result: CompareResult::Equal, target }],
            success: vec![Op::Put(put(&key, number, 0))],
            failure: vec![Op::Range(read(one(&key), 0))],
        };
        let answer = self.propose(Command::Txn(txn)).await;
        let refused = matches!(&answer, Ok(Outcome::Txn { response, .. }) if !response.succeeded);
        if !refused {
            self.sent(&key, number, &answer);
        }
        self.done(at, start, &answer, Wanted::Swap { from }, number);
    }

    /// Two keys, always written together.
    async fn pair(&mut self) {
        let number = self.world.number();
        let success = vec![Op::Put(put("pair/left", number, 0)), Op::Put(put("pair/right", number, 0))];
        let answer = self.propose(Command::Txn(Txn { compares: vec![], success, failure: vec![] })).await;
        self.sent("pair/left", number, &answer);
        self.sent("pair/right", number, &answer);
    }

    /// One who takes leases, renews them for a while, and gives them back or forgets them.
    async fn lease(mut self) {
        while !self.world.is_ending() {
            pause(self.dice.ms(20, 400)).await;
            let (id, ttl) = (self.world.number() as i64, self.dice.pick(&[1, 1, 2, 4, 6]).unwrap_or(1));
            let start = self.world.now();
            if self.propose(Command::LeaseGrant { id, ttl: ttl as i64 }).await.is_err() {
                continue;
            }
            let lease = Lease { ttl: Duration::from_secs(ttl), renewed: vec![start], revoked: None };
            self.world.told.lock().leases.insert(id, lease);
            self.hang(id).await;
            let mut before = start;
            for _ in 0..self.dice.below(8) {
                pause(self.dice.ms(50, ttl * 900)).await;
                let start = self.world.now();
                match self.ask(async move |node| node.lease_renew(id).await).await {
                    Ok(None) => break,
                    Ok(Some(_)) => {
                        self.world.note(format!("lease {id} renewed, as asked at {}", start.as_millis()));
                        if let Some(lease) = self.world.told.lock().leases.get_mut(&id) {
                            lease.renewed.push(start);
                        }
                        if start > before + PARTLY_SPENT {
                            Aim::at(&self.world, Moment::Renewed, None);
                        }
                        before = start;
                    }
                    Err(_) => {}
                }
            }
            if self.dice.percent(30) {
                if let Some(lease) = self.world.told.lock().leases.get_mut(&id) {
                    lease.revoked = Some(self.world.now());
                }
                // Whatever becomes of it.
                let _ = self.propose(Command::LeaseRevoke { id }).await;
            }
        }
    }

    async fn hang(&mut self, id: i64) {
        let number = self.world.number();
        let success = ["a", "b"].map(|side| Op::Put(put(&leased(id, side), number, id))).into();
        let answer = self.propose(Command::Txn(Txn { compares: vec![], success, failure: vec![] })).await;
        if answer.is_ok() {
            self.sent(&leased(id, "a"), number, &answer);
        }
    }

    /// One who drops history now and then.
    async fn compact(mut self) {
        while !self.world.is_ending() {
            pause(self.dice.ms(300, 1_500)).await;
            let revision = self.world.truth.lock().revision() - self.dice.between(0, 30) as i64;
            if !self.asks_to_compact(revision) {
                continue;
            }
            // Whatever becomes of it.
            let _ = self.propose(Command::Compact { revision }).await;
        }
    }
}

impl Client {
    /// Notes that it is about to; whether that makes sense.
    fn asks_to_compact(&self, revision: i64) -> bool {
        let mut told = self.world.told.lock();
        let sensible = revision > told.compacted.max(1);
        if sensible {
            told.compacted = revision;
        }
        sensible
    }
}

/// A task that ends when the clients are to end.
pub async fn while_running(world: &World, work: impl Future<Output = ()>) {
    let ending = async {
        while !world.is_ending() {
            pause(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        biased;
        () = work => {}
        () = ending => {}
    }
}
