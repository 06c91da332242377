//! The handle through which everybody else uses the group.

use std::sync::{Arc, OnceLock};

use kelson_engine::{Command, Outcome, Reader};
use openraft::{
    RaftMetrics, ServerState,
    async_runtime::{Instant as _, WatchReceiver},
    type_config::alias::WatchReceiverOf,
};
use tokio::{
    sync::{
        Notify,
        mpsc::{self, error::TrySendError},
        oneshot, watch,
    },
    time::{Duration, Instant, timeout},
};

use crate::{
    Config, Data, Error, Member, Status,
    barrier::{self, Barrier},
    defrag::Defrag,
    forward::Forward,
    inbox::{Inbox, Ticket},
    leases::{self, Leases},
    log::LogStore,
    membership::{self, Asked, Change},
    peer::{Connection, Failure, Host, Kind, Roster, message},
    queue::{Queue, Reply},
    start::{self, Parts},
    state::StateMachine,
    stats::StatesSent,
    task::Home,
    types::Types,
};

/// How long a defragmentation waits for the log's front to go before it rewrites that too.
const PURGE_PATIENCE: Duration = Duration::from_secs(5);

/// openraft's handle with this crate's types.
pub(crate) type Raft = openraft::Raft<Types, StateMachine>;

/// One member of the group. Clones share it; when the last one goes without [`Node::shutdown`] the node stops by
/// itself, without waiting.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) raft: Raft,
    pub(crate) roster: Arc<Roster>,
    pub(crate) forward: Arc<Forward>,
    pub(crate) host: Arc<Host>,
    /// Where the node's tasks run.
    pub(crate) runtime: Home,
    pub(crate) metrics: WatchReceiverOf<Types, RaftMetrics<Types>>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) barrier: Arc<Barrier>,
    pub(crate) leases: Arc<Leases>,
    /// Whether a compaction has something left to free.
    pub(crate) compacting: watch::Receiver<bool>,
    pub(crate) defrag: Defrag,
    /// Asks for a flush of the state, after which the log in front of it goes.
    pub(crate) flush: Arc<Notify>,
    /// Changes of members that are to be made.
    pub(crate) asked: mpsc::Sender<Asked>,
    pub(crate) reader: Reader,
    pub(crate) log: LogStore,
    pub(crate) states_sent: Arc<StatesSent>,
    pub(crate) failure: Arc<OnceLock<Error>>,
    /// Set to ask the background to end.
    pub(crate) stop: watch::Sender<bool>,
    /// How the background ended.
    pub(crate) ended: watch::Receiver<Option<Result<(), Error>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

impl Node {
    /// Opens or creates a node and returns when it leads, or follows, and has applied everything it knows to be
    /// committed: all that was ever acknowledged can be read.
    ///
    /// # Errors
    /// [`Error::InUse`], [`Error::Directory`] and [`Error::Mismatch`] for a data directory that cannot be used,
    /// [`Error::Storage`] for content that does not read back, [`Error::Config`].
    pub async fn open(config: Config) -> Result<Node, Error> {
        config.validate()?;
        let parts = Parts::open(&config)?;
        Node::open_parts(config, parts).await
    }

    pub(crate) async fn open_parts(config: Config, parts: Parts) -> Result<Node, Error> {
        start::on_own_thread(config, parts).await.map(|inner| Node { inner: Arc::new(inner) })
    }

    #[cfg(feature = "sim")]
    pub(crate) fn of(inner: Arc<Inner>) -> Node {
        Node { inner }
    }

    #[cfg(feature = "sim")]
    pub(crate) fn raft(&self) -> &Raft {
        &self.inner.raft
    }

    /// Orders a command, makes it durable, applies it and returns what it did.
    ///
    /// When the caller stops waiting the command takes effect all the same.
    ///
    /// # Errors
    /// [`Error::Engine`] when the state machine refused it, else why it could not be ordered or its fate is unknown.
    pub async fn propose(&self, command: Command) -> Result<Outcome, Error> {
        let answer = self.inner.queue.push(command).map_err(|e| self.explain(e))?;
        self.wait(answer).await
    }

    /// Begins what [`Node::propose`] does, for one who has many commands under way: the outcome goes into `inbox` under
    /// `number`, exactly once, whatever becomes of the node. How long to wait for it is the caller's affair.
    ///
    /// # Errors
    /// Why it could not be ordered; then nothing goes into the inbox.
    pub fn submit(&self, command: Command, inbox: &Arc<Inbox>, number: u64) -> Result<(), Error> {
        let reply = Reply::Many(Ticket::new(inbox, number));
        self.inner.queue.push_for(command, reply).map_err(|e| self.explain(e))
    }

    /// Why a command was not answered whose outcome is [`Error::Stopped`]: that is known when the node has ended, or not at
    /// all, when that takes too long.
    pub async fn end(&self) -> Error {
        let _ = timeout(self.inner.config.request_timeout, self.stopped()).await;
        self.explain(Error::Stopped)
    }

    /// How long a caller of [`Node::submit`] is to wait, as [`Node::propose`] does.
    pub fn request_timeout(&self) -> Duration {
        self.inner.config.request_timeout
    }

    /// Returns when everything that was acknowledged before the call can be read here: the linearizable read's first
    /// half. Free while this member leads alone, else one round of heartbeats shared with all who wait.
    ///
    /// # Errors
    /// [`Error::NoLeader`] where none is found within [`Config::request_timeout`], [`Error::Timeout`], [`Error::Learner`],
    /// [`Error::Stopped`].
    pub async fn read_barrier(&self) -> Result<(), Error> {
        if self.read_is_free() {
            return Ok(());
        }
        if self.is_learner() {
            return Err(Error::Learner);
        }
        self.barrier_round().await
    }

    /// Whether [`Node::read_barrier`] would have nothing to wait for at this moment.
    pub fn read_is_free(&self) -> bool {
        // Acknowledged means applied here, before the answer went out, and nobody else can acknowledge anything.
        self.leads_alone()
    }

    /// Waits for a round of heartbeats that begins after this call.
    pub(crate) async fn barrier_round(&self) -> Result<(), Error> {
        let answer = self.inner.barrier.join().map_err(|e| self.explain(e))?;
        self.wait(answer).await.map_err(|e| self.explain(e))
    }

    /// Consistent reads of the state; not linearizable without [`Node::read_barrier`] before.
    pub fn reader(&self) -> &Reader {
        &self.inner.reader
    }

    /// This member's view of itself and its group at this moment.
    pub fn status(&self) -> Status {
        let inner = &*self.inner;
        let failure = inner.failure.get().map(ToString::to_string);
        let metrics = inner.metrics.borrow_watched();
        let index = |id: &Option<crate::types::LogId>| id.map_or(0, |id| id.index);
        let mut status = Status {
            member_id: inner.config.node_id,
            cluster_id: inner.config.cluster_id,
            leader: self.heard_leader(&metrics),
            is_leader: metrics.state == ServerState::Leader,
            is_learner: is_learner(&metrics, inner.config.node_id),
            term: metrics.current_term,
            index: metrics.last_log_index.unwrap_or(0),
            committed: index(&metrics.local_committed),
            applied: index(&metrics.last_applied),
            db_size: 0,
            db_size_in_use: 0,
            log_size: 0,
            pending: inner.queue.len() as u64,
            syncs: inner.log.shared().syncs.snapshot(),
            states_sent: inner.states_sent.snapshot(),
            failure,
        };
        // The guard blocks raft: what may take long is asked without it.
        drop(metrics);
        inner.reader.measure_size();
        status.db_size = inner.reader.size_bytes();
        status.db_size_in_use = inner.reader.in_use_bytes();
        status.log_size = inner.log.size();
        status
    }

    /// Where the node keeps its data; `None` when that is memory.
    pub fn data_dir(&self) -> Option<&std::path::Path> {
        match &self.inner.config.data {
            Data::Dir(path) => Some(path),
            Data::Memory => None,
        }
    }

    /// All members. This one's name and its addresses for clients are those it was opened with, its addresses for
    /// members those it was founded with or that a [`Change`] has set since. A member without a name has not started yet.
    pub fn members(&self) -> Vec<Member> {
        let config = &self.inner.config;
        let mut members = membership::members(self.inner.metrics.borrow_watched().membership_config.membership());
        for me in members.iter_mut().filter(|member| member.id == config.node_id) {
            (me.name, me.client_urls) = (config.name.clone(), config.client_urls.clone());
        }
        members
    }

    /// The time by this member's clock, in milliseconds from an arbitrary start.
    pub fn now_ms(&self) -> u64 {
        self.inner.config.clock.now_ms()
    }

    /// Serves a stream that another member has opened, until it ends: it must begin with
    /// [`GREETING`](crate::GREETING). Returns at once.
    pub fn accept(&self, stream: Box<dyn Connection>) {
        self.inner.runtime.spawn(self.inner.host.clone().serve(stream));
    }

    /// Makes a change of members; when this returns it holds for every reader of this member. Can be asked of any member.
    ///
    /// # Errors
    /// The rules that it would break, in etcd's words; else why it could not be ordered, or its fate is unknown.
    pub async fn change_members(&self, change: Change) -> Result<(), Error> {
        if self.is_learner() { Err(Error::Learner) } else { self.change(change).await }
    }

    async fn change(&self, change: Change) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.inner.asked.try_send(Asked { change, reply }).map_err(|error| match error {
            TrySendError::Full(_) => Error::TooManyRequests,
            TrySendError::Closed(_) => self.explain(Error::Stopped),
        })?;
        let index = self.wait(answer).await?;
        barrier::applied(&self.inner.raft, index, self.inner.config.request_timeout).await
    }

    /// Lets another member lead; returns when it does.
    ///
    /// # Errors
    /// [`Error::NotLeader`], [`Error::BadTransferee`] for who is no member or has no vote, [`Error::TransferTimeout`].
    pub async fn transfer_leader(&self, to: u64) -> Result<(), Error> {
        if !self.is_leader() {
            return Err(Error::NotLeader);
        }
        let votes = self.inner.metrics.borrow_watched().membership_config.voter_ids().any(|id| id == to);
        if !votes {
            return Err(Error::BadTransferee);
        }
        if to == self.inner.config.node_id {
            return Ok(());
        }
        self.inner.raft.trigger().transfer_leader(to).await.map_err(|_| self.explain(Error::Stopped))?;
        let mut metrics = self.inner.metrics.clone();
        let moved = async {
            while metrics.borrow_watched().current_leader != Some(to) {
                if metrics.changed().await.is_err() {
                    return Err(Error::Stopped);
                }
            }
            Ok(())
        };
        timeout(self.inner.config.election * 2, moved).await.unwrap_or(Err(Error::TransferTimeout))
    }

    /// Returns when this member takes part: there is a leader, what was committed before the call is applied here, and
    /// the others know this member's name and where clients reach it. Tries for as long as that takes.
    ///
    /// # Errors
    /// [`Error::Stopped`], or what made the node stop.
    pub async fn joined(&self) -> Result<(), Error> {
        const PAUSE: Duration = Duration::from_millis(100);
        loop {
            match self.take_part().await {
                Ok(()) => return Ok(()),
                Err(error @ (Error::Stopped | Error::Removed | Error::Replaced | Error::Storage(_))) => {
                    return Err(self.explain(error));
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
            if self.inner.ended.borrow().is_some() {
                return Err(self.explain(Error::Stopped));
            }
        }
    }

    async fn take_part(&self) -> Result<(), Error> {
        if !self.read_is_free() {
            self.barrier_round().await?;
        }
        let config = &self.inner.config;
        let (id, name, client_urls) = (config.node_id, config.name.clone(), config.client_urls.clone());
        let membership = self.inner.metrics.borrow_watched().membership_config.clone();
        let known = membership.membership().get_node(&id);
        // A member that is alone has nobody to tell.
        if membership.nodes().count() == 1 && known.is_some()
            || known.is_some_and(|peer| peer.name == name && peer.client_urls == client_urls)
        {
            return Ok(());
        }
        self.change(Change::Publish { id, name, client_urls }).await
    }

    /// Gives a lease its full time again and returns that in seconds; `None` when there is no such lease. Without waiting
    /// where this member leads alone; else the leader, which is asked, first makes sure that it leads, in one round with all
    /// who wait for one. Only where a checkpoint has noted less, that is first taken back in the log.
    ///
    /// # Errors
    /// [`Error::NoLeader`]; as [`Node::propose`], when a checkpoint could not be taken back.
    pub async fn lease_renew(&self, id: i64) -> Result<Option<i64>, Error> {
        self.at_leader(Kind::Renew, id).await
    }

    /// Seconds that a lease has left, rounded down; `None` when there is no such lease.
    ///
    /// # Errors
    /// [`Error::NoLeader`], where another member leads and cannot be asked.
    pub async fn lease_remaining(&self, id: i64) -> Result<Option<i64>, Error> {
        self.at_leader(Kind::Left, id).await
    }

    /// Asks the leader about a lease, be it this member or another; waits for one where none leads.
    async fn at_leader(&self, kind: Kind, lease: i64) -> Result<Option<i64>, Error> {
        const PAUSE: Duration = Duration::from_millis(10);
        let inner = &*self.inner;
        let until = Instant::now() + inner.config.request_timeout;
        if self.is_learner() {
            return Err(Error::Learner);
        }
        loop {
            if let Some(lead) = inner.forward.lead() {
                let answer = match kind {
                    Kind::Left => inner.leases.remaining(lease, lead.term),
                    _ => {
                        let barrier = (!self.read_is_free()).then_some(&*inner.barrier);
                        let renewed = leases::renew(&inner.leases, &inner.queue, barrier, lease, lead.term);
                        timeout(inner.config.request_timeout, renewed).await.unwrap_or(Err(Error::Timeout))
                    }
                };
                // Where another one leads by now, its answer counts.
                let counts = inner.forward.lead() == Some(lead) && answer != Err(Error::NoLeader);
                if counts || Instant::now() + PAUSE >= until {
                    let answer = if counts { answer } else { Err(Error::NoLeader) };
                    return answer.map_err(|e| self.explain(e));
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            let leader = self.heard_leader(&inner.metrics.borrow_watched());
            let left = until.saturating_duration_since(Instant::now());
            if leader != 0 {
                // On the node's own thread, where its streams live.
                let (roster, link) = (inner.roster.clone(), inner.roster.link(leader));
                let asking = async move {
                    let body = message::encode_number(lease.cast_unsigned());
                    link.call(&roster, kind, left, |frame| frame.put(&body)).await
                };
                match inner.runtime.spawn(asking).await.map_err(|_| self.explain(Error::Stopped))? {
                    Ok(body) => return message::seconds(body).map_err(Error::Storage),
                    Err(Failure::Refused(Error::NoLeader) | Failure::Unreached(_) | Failure::Lost(_)) => {}
                    Err(Failure::Refused(error)) => return Err(error),
                }
            }
            if left <= PAUSE || self.inner.ended.borrow().is_some() {
                return Err(self.explain(if leader == 0 { Error::NoLeader } else { Error::Timeout }));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The leader, if it has been heard lately: by this member, or, where this member leads, by enough others.
    fn heard_leader(&self, now: &RaftMetrics<Types>) -> u64 {
        let inner = &*self.inner;
        let Some(leader) = now.current_leader else { return 0 };
        let heard = if leader == inner.config.node_id {
            let alone = now.membership_config.voter_ids().count() == 1;
            alone || now.last_quorum_acked.is_some_and(|at| at.elapsed() < inner.roster.timing.lead)
        } else {
            inner.roster.hears()
        };
        if heard { leader } else { 0 }
    }

    /// Whether this member has no vote and waits to be promoted.
    pub fn is_learner(&self) -> bool {
        is_learner(&self.inner.metrics.borrow_watched(), self.inner.config.node_id)
    }

    /// Whether a leader is known and has been heard lately.
    pub fn has_leader(&self) -> bool {
        self.heard_leader(&self.inner.metrics.borrow_watched()) != 0
    }

    /// Returns when no compaction has anything left to free here and the files hold nothing of it any more: what etcd
    /// calls a physical compaction.
    ///
    /// # Errors
    /// [`Error::Stopped`] when the node ends before, [`Error::Engine`] when the disk fails.
    pub async fn compaction_done(&self) -> Result<(), Error> {
        let mut compacting = self.inner.compacting.clone();
        let done = compacting.wait_for(|pending| !pending).await.map(drop);
        done.map_err(|_| self.explain(Error::Stopped))?;
        self.inner.defrag.compacted().await.map_err(|e| self.explain(e))
    }

    /// Rewrites state and log so that the space of what was overwritten, deleted or compacted away is given back.
    /// Reads and writes go on; a second call waits for the first. Needs free space on disk for a second copy of what is
    /// being rewritten, and as much time as reading and writing it takes.
    ///
    /// # Errors
    /// [`Error::Engine`] and [`Error::Storage`] when the disk fails, [`Error::Stopped`] when the node ends before.
    pub async fn defragment(&self) -> Result<(), Error> {
        // First the log's front goes, so that it need not be rewritten. Nothing is lost when that takes too long.
        let upto = self.inner.reader.applied().map(|applied| applied.index);
        self.inner.flush.notify_one();
        let mut metrics = self.inner.metrics.clone();
        let purged = async {
            while metrics.borrow_watched().purged.map(|id| id.index) < upto && metrics.changed().await.is_ok() {}
        };
        let _ = timeout(PURGE_PATIENCE, purged).await;
        self.inner.defrag.whole().await.map_err(|e| self.explain(e))
    }

    /// Whether this member leads at present.
    pub fn is_leader(&self) -> bool {
        self.inner.metrics.borrow_watched().state == ServerState::Leader
    }

    /// Returns when the node has stopped: `Ok` after a shutdown, else what went wrong. A process whose node has failed
    /// should end, because nothing can be written any more.
    pub async fn stopped(&self) -> Result<(), Error> {
        let mut ended = self.inner.ended.clone();
        match ended.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(how)) => how.clone(),
            _ => Err(Error::Stopped),
        }
    }

    /// Refuses new commands, answers those under way, flushes and closes everything. Safe to call again.
    ///
    /// # Errors
    /// What made the node stop before, or the last flush fail.
    pub async fn shutdown(&self) -> Result<(), Error> {
        // Here and not only by the node's thread, which may be waiting for the disk.
        self.inner.queue.close();
        self.inner.stop.send_replace(true);
        self.stopped().await
    }

    /// Whether this member is the whole electorate and leads. Read from what raft publishes before it acts on anything
    /// that could commit a membership with other voters, so it is never true for too long.
    fn leads_alone(&self) -> bool {
        let metrics = self.inner.metrics.borrow_watched();
        let configs = metrics.membership_config.get_joint_config();
        metrics.state == ServerState::Leader
            && matches!(configs.as_slice(), [only] if only.len() == 1 && only.contains(&self.inner.config.node_id))
    }

    async fn wait<T>(&self, answer: tokio::sync::oneshot::Receiver<Result<T, Error>>) -> Result<T, Error> {
        let limit: Duration = self.inner.config.request_timeout;
        match timeout(limit, answer).await {
            Ok(Ok(outcome)) => outcome,
            // Nobody is left to answer.
            Ok(Err(_)) => Err(self.end().await),
            Err(_) => Err(Error::Timeout),
        }
    }

    /// A node that stopped by itself says why.
    fn explain(&self, error: Error) -> Error {
        match (error, self.inner.failure.get()) {
            (Error::Stopped, Some(failure)) => failure.clone(),
            (error, _) => error,
        }
    }
}

/// Whether member `me` has no vote and waits to be promoted; not so one that gets its vote by itself.
pub(crate) fn is_learner(now: &RaftMetrics<Types>, me: u64) -> bool {
    now.state == ServerState::Learner
        && now.membership_config.membership().get_node(&me).is_some_and(|peer| peer.learner)
}
