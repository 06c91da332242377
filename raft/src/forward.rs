//! Commands proposed at a member that does not lead: sent to the leader in batches, answered when this member applies them.
//!
//! A batch is in the log of the leader it was sent to, or nowhere. So when an entry of a later leader is applied here, what
//! the earlier one was sent and has not been applied never will be, and is proposed again: nothing takes effect twice, and
//! a change of leader costs clients time, not an error.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use kelson_engine::plant::{Bug, planted};
use openraft::{RaftMetrics, ServerState, async_runtime::WatchReceiver, type_config::alias::WatchReceiverOf};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::{
    Error,
    batch::{Batch, Origin},
    inbox::Inboxes,
    node::is_learner,
    peer::{Failure, Kind, Roster, message},
    queue::{Queue, Reply, Waiting},
    task,
    types::{LeaderId, Replies, Types},
};

/// Batches under way to the leader; the next one forms meanwhile.
const PLACES: usize = 4;
/// Pause before something refused is tried again, and between two looks for a leader.
const PAUSE: Duration = Duration::from_millis(10);

/// What waits for its entry to be applied here.
struct Pending {
    /// Whom it was sent to.
    leader: LeaderId,
    batch: Bytes,
    replies: Vec<Reply>,
}

/// Shared by the proposer, which sends, and the state machine, which answers.
pub(crate) struct Forward {
    me: u64,
    /// Of this start of the node.
    life: u64,
    roster: Arc<Roster>,
    queue: Arc<Queue>,
    metrics: OnceLock<WatchReceiverOf<Types, RaftMetrics<Types>>>,
    state: Mutex<State>,
    places: Arc<Semaphore>,
    /// Raft has refused a batch.
    refusal: AtomicBool,
}

#[derive(Default)]
struct State {
    next: u64,
    pending: BTreeMap<u64, Pending>,
    /// Whose entry was applied last.
    leader: Option<LeaderId>,
    closed: bool,
}

/// Who leads, as far as this member knows.
enum Leads {
    Me,
    Other(LeaderId),
    Nobody,
}

impl Forward {
    pub(crate) fn new(life: u64, roster: Arc<Roster>, queue: Arc<Queue>) -> Self {
        let (metrics, state, places) = (OnceLock::new(), Mutex::default(), Arc::new(Semaphore::new(PLACES)));
        Forward { me: roster.me, life, roster, queue, metrics, state, places, refusal: AtomicBool::new(false) }
    }

    /// Follows who leads from here on.
    pub(crate) fn follow(&self, metrics: WatchReceiverOf<Types, RaftMetrics<Types>>) {
        // Called once.
        let _ = self.metrics.set(metrics);
    }

    fn leader(&self) -> Leads {
        let Some(metrics) = self.metrics.get() else { return Leads::Nobody };
        let now = metrics.borrow_watched();
        if now.state == ServerState::Leader {
            return Leads::Me;
        }
        match now.current_leader {
            Some(leader) if leader != self.me && self.roster.hears() => Leads::Other(now.vote.leader_id),
            _ => Leads::Nobody,
        }
    }

    /// This member's lead, if it leads.
    pub(crate) fn lead(&self) -> Option<LeaderId> {
        let now = self.metrics.get()?.borrow_watched();
        (now.state == ServerState::Leader).then_some(now.vote.leader_id)
    }

    /// Whether this member is the only one, learners included, and leads.
    pub(crate) fn is_alone(&self) -> bool {
        let Some(metrics) = self.metrics.get() else { return false };
        let now = metrics.borrow_watched();
        now.state == ServerState::Leader && now.membership_config.nodes().count() == 1
    }

    /// Sends what waits to the leader; returns when the next batch may form. Where nobody leads it goes back to the queue
    /// after a short while, and whoever has given up by then is left out.
    pub(crate) async fn send(self: &Arc<Self>, waiting: Vec<Waiting>) {
        let Ok(place) = self.places.clone().acquire_owned().await else { return };
        let (waiting, bound): (Vec<_>, Vec<_>) =
            waiting.into_iter().filter(|waiting| !waiting.reply.is_closed()).partition(|waiting| waiting.term == 0);
        refuse(bound, &Error::LeaderChanged);
        if self.metrics.get().is_some_and(|metrics| is_learner(&metrics.borrow_watched(), self.me)) {
            return refuse(waiting, &Error::Learner);
        }
        let leader = match self.leader() {
            Leads::Other(leader) if !waiting.is_empty() => leader,
            Leads::Me => return self.give_back(waiting),
            _ => {
                tokio::time::sleep(PAUSE).await;
                return self.give_back(waiting);
            }
        };
        let bytes = waiting.iter().map(|waiting| waiting.bytes).sum();
        let (commands, replies): (Vec<_>, Vec<_>) = waiting.into_iter().map(|w| (w.command, w.reply)).unzip();
        let batch = Batch::encode(&commands, bytes);
        let Some(number) = self.note(leader, &batch, replies) else { return };
        let forward = self.clone();
        task::spawn(async move {
            forward.call(leader, number, batch).await;
            drop(place);
        });
    }

    fn note(&self, leader: LeaderId, batch: &Bytes, replies: Vec<Reply>) -> Option<u64> {
        let mut state = self.state.lock();
        if state.closed {
            return None;
        }
        // What nobody waits for any more may have been lost on the way.
        state.pending.retain(|_, pending| pending.replies.iter().any(|reply| !reply.is_closed()));
        state.next += 1;
        let number = state.next;
        state.pending.insert(number, Pending { leader, batch: batch.clone(), replies });
        Some(number)
    }

    async fn call(&self, leader: LeaderId, number: u64, batch: Bytes) {
        let origin = Origin { node: self.me, life: self.life, number };
        let link = self.roster.link(leader.node_id);
        let limit = self.roster.timing.request;
        let called =
            link.call(&self.roster, Kind::Propose, limit, |frame| message::put_propose(frame, leader, &origin, &batch));
        match called.await {
            // It is in the log, and is answered when it is applied.
            Ok(_) => {}
            // It is in no log and will be in none.
            Err(Failure::Unreached(_) | Failure::Refused(Error::NoLeader)) => self.retry(number).await,
            Err(Failure::Lost(_)) if planted(Bug::LostIsRetried) => self.retry(number).await,
            Err(Failure::Refused(error @ (Error::TooManyRequests | Error::Removed))) => {
                let pending = self.state.lock().pending.remove(&number);
                for reply in pending.into_iter().flat_map(|pending| pending.replies) {
                    reply.tell(Err(error.clone()));
                }
            }
            // What becomes of it shows in the log.
            Err(Failure::Refused(_) | Failure::Lost(_)) => {}
        }
    }

    async fn retry(&self, number: u64) {
        tokio::time::sleep(PAUSE).await;
        let pending = self.state.lock().pending.remove(&number);
        pending.into_iter().for_each(|pending| self.again(pending));
    }

    /// The state machine applies an entry of this leader.
    pub(crate) fn observe(&self, leader: LeaderId) {
        let mut state = self.state.lock();
        if state.leader == Some(leader) {
            return;
        }
        state.leader = Some(leader);
        let lost: Vec<u64> =
            state.pending.iter().filter(|(_, pending)| pending.leader < leader).map(|(number, _)| *number).collect();
        let lost: Vec<Pending> = lost.iter().filter_map(|number| state.pending.remove(number)).collect();
        drop(state);
        lost.into_iter().for_each(|pending| self.again(pending));
    }

    /// A batch that came from some member has been applied: if it is this one, whoever waits is answered.
    pub(crate) fn complete(&self, origin: &Origin, replies: &mut Replies) {
        if origin.node != self.me || origin.life != self.life {
            return;
        }
        let Some(pending) = self.state.lock().pending.remove(&origin.number) else { return };
        let mut inboxes = Inboxes::default();
        for (reply, outcome) in pending.replies.into_iter().zip(std::mem::take(replies)) {
            reply.send(outcome.map_err(Error::Engine), &mut inboxes);
        }
    }

    /// Proposes once more what is known to have no effect.
    fn again(&self, pending: Pending) {
        match Batch::decode(pending.batch) {
            Ok(commands) => self.give_back(weighed(commands, pending.replies)),
            Err(why) => tracing::error!("a batch of this member's own does not read back: {why}"),
        }
    }

    fn give_back(&self, waiting: Vec<Waiting>) {
        waiting.into_iter().for_each(|waiting| self.queue.give_back(waiting));
    }

    /// This member's raft has refused a batch, which therefore is in no log.
    /// What was bound to a term is not proposed again.
    pub(crate) fn refused(&self, batch: &Batch, replies: Vec<Reply>, terms: &[u64]) {
        self.refusal.store(true, Ordering::SeqCst);
        match Batch::decode(batch.encoded().clone()) {
            Ok(commands) => {
                let terms = terms.iter().copied().chain(std::iter::repeat(0));
                let waiting = weighed(commands, replies).into_iter().zip(terms);
                let waiting = waiting.map(|(waiting, term)| Waiting { term, ..waiting });
                let (waiting, bound): (Vec<_>, Vec<_>) = waiting.partition(|waiting| waiting.term == 0);
                refuse(bound, &Error::LeaderChanged);
                self.give_back(waiting);
            }
            Err(why) => tracing::error!("a batch of this member's own does not read back: {why}"),
        }
    }

    /// Whether raft has refused a batch since the last call.
    pub(crate) fn was_refused(&self) -> bool {
        self.refusal.swap(false, Ordering::SeqCst)
    }

    /// Drops those who wait, which tells them.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.pending.clear();
    }
}

fn refuse(refused: Vec<Waiting>, why: &Error) {
    for waiting in refused {
        waiting.reply.tell(Err(why.clone()));
    }
}

fn weighed(commands: Vec<kelson_engine::Command>, replies: Vec<Reply>) -> Vec<Waiting> {
    let waiting = commands.into_iter().zip(replies).filter_map(|(command, reply)| Waiting::new(command, reply));
    waiting.collect()
}
