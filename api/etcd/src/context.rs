//! What all services share.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use kelson_engine::command::{Command, Outcome};
use kelson_raft::{Error, Node};
use kelson_wire::pb::etcdserverpb::ResponseHeader;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::auth::Guard;
use crate::backup::Snapshots;
use crate::large::Room;
use crate::metrics::Metrics;
use crate::options::ServerOptions;
use crate::quota::Quota;
use crate::reads::Reads;
use crate::refusal;

/// The release of etcd whose behaviour this server has.
pub const ETCD_VERSION: &str = "3.7.3";
/// The versions of the cluster's protocol and of its storage, which change with minor releases only.
pub(crate) const CLUSTER_VERSION: &str = "3.7.0";

/// How often a stream that asked for it looks whether there is a leader.
const LEADER_CHECK: Duration = Duration::from_millis(500);

/// Ends when there is no leader any more.
pub(crate) type LeaderLost = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(crate) struct Context {
    pub(crate) node: Node,
    pub(crate) reads: Reads,
    pub(crate) snapshots: Snapshots,
    pub(crate) options: ServerOptions,
    pub(crate) metrics: Metrics,
    pub(crate) guard: Guard,
    pub(crate) quota: Quota,
    /// Large answers on their way.
    pub(crate) room: Room,
    /// Places for those who wait for a lock or an election.
    pub(crate) waiters: Semaphore,
    /// Cancelled when the server stops.
    pub(crate) shutdown: CancellationToken,
    cluster_id: u64,
    member_id: u64,
    /// The last leader seen, and how many there were.
    leaders: Mutex<(u64, u64)>,
}

impl Context {
    pub(crate) fn new(node: Node, options: ServerOptions, shutdown: CancellationToken) -> Self {
        let status = node.status();
        Self {
            snapshots: Snapshots::new(options.max_snapshots, options.snapshot_timeout),
            reads: Reads::new(node.clone(), options.max_large_reads),
            quota: Quota::new(options.quota_bytes),
            room: Room::new(options.max_unsent_bytes, options.unsent_patience),
            waiters: Semaphore::new(options.max_waiters.min(Semaphore::MAX_PERMITS)),
            metrics: Metrics::new(options.slow_request),
            node,
            guard: Guard::new(&options.auth),
            options,
            shutdown,
            leaders: Mutex::new((0, 0)),
            cluster_id: status.cluster_id,
            member_id: status.member_id,
        }
    }

    /// Proposes a command; a refusal in the words of a client.
    pub(crate) async fn propose(&self, command: Command) -> Result<Outcome, Status> {
        self.node.propose(command).await.map_err(|error| self.refused(&error))
    }

    /// Counts a command that was not decided; what a client is told.
    pub(crate) fn refused(&self, error: &Error) -> Status {
        if !matches!(error, Error::Engine(_) | Error::TooDeep) {
            self.metrics.counters().failed_proposals.fetch_add(1, Relaxed);
        }
        refusal::of_raft(error)
    }

    pub(crate) fn header(&self, revision: i64) -> Option<ResponseHeader> {
        // The term of the newest applied entry: a leader's own from its first entry on, and cheaper than asking raft.
        let raft_term = self.node.reader().applied().map_or(0, |applied| applied.term);
        Some(ResponseHeader { cluster_id: self.cluster_id, member_id: self.member_id, revision, raft_term })
    }

    /// How many leaders there were, with the one of now.
    pub(crate) fn leaders_seen(&self, now: u64) -> u64 {
        let mut leaders = self.leaders.lock();
        let (last, count) = *leaders;
        if now != 0 && now != last {
            *leaders = (now, count + 1);
        }
        leaders.1
    }

    /// The header of an answer that reads and writes no keys.
    pub(crate) fn current_header(&self) -> Option<ResponseHeader> {
        self.header(self.node.reader().revision())
    }

    /// Refuses at once what asks for a leader while there is none (etcd's `hasleader`).
    pub(crate) fn require_leader(&self, metadata: &MetadataMap) -> Result<(), Status> {
        self.check_leader(metadata.get("hasleader").is_some_and(|value| value == "true"))
    }

    /// As [`Context::require_leader`], for a stream: ends when there has been no leader for a while.
    pub(crate) fn leader_lost(self: &Arc<Self>, metadata: &MetadataMap) -> Result<LeaderLost, Status> {
        self.require_leader(metadata)?;
        if metadata.get("hasleader").is_none_or(|value| value != "true") {
            return Ok(Box::pin(std::future::pending()));
        }
        let context = self.clone();
        Ok(Box::pin(async move {
            while context.node.has_leader() {
                tokio::time::sleep(LEADER_CHECK).await;
            }
        }))
    }

    /// Refuses what a learner does not serve: everything but its status, serializable reads and its snapshot.
    pub(crate) fn check_learner(&self) -> Result<(), Status> {
        if self.node.is_learner() { Err(Status::failed_precondition(refusal::LEARNER)) } else { Ok(()) }
    }

    /// [`Context::require_leader`] where it is known what the request says.
    pub(crate) fn check_leader(&self, wanted: bool) -> Result<(), Status> {
        if wanted && !self.node.has_leader() { Err(Status::unavailable(refusal::NO_LEADER)) } else { Ok(()) }
    }
}
