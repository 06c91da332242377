//! From a configuration to a running node, and back down in order.
//!
//! A node runs on a thread of its own: raft, the state machine and the proposer hand work to each other many times per
//! batch, which costs next to nothing within one thread, and nobody else's work delays them.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use kelson_engine::{Backend, Engine, MemoryBackend, Reader};
use openraft::{ServerState, SnapshotPolicy, async_runtime::WatchReceiver, errors::Fatal};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::{
    Config, Data, Error,
    barrier::{self, Barrier},
    codec::Identity,
    compaction::{self, Compaction},
    defrag::Defrag,
    dir::DataDir,
    leases::{Expiry, Leases, Revoker},
    log::{self, LogStore, disk::Disk, memory::MemoryDisk, writer::LogThread},
    membership,
    network::Alone,
    node::{Inner, Raft},
    proposer::{self, Limits},
    queue::Queue,
    state::{StateMachine, Thresholds},
    types::{Peer, Types},
};

/// What a node stands on.
pub(crate) struct Parts {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) backend: Arc<dyn Backend>,
    /// Kept until the node has stopped.
    pub(crate) dir: Option<DataDir>,
}

impl Parts {
    pub(crate) fn open(config: &Config) -> Result<Self, Error> {
        match &config.data {
            Data::Memory => {
                Ok(Parts { disk: Arc::new(MemoryDisk::default()), backend: Arc::new(MemoryBackend::new()), dir: None })
            }
            Data::Dir(path) => Parts::on_disk(DataDir::open(path)?, config),
        }
    }

    #[cfg(feature = "rocksdb")]
    pub(crate) fn on_disk(dir: DataDir, config: &Config) -> Result<Self, Error> {
        let log = config.log_dir.clone().unwrap_or_else(|| dir.log());
        let disk = log::segment::SegmentDisk::open(&log).map_err(|e| storage(&e))?.with_fsync(config.fsync);
        let backend = kelson_engine::RocksBackend::open(dir.state())?;
        Ok(Parts { disk: Arc::new(disk), backend: Arc::new(backend), dir: Some(dir) })
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

/// Starts a node on the current runtime. Its background must be run for the node to stop in order.
async fn start(mut config: Config, parts: Parts) -> Result<(Inner, Background), Error> {
    let engine = Engine::open(parts.backend.clone())?;
    let owner = claim(&config, &parts, &engine)?;
    (config.cluster_id, config.node_id) = (owner.cluster, owner.node);
    let (log, log_thread) = LogStore::open(parts.disk.clone(), config.log_tail_bytes).map_err(|e| storage(&e))?;
    let reader = engine.reader();
    let leases = Arc::new(Leases::new(config.clock.clone(), config.lease_checkpoint, reader.clone()));
    let wanted = Arc::new(Notify::new());
    let thresholds = Thresholds { entries: config.snapshot_entries, bytes: config.snapshot_bytes };
    let compaction = Arc::new(Compaction::new());
    let machine = StateMachine::new(engine, leases.clone(), compaction.clone(), thresholds, wanted.clone())?;
    let raft = Raft::new(config.node_id, Arc::new(settings(&config)?), Alone, log.clone(), machine).await;
    let raft = raft.map_err(|e| fatal(&e))?;
    lead(&raft, &config).await?;
    reader.forget_tokens();
    leases.start();

    let queue = Arc::new(Queue::new(config.max_inflight, config.max_inflight_bytes));
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
    let tasks = vec![
        tokio::spawn(barrier::run(raft.clone(), barrier.clone())),
        tokio::spawn(compaction::run(raft.clone(), compaction.clone())),
        tokio::spawn(flush_when_wanted(raft.clone(), wanted.clone())),
        tokio::spawn(revoker.run()),
    ];
    let proposer = tokio::spawn(proposer::run(raft.clone(), queue.clone(), limits));
    let failure = Arc::new(OnceLock::new());
    let (stop, stopping) = watch::channel(false);
    let (ended_tx, ended) = watch::channel(None);
    let defrag = Defrag::new(reader.clone(), log.clone());
    let mut background = Background {
        raft: raft.clone(),
        queue: queue.clone(),
        barrier: barrier.clone(),
        proposer,
        tasks,
        reader: reader.clone(),
        defrag: defrag.clone(),
        log_thread,
        parts,
        failure: failure.clone(),
        stopping,
        ended: ended_tx,
    };
    let compacting = compaction.subscribe();
    let (updates, changes) = mpsc::channel(membership::MOST);
    background.tasks.push(tokio::spawn(membership::run(raft.clone(), changes)));
    let inner = Inner {
        metrics: raft.metrics(),
        config,
        queue,
        barrier,
        leases,
        compacting,
        defrag,
        flush: wanted,
        updates,
        reader,
        log,
        failure,
        stop,
        ended,
    };
    Ok((inner, background))
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
    let settings = openraft::Config {
        cluster_name: format!("{:x}", config.cluster_id),
        heartbeat_interval: ms(config.heartbeat),
        election_timeout_min: ms(config.election),
        election_timeout_max: ms(config.election).saturating_mul(2),
        enable_pre_vote: Some(true),
        // A restart begins with an election like any other: the new term's first entry commits what the log still
        // holds, and no leader can serve from a state that lacks it.
        enable_leader_restore: Some(false),
        // Flushing the state is triggered by bytes as well as entries, which the policy here cannot express.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
        purge_batch_size: 1,
        max_payload_entries: 64,
        ..openraft::Config::default()
    };
    settings.validate().map_err(|e| Error::Config(e.to_string()))
}

/// Founds a group of one if there is none yet; a group of one elects its only voter at once, without waiting for a
/// timeout that could serve no purpose. Returns when the leader has applied the whole log.
async fn lead(raft: &Raft, config: &Config) -> Result<(), Error> {
    if !raft.is_initialized().await.map_err(|e| fatal(&e))? {
        let peer = Peer {
            name: config.name.clone(),
            peer_urls: config.peer_urls.clone(),
            client_urls: config.client_urls.clone(),
        };
        let founded = raft.initialize(BTreeMap::from([(config.node_id, peer)])).await;
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
            let others = now.membership_config.voter_ids().any(|id| id != config.node_id);
            let leads = now.state == ServerState::Leader;
            if others || leads && now.last_applied.map(|id| id.index) == now.last_log_index {
                return Ok(());
            }
        }
        metrics.changed().await.map_err(|_| Error::Stopped)?;
    }
}

/// Drops the log in front of what is flushed, each time enough has been applied.
async fn flush_when_wanted(raft: Raft, wanted: Arc<Notify>) {
    loop {
        wanted.notified().await;
        if raft.trigger().snapshot().await.is_err() {
            return;
        }
    }
}

/// What runs until the node stops.
struct Background {
    raft: Raft,
    queue: Arc<Queue>,
    barrier: Arc<Barrier>,
    proposer: tokio::task::JoinHandle<()>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    reader: Reader,
    defrag: Defrag,
    log_thread: LogThread,
    parts: Parts,
    failure: Arc<OnceLock<Error>>,
    stopping: watch::Receiver<bool>,
    ended: watch::Sender<Option<Result<(), Error>>>,
}

/// How a node ended, to be told once nothing of it is left.
struct End {
    parts: Parts,
    how: Result<(), Error>,
    ended: watch::Sender<Option<Result<(), Error>>>,
}

impl End {
    fn tell(self) {
        drop(self.parts);
        self.ended.send_replace(Some(self.how));
    }
}

impl Background {
    async fn run(mut self) -> End {
        let failed = tokio::select! {
            _ = self.stopping.wait_for(|stop| *stop) => None,
            failure = failure_of(&self.raft) => Some(failure),
        };
        if let Some(failure) = failed {
            tracing::error!("the node has stopped: {failure}");
            // Before the queue closes, so that those who wait hear the reason.
            let _ = self.failure.set(failure);
        }
        // What is in the log already is answered; what still waits for a place is refused.
        self.queue.close();
        let _ = self.proposer.await;
        settle(&self.raft).await;
        // Joins the core's task; an error says that it had ended already.
        let _ = self.raft.shutdown().await;
        self.barrier.close();
        for task in self.tasks {
            task.abort();
        }
        let how = match self.failure.get() {
            Some(failure) => Err(failure.clone()),
            None => flush(self.reader).await,
        };
        self.log_thread.stop();
        self.defrag.stop().await;
        End { parts: self.parts, how, ended: self.ended }
    }
}

/// Waits until everything in a leader's log is applied, and so answered, unless that takes suspiciously long.
async fn settle(raft: &Raft) {
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

/// Restarting from a flushed state has nothing to replay.
async fn flush(state: Reader) -> Result<(), Error> {
    match tokio::task::spawn_blocking(move || state.flush()).await {
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
