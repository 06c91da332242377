//! The handle through which everybody else uses the group.

use std::sync::{Arc, OnceLock};

use kelson_engine::{Command, Outcome, Reader};
use openraft::{RaftMetrics, ServerState, async_runtime::WatchReceiver, type_config::alias::WatchReceiverOf};
use tokio::{
    sync::{
        Notify,
        mpsc::{self, error::TrySendError},
        oneshot, watch,
    },
    time::{Duration, timeout},
};

use crate::{
    Config, Data, Error, Member, Status,
    barrier::Barrier,
    defrag::Defrag,
    inbox::{Inbox, Ticket},
    leases::{Leases, Renewal},
    log::LogStore,
    membership::Update,
    queue::{Queue, Reply},
    start::{self, Parts},
    state::StateMachine,
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
    pub(crate) updates: mpsc::Sender<Update>,
    pub(crate) reader: Reader,
    pub(crate) log: LogStore,
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
    /// [`Error::NoLeader`] when another member leads or none does, [`Error::Timeout`], [`Error::Stopped`].
    pub async fn read_barrier(&self) -> Result<(), Error> {
        if self.read_is_free() {
            return Ok(());
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
            leader: metrics.current_leader.unwrap_or(0),
            is_leader: metrics.state == ServerState::Leader,
            is_learner: metrics.state == ServerState::Learner,
            term: metrics.current_term,
            index: metrics.last_log_index.unwrap_or(0),
            committed: index(&metrics.local_committed),
            applied: index(&metrics.last_applied),
            db_size: 0,
            db_size_in_use: 0,
            log_size: 0,
            pending: inner.queue.len() as u64,
            syncs: inner.log.shared().syncs.snapshot(),
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
    /// members those it was founded with or that [`Node::update_member`] has set since.
    pub fn members(&self) -> Vec<Member> {
        let config = &self.inner.config;
        let membership = self.inner.metrics.borrow_watched().membership_config.clone();
        let voters: Vec<u64> = membership.voter_ids().collect();
        let member = |(id, peer): (&u64, &crate::types::Peer)| {
            let is_learner = !voters.contains(id);
            let (name, client_urls) = match *id == config.node_id {
                true => (config.name.clone(), config.client_urls.clone()),
                false => (peer.name.clone(), peer.client_urls.clone()),
            };
            Member { id: *id, name, peer_urls: peer.peer_urls.clone(), client_urls, is_learner }
        };
        membership.nodes().map(member).collect()
    }

    /// The time by this member's clock, in milliseconds from an arbitrary start.
    pub fn now_ms(&self) -> u64 {
        self.inner.config.clock.now_ms()
    }

    /// Replaces the addresses under which other members reach a member; every member learns it, and a restart keeps it.
    ///
    /// # Errors
    /// [`Error::NoMember`] for an id that is no member's, else why it could not be ordered.
    pub async fn update_member(&self, id: u64, peer_urls: Vec<String>) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        let update = Update { id, peer_urls, reply };
        self.inner.updates.try_send(update).map_err(|error| match error {
            TrySendError::Full(_) => Error::TooManyRequests,
            TrySendError::Closed(_) => self.explain(Error::Stopped),
        })?;
        self.wait(answer).await
    }

    /// Gives a lease its full time again and returns that in seconds; `None` when there is no such lease or this
    /// member does not lead. Nearly always without waiting: only where a checkpoint has noted less, that is first taken
    /// back in the log.
    ///
    /// # Errors
    /// As [`Node::propose`], when a checkpoint could not be taken back.
    pub async fn lease_renew(&self, id: i64) -> Result<Option<i64>, Error> {
        if !self.is_leader() {
            return Ok(None);
        }
        let begun = self.inner.leases.renew(id, &self.inner.queue).map_err(|e| self.explain(e))?;
        let (ttl, answer) = match begun {
            None => return Ok(None),
            Some(Renewal::Done(ttl)) => return Ok(Some(ttl)),
            Some(Renewal::Noting(ttl, answer)) => (ttl, answer),
        };
        self.wait(answer).await?;
        Ok(Some(ttl))
    }

    /// Seconds that a lease has left, rounded down; `None` when there is no such lease.
    pub fn lease_remaining(&self, id: i64) -> Option<i64> {
        self.inner.leases.remaining(id)
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
