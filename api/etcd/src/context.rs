//! What all services share.

use kelson_raft::Node;
use kelson_wire::pb::etcdserverpb::ResponseHeader;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::metrics::Metrics;
use crate::options::ServerOptions;
use crate::reads::Reads;
use crate::refusal;

/// The release of etcd whose behaviour this server has.
pub const ETCD_VERSION: &str = "3.7.3";
/// The versions of the cluster's protocol and of its storage, which change with minor releases only.
pub(crate) const CLUSTER_VERSION: &str = "3.7.0";

pub(crate) struct Context {
    pub(crate) node: Node,
    pub(crate) reads: Reads,
    pub(crate) options: ServerOptions,
    pub(crate) metrics: Metrics,
    /// Cancelled when the server stops.
    pub(crate) shutdown: CancellationToken,
    cluster_id: u64,
    member_id: u64,
}

impl Context {
    pub(crate) fn new(node: Node, options: ServerOptions, shutdown: CancellationToken) -> Self {
        let status = node.status();
        Self {
            reads: Reads::new(node.clone(), options.max_large_reads),
            node,
            options,
            metrics: Metrics::default(),
            shutdown,
            cluster_id: status.cluster_id,
            member_id: status.member_id,
        }
    }

    pub(crate) fn header(&self, revision: i64) -> Option<ResponseHeader> {
        // The term of the newest applied entry: a leader's own from its first entry on, and cheaper than asking raft.
        let raft_term = self.node.reader().applied().map_or(0, |applied| applied.term);
        Some(ResponseHeader { cluster_id: self.cluster_id, member_id: self.member_id, revision, raft_term })
    }

    /// The header of an answer that reads and writes no keys.
    pub(crate) fn current_header(&self) -> Option<ResponseHeader> {
        self.header(self.node.reader().revision())
    }

    /// Refuses at once what asks for a leader while there is none (etcd's `hasleader`).
    pub(crate) fn require_leader(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let wanted = metadata.get("hasleader").is_some_and(|value| value == "true");
        if wanted && self.node.status().leader == 0 { Err(Status::unavailable(refusal::NO_LEADER)) } else { Ok(()) }
    }
}
