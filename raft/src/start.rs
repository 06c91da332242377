//! From a configuration to a running node, and back down in order.
//!
//! A node runs on a thread of its own: raft, the state machine and the proposer hand work to each other many times per
//! batch, which costs next to nothing within one thread, and nobody else's work delays them.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use kelson_engine::{Backend, Engine, MemoryBackend, Reader};
use openraft::{ServerState, SnapshotPolicy, async_runtime::WatchReceiver, errors::Fatal};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::{
    Config, Data, Error, Member,
    barrier::{self, Barrier},
    codec::Identity,
    compaction::{self, Compaction},
    defrag::Defrag,
    dir::DataDir,
    forward::Forward,
    kept::Kept,
    leases::{Expiry, Leases, Revoker},
    log::{self, LogStore, disk::Disk, memory::MemoryDisk, writer::LogThread},
    membership::{self, Changes},
    network::Network,
    node::{Inner, Raft},
    peer::{Host, MemoryStaging, Receiving, Roster, Staging, Timing},
    proposer::{self, Limits},
    queue::Queue,
    state::{StateMachine, Thresholds, log_id},
    stats::StatesSent,
    task::{Home, blocking, spawn},
    types::{Membership, Peer, Types},
};

#[cfg(feature = "rocksdb")]
use crate::peer::DirStaging;

/// What a node stands on.
pub(crate) struct Parts {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) backend: Arc<dyn Backend>,
    /// Where another member's state is put.
    pub(crate) staging: Arc<dyn Staging>,
    /// Whether the state is another member's, so that the log may have to follow it.
    pub(crate) received: bool,
    /// Kept until the node has stopped.
    pub(crate) dir: Option<DataDir>,
}

impl Parts {
    pub(crate) fn open(config: &Config) -> Result<Self, Error> {
        match &config.data {
            Data::Memory => Ok(Parts::of(Arc::new(MemoryDisk::default()), Arc::new(MemoryBackend::new()))),
            Data::Dir(path) => Parts::on_disk(DataDir::open(path)?, config),
        }
    }

    /// A node on what its maker keeps hold of.
    pub(crate) fn of(disk: Arc<dyn Disk>, backend: Arc<dyn Backend>) -> Self {
        Parts { disk, backend, staging: Arc::new(MemoryStaging::default()), received: false, dir: None }
    }

    #[cfg(feature = "rocksdb")]
    pub(crate) fn on_disk(dir: DataDir, config: &Config) -> Result<Self, Error> {
        let log = config.log_dir.clone().unwrap_or_else(|| dir.log());
        let disk = log::segment::SegmentDisk::open(&log).map_err(|e| storage(&e))?.with_fsync(config.fsync);
        let received = dir.take_received()?;
        let backend = kelson_engine::RocksBackend::open(dir.state())?;
        let staging = Arc::new(DirStaging { path: dir.path().to_owned() });
        Ok(Parts { disk: Arc::new(disk), backend: Arc::new(backend), staging, received, dir: Some(dir) })
    }

    #[cfg(not(feature = "rocksdb"))]
    pub(crate) fn on_disk(dir: DataDir, _: &Config) -> Result<Self, Error> {
        let reason = "this build keeps data in memory only".to_owned();
        Err(Error::Directory { path: dir.path().to_owned(), reason })
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.as_ref().map_or_else(|| PathBuf::from("in memory"), |dir| dir.path().to_owned())
    }
}

/// Starts a node on a new thread that ends when the node does.
pub(crate) async fn on_own_thread(config: Config, parts: Parts) -> Result<Inner, Error> {
    let (started, outcome) = oneshot::channel();
    let run = move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(e) => return drop(started.send(Err(storage(&e)))),
        };
        let end = runtime.block_on(async move {
            match start(config, parts).await {
                Err(e) => {
                    drop(started.send(Err(e)));
                    None
                }
                Ok((inner, background)) => {
                    // Whoever asked for the node may be gone: dropping it then stops the background.
                    drop(started.send(Ok(inner)));
                    Some(background.run().await)
                }
            }
        });
        // With the runtime go the last tasks that hold the files open; only then can others have them.
        drop(runtime);
        if let Some(end) = end {
            end.tell();
        }
    };
    std::thread::Builder::new().name("kelson-raft".to_owned()).spawn(run).map_err(|e| storage(&e))?;
    outcome.await.unwrap_or(Err(Error::Stopped))
}

/// Opens the state. To build the index of one that has been received takes seconds of a core, and nobody waits for them who
/// does not wait for the transfer as well: whoever serves clients on the same machine comes first.
#[cfg(not(feature = "sim"))]
fn open_engine(parts: &Parts) -> Result<Engine, Error> {
    let backend = parts.backend.clone();
    if !parts.received {
        return Ok(Engine::open(backend)?);
    }
    let open = move || {
        // Where it may not be done it is not: it only spares others.
        let _ = rustix::process::nice(10);
        Engine::open(backend)
    };
    let opening = std::thread::Builder::new().name("kelson-load".to_owned()).spawn(open).map_err(|e| storage(&e))?;
    Ok(opening.join().map_err(|_| Error::Stopped)??)
}

#[cfg(feature = "sim")]
fn open_engine(parts: &Parts) -> Result<Engine, Error> {
    Ok(Engine::open(parts.backend.clone())?)
}

/// Starts a node on the current runtime. Its background must be run for the node to stop in order.
pub(crate) async fn start(mut config: Config, parts: Parts) -> Result<(Inner, Background), Error> {
    let engine = open_engine(&parts)?;
    #[cfg(feature = "sim")]
    crate::sim::opened(&engine);
    let owner = claim(&config, &parts, &engine)?;
    (config.cluster_id, config.node_id) = (owner.cluster, owner.node);
    settle(&config, &parts, &engine)?;
    let (log, log_thread) = LogStore::open(parts.disk.clone(), config.log_tail_bytes).map_err(|e| storage(&e))?;
    let reader = engine.reader();
    let leases = Arc::new(Leases::new(config.node_id, config.clock.clone(), config.lease_checkpoint, reader.clone()));
    let wanted = Arc::new(Notify::new());
    let thresholds = Thresholds { entries: config.snapshot_entries, bytes: config.snapshot_bytes };
    let compaction = Arc::new(Compaction::new());
    let queue = Arc::new(Queue::new(config.max_inflight, config.max_inflight_bytes));
    let roster = Arc::new(Roster::new(config.node_id, config.cluster_id, timing(&config), config.dial.clone()));
    let forward = Arc::new(Forward::new(config.life, roster.clone(), queue.clone()));
    let machine = StateMachine::new(engine, leases.clone(), compaction.clone(), thresholds, wanted.clone())?;
    let machine = machine.tell(forward.clone());
    let kept = Arc::new(Kept::default());
    let states_sent = Arc::new(StatesSent::default());
    let network = Network {
        roster: roster.clone(),
        backend: parts.backend.clone(),
        rate: config.state_rate,
        kept: kept.clone(),
        life: config.life,
        states: Arc::default(),
        sent: states_sent.clone(),
    };
    let raft = Raft::new(config.node_id, Arc::new(settings(&config)?), network, log.clone(), machine).await;
    let raft = raft.map_err(|e| fatal(&e))?;
    roster.follow(raft.metrics());
    forward.follow(raft.metrics());
    let leads = forward.clone();
    log.overlap_while(move || leads.leads_others());
    lead(&raft, &config).await?;
    reader.forget_tokens();
    if forward.lead().is_none_or(|lead| leases.lead(lead.term).is_err()) {
        leases.start();
    }

    let barrier = Arc::new(Barrier::new(config.max_inflight));
    let limits = Limits { commands: config.max_batch_commands, bytes: config.max_batch_bytes };
    let revoker = Revoker {
        metrics: raft.metrics(),
        queue: queue.clone(),
        leases: leases.clone(),
        expiry: Expiry {
            every: config.lease_check,
            revokes: config.lease_revokes,
            checkpoints: config.lease_checkpoints,
        },
    };
    let turn = Arc::default();
    let changes = || Changes {
        raft: raft.clone(),
        roster: roster.clone(),
        strict: config.strict_reconfig,
        turn: Arc::clone(&turn),
    };
    let (asked, asking) = mpsc::channel(membership::MOST);
    let keeping = Keeping { flushes: config.kept_flushes, kept, bytes: config.kept_bytes, log: log.clone() };
    let tasks = vec![
        spawn(barrier::run(raft.clone(), roster.clone(), barrier.clone())),
        spawn(compaction::run(raft.clone(), compaction.clone())),
        spawn(flush_when_wanted(raft.clone(), wanted.clone(), keeping)),
        spawn(revoker.run()),
        spawn(changes().run(asking)),
    ];
    let proposer = spawn(proposer::run(raft.clone(), queue.clone(), limits, forward.clone()));
    let failure = Arc::new(OnceLock::new());
    let (stop, stopping) = watch::channel(false);
    let (ended_tx, ended) = watch::channel(None);
    let (fail, failing) = mpsc::channel(1);
    roster.fail_through(fail.clone());
    let host = Arc::new(Host {
        raft: raft.clone(),
        roster: roster.clone(),
        barrier: barrier.clone(),
        leases: leases.clone(),
        queue: queue.clone(),
        changes: changes(),
        reader: reader.clone(),
        staging: parts.staging.clone(),
        receiving: Receiving::default(),
        fail,
        stopping: stopping.clone(),
    });
    let defrag = Defrag::new(reader.clone(), log.clone());
    let background = Background {
        raft: raft.clone(),
        queue: queue.clone(),
        barrier: barrier.clone(),
        forward: forward.clone(),
        election: config.election,
        proposer,
        tasks,
        reader: reader.clone(),
        defrag: defrag.clone(),
        log_thread,
        parts,
        failure: failure.clone(),
        failing,
        stopping,
        ended: ended_tx,
    };
    let compacting = compaction.subscribe();
    let inner = Inner {
        raft: raft.clone(),
        metrics: raft.metrics(),
        config,
        roster,
        forward,
        host,
        runtime: Home::current(),
        queue,
        barrier,
        leases,
        compacting,
        defrag,
        flush: wanted,
        asked,
        reader,
        log,
        states_sent,
        failure,
        stop,
        ended,
    };
    Ok((inner, background))
}

/// What one waits for on the way to other members, from what an election takes.
fn timing(config: &Config) -> Timing {
    Timing {
        connect: (config.election / 2).max(config.heartbeat),
        stall: config.election,
        lead: config.election * 2,
        request: config.request_timeout,
    }
}

/// What the data directory's log still lacks to go with its state: see [`log::follow`] and [`log::isolate`].
fn settle(config: &Config, parts: &Parts, engine: &Engine) -> Result<(), Error> {
    let applied = engine.applied().map(log_id);
    if let (true, Some(applied)) = (parts.received, applied) {
        log::follow(&*parts.disk, applied).map_err(|e| storage(&e))?;
        parts.dir.as_ref().map_or(Ok(()), DataDir::settle)?;
    }
    let is_founded = applied.is_some() || parts.disk.bounds().map_err(|e| storage(&e))?.is_some();
    if config.force_new_cluster && is_founded {
        let peers = BTreeMap::from([(config.node_id, myself(config))]);
        let alone = Membership::new(vec![[config.node_id].into()], peers);
        let alone = alone.map_err(|e| Error::Storage(e.to_string()))?;
        log::isolate(&*parts.disk, applied, alone).map_err(|e| storage(&e))?;
    }
    Ok(())
}

fn myself(config: &Config) -> Peer {
    Peer {
        name: config.name.clone(),
        peer_urls: config.peer_urls.clone(),
        client_urls: config.client_urls.clone(),
        learner: false,
    }
}

/// The members of the cluster that a configuration founds.
pub(crate) fn founders(config: &Config) -> BTreeMap<u64, Peer> {
    if config.founders.is_empty() {
        return BTreeMap::from([(config.node_id, myself(config))]);
    }
    // The same on every founder: what only one of them knows, it publishes when it has started.
    let peer = |member: &Member| {
        let Member { id, name, peer_urls, .. } = member.clone();
        (id, Peer { name, peer_urls, ..Peer::default() })
    };
    config.founders.iter().map(peer).collect()
}

/// Makes sure that log and state are this member's, and that neither is missing beside the other. Returns whose they
/// are, which may be somebody else where the configuration says to keep the ids.
fn claim(config: &Config, parts: &Parts, engine: &Engine) -> Result<Identity, Error> {
    let mine = Identity { cluster: config.cluster_id, node: config.node_id };
    let mismatch = |reason: String| Err(Error::Mismatch { path: parts.path(), reason });
    let state_is_new = engine.applied().is_none();
    let log_is_new = parts.disk.meta(log::disk::Meta::Identity).map_err(|e| storage(&e))?.is_none();
    if log_is_new && !state_is_new {
        return mismatch("it holds a state but its log is gone".to_owned());
    }
    let owner = log::identify(&*parts.disk, mine).map_err(|e| storage(&e))?;
    if owner != mine && !config.keep_ids {
        return mismatch(format!(
            "it belongs to member {:x} of cluster {:x}, not to member {:x} of cluster {:x}",
            owner.node, owner.cluster, mine.node, mine.cluster
        ));
    }
    let applied_end = engine.applied().map_or(0, |applied| applied.index + 1);
    let log_start = log::purged_end(&*parts.disk).map_err(|e| storage(&e))?;
    if applied_end < log_start {
        return mismatch(format!(
            "its state ends at log entry {applied_end} but the log begins only at {log_start}: the state is gone or old"
        ));
    }
    Ok(owner)
}

fn settings(config: &Config) -> Result<openraft::Config, Error> {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    // A follower stands for election one lease and one timeout after it last heard the leader, at the earliest one and a
    // tenth and at the latest one and a half times the election timeout.
    let lease = ms(config.election) * 3 / 4;
    let settings = openraft::Config {
        cluster_name: format!("{:x}", config.cluster_id),
        heartbeat_interval: ms(config.heartbeat),
        election_timeout_min: ms(config.election) * 2 / 5,
        election_timeout_max: lease,
        enable_pre_vote: Some(true),
        // A restart begins with an election like any other: the new term's first entry commits what the log still
        // holds, and no leader can serve from a state that lacks it.
        enable_leader_restore: Some(false),
        // Flushing the state is triggered by bytes as well as entries, which the policy here cannot express.
        snapshot_policy: SnapshotPolicy::Never,
        // What of the log is dropped is told by `flush_when_wanted`.
        max_in_snapshot_log_to_keep: u64::MAX,
        backoff: format!("{}ms", ms(config.heartbeat)),
        purge_batch_size: 1,
        max_payload_entries: 64,
        ..openraft::Config::default()
    };
    settings.validate().map_err(|e| Error::Config(e.to_string()))
}

/// Founds the group if there is none yet; a group of one elects its only voter at once, without waiting for a
/// timeout that could serve no purpose. Returns when that has applied the whole log, or there are others.
async fn lead(raft: &Raft, config: &Config) -> Result<(), Error> {
    let founds = !raft.is_initialized().await.map_err(|e| fatal(&e))?;
    if founds {
        if config.joins {
            // The leader tells who the members are.
            return Ok(());
        }
        // Every founder founds the same group, in whatever order.
        let founded = raft.initialize(founders(config)).await;
        founded.map_err(|e| Error::Storage(e.to_string()))?;
    } else if raft.voter_ids().eq([config.node_id]) {
        raft.trigger().elect(false).await.map_err(|e| fatal(&e))?;
    }
    let mut metrics = raft.metrics();
    loop {
        {
            let now = metrics.borrow_watched();
            if let Err(e) = &now.running_state {
                return Err(fatal(e));
            }
            // One that joins may have voted, or followed for a moment, without having been told yet who the members are; and
            // a founder may have lost power after its own founding gave way to another's, before it had that on disk. The
            // leader tells them, maybe with its whole state, which only a member that runs can take.
            if !founds && now.membership_config.voter_ids().next().is_none() {
                return Ok(());
            }
            let others = now.membership_config.voter_ids().any(|id| id != config.node_id);
            let leads = now.state == ServerState::Leader;
            if others || leads && now.last_applied.map(|id| id.index) == now.last_log_index {
                return Ok(());
            }
        }
        metrics.changed().await.map_err(|_| Error::Stopped)?;
    }
}

/// What of the log is kept for others though the state has it.
struct Keeping {
    /// That behind an earlier flush.
    flushes: usize,
    /// That behind a state which is on its way to a member ...
    kept: Arc<Kept>,
    /// ... while the log has at most this many bytes.
    bytes: u64,
    log: LogStore,
}

/// Flushes the state each time enough has been applied, and drops the log in front of that: all of it where this member is
/// alone, else that in front of an earlier flush, so that others find there what they lack.
async fn flush_when_wanted(raft: Raft, wanted: Arc<Notify>, keeping: Keeping) {
    let mut metrics = raft.metrics();
    let mut flushes = VecDeque::new();
    loop {
        wanted.notified().await;
        let due = metrics.borrow_watched().last_applied.map(|id| id.index);
        if raft.trigger().snapshot().await.is_err() {
            return;
        }
        let flushed = loop {
            let (snapshot, ended) = {
                let now = metrics.borrow_watched();
                (now.snapshot.map(|id| id.index), now.running_state.is_err())
            };
            if snapshot >= due {
                break snapshot;
            }
            if ended || metrics.changed().await.is_err() {
                return;
            }
        };
        let Some(flushed) = flushed else { continue };
        if flushes.back() != Some(&flushed) {
            flushes.push_back(flushed);
        }
        let (alone, allowed) = {
            let now = metrics.borrow_watched();
            let stored = |target| now.replication.as_ref()?.get(&target)?.as_ref().map(|id| id.index);
            (now.membership_config.nodes().count() <= 1, keeping.kept.allows(stored))
        };
        let most = if alone { 1 } else { keeping.flushes.max(1) };
        while flushes.len() > most {
            flushes.pop_front();
        }
        let upto = if alone || flushes.len() == most { flushes.front().copied() } else { None };
        let allowed = allowed.filter(|_| keeping.log.size() <= keeping.bytes);
        if let Some(upto) = upto.map(|upto| allowed.map_or(upto, |allowed| upto.min(allowed)))
            && raft.trigger().purge_log(upto).await.is_err()
        {
            return;
        }
    }
}

/// What runs until the node stops.
pub(crate) struct Background {
    raft: Raft,
    queue: Arc<Queue>,
    barrier: Arc<Barrier>,
    forward: Arc<Forward>,
    election: Duration,
    proposer: tokio::task::JoinHandle<()>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    reader: Reader,
    defrag: Defrag,
    log_thread: LogThread,
    parts: Parts,
    failure: Arc<OnceLock<Error>>,
    /// Why the node must end, from what this member is told by others.
    failing: mpsc::Receiver<Error>,
    stopping: watch::Receiver<bool>,
    ended: watch::Sender<Option<Result<(), Error>>>,
}

/// How a node ended, to be told once nothing of it is left.
pub(crate) struct End {
    parts: Parts,
    how: Result<(), Error>,
    ended: watch::Sender<Option<Result<(), Error>>>,
}

impl End {
    pub(crate) fn tell(self) {
        drop(self.parts);
        self.ended.send_replace(Some(self.how));
    }
}

impl Background {
    pub(crate) async fn run(mut self) -> End {
        let failed = tokio::select! {
            biased;
            _ = self.stopping.wait_for(|stop| *stop) => None,
            failure = failure_of(&self.raft) => Some(failure),
            Some(failure) = self.failing.recv() => Some(failure),
        };
        if let Some(failure) = failed {
            match failure {
                Error::Replaced => tracing::info!("the node starts again: {failure}"),
                _ => tracing::error!("the node has stopped: {failure}"),
            }
            // Before the queue closes, so that those who wait hear the reason.
            let _ = self.failure.set(failure);
        }
        // What is in the log already is answered; what still waits for a place is refused.
        self.queue.close();
        let _ = self.proposer.await;
        drain(&self.raft).await;
        hand_over(&self.raft, self.election).await;
        // Joins the core's task; an error says that it had ended already.
        let _ = self.raft.shutdown().await;
        self.barrier.close();
        self.forward.close();
        for task in self.tasks {
            task.abort();
        }
        let how = match self.failure.get() {
            Some(failure) => Err(failure.clone()),
            None => flush(self.reader).await,
        };
        self.log_thread.stop().await;
        self.defrag.stop().await;
        End { parts: self.parts, how, ended: self.ended }
    }
}

/// Waits until everything in a leader's log is applied, and so answered, unless that takes suspiciously long.
async fn drain(raft: &Raft) {
    const PATIENCE: Duration = Duration::from_secs(5);
    let mut metrics = raft.metrics();
    let settled = async {
        loop {
            {
                let now = metrics.borrow_watched();
                let leads = now.running_state.is_ok() && now.state == ServerState::Leader;
                if !leads || now.last_applied.map(|id| id.index) == now.last_log_index {
                    return;
                }
            }
            if metrics.changed().await.is_err() {
                return;
            }
        }
    };
    if tokio::time::timeout(PATIENCE, settled).await.is_err() {
        tracing::warn!("stopping with commands under way: the disk does not answer");
    }
}

/// A leader that goes in order names the follower that has most of the log to lead next, so that nobody waits for an
/// election timeout.
async fn hand_over(raft: &Raft, limit: Duration) {
    let mut metrics = raft.metrics();
    let me = *raft.node_id();
    let next = {
        let now = metrics.borrow_watched();
        let leads = now.running_state.is_ok() && now.state == ServerState::Leader;
        let votes: Vec<u64> = now.membership_config.voter_ids().collect();
        let matched = now.replication.iter().flatten().filter(|(id, _)| **id != me && votes.contains(id));
        if leads { matched.max_by_key(|(_, at)| **at).map(|(id, _)| *id) } else { None }
    };
    let Some(next) = next else { return };
    if raft.trigger().transfer_leader(next).await.is_err() {
        return;
    }
    let handed = async {
        while metrics.borrow_watched().current_leader.is_none_or(|leader| leader == me) {
            if metrics.changed().await.is_err() {
                return;
            }
        }
    };
    if tokio::time::timeout(limit, handed).await.is_err() {
        tracing::warn!("member {next:x} has not taken the lead in time");
    }
}

/// Restarting from a flushed state has nothing to replay.
async fn flush(state: Reader) -> Result<(), Error> {
    match blocking(move || state.flush()).await {
        Ok(flushed) => flushed.map(drop).map_err(Error::Engine),
        Err(e) => Err(Error::Storage(e.to_string())),
    }
}

/// Waits until raft stops by itself.
async fn failure_of(raft: &Raft) -> Error {
    let mut metrics = raft.metrics();
    loop {
        if let Err(e) = &metrics.borrow_watched().running_state {
            return fatal(e);
        }
        if metrics.changed().await.is_err() {
            return Error::Stopped;
        }
    }
}

fn fatal(error: &Fatal<Types>) -> Error {
    match error {
        Fatal::Stopped => Error::Stopped,
        Fatal::StorageError(e) => Error::Storage(e.to_string()),
        Fatal::Panicked => Error::Storage("raft has panicked".to_owned()),
    }
}

fn storage(error: &io::Error) -> Error {
    Error::Storage(error.to_string())
}
