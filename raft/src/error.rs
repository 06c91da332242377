//! The one error type of this crate. Where etcd has a text for the same refusal it is etcd's, because clients match on it.

use std::path::PathBuf;

/// Why a command, a read or the opening of a node failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The state machine refused the command; nothing changed.
    #[error(transparent)]
    Engine(#[from] kelson_engine::Error),
    /// More commands wait than [`Config::max_inflight`](crate::Config::max_inflight) or
    /// [`Config::max_inflight_bytes`](crate::Config::max_inflight_bytes) allow. Nothing changed; try again later.
    #[error("etcdserver: too many requests")]
    TooManyRequests,
    /// A transaction nests deeper than [`MAX_TXN_DEPTH`](kelson_engine::MAX_TXN_DEPTH). Nothing changed.
    #[error("etcdserver: too many operations in txn request")]
    TooDeep,
    /// No member has this id. Nothing changed.
    #[error("etcdserver: member not found")]
    NoMember,
    /// A member with this id is there already. Nothing changed.
    #[error("etcdserver: member ID already exist")]
    MemberExists,
    /// Another member is reached under one of these addresses. Nothing changed.
    #[error("etcdserver: Peer URLs already exists")]
    PeerUrlExists,
    /// After the change too few of the members would be running. Nothing changed.
    #[error("etcdserver: re-configuration failed due to not enough started members")]
    NotEnoughStarted,
    /// Some member with a vote does not answer, so that the change would put the quorum at risk. Nothing changed.
    #[error("etcdserver: unhealthy cluster")]
    Unhealthy,
    /// The member to be promoted has a vote already. Nothing changed.
    #[error("etcdserver: can only promote a learner member")]
    NotALearner,
    /// The member to be promoted is too far behind. Nothing changed.
    #[error("etcdserver: can only promote a learner member which is in sync with leader")]
    LearnerNotReady,
    /// No more learners are taken. Nothing changed.
    #[error("etcdserver: too many learner members in cluster")]
    TooManyLearners,
    /// A learner serves its status, serializable reads and its snapshot, and nothing else.
    #[error("etcdserver: rpc not supported for learner")]
    Learner,
    /// Only the leader can be asked for this, and this member is not.
    #[error("etcdserver: not leader")]
    NotLeader,
    /// The lead cannot go to a member that is none, or has no vote.
    #[error("etcdserver: bad leader transferee")]
    BadTransferee,
    /// The lead has not changed hands within the election timeout.
    #[error("etcdserver: request timed out, leader transfer took too long")]
    TransferTimeout,
    /// This member has been removed from its cluster, for ever. The node stops.
    #[error("the member has been permanently removed from the cluster")]
    Removed,
    /// Another member has sent a whole state because this one was too far behind. The node stops, and when it is opened
    /// again it goes on from that.
    #[error("a newer state has come from another member")]
    Replaced,
    /// The node is shutting down or has stopped. A command that was already accepted may still have taken effect.
    #[error("etcdserver: server stopped")]
    Stopped,
    /// No member leads at present. Nothing changed.
    #[error("etcdserver: no leader")]
    NoLeader,
    /// The command was accepted, then another member took over: it may or may not take effect.
    #[error("etcdserver: leader changed")]
    LeaderChanged,
    /// No answer within [`Config::request_timeout`](crate::Config::request_timeout); the command may still take effect.
    #[error("etcdserver: request timed out")]
    Timeout,
    /// Another process holds the data directory.
    #[error("data directory {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// The data directory cannot be created, read or written.
    #[error("cannot use data directory {}: {reason}", .path.display())]
    Directory { path: PathBuf, reason: String },
    /// The data directory holds another member's or another cluster's data, or half of its content is missing.
    #[error("data directory {}: {reason}", .path.display())]
    Mismatch { path: PathBuf, reason: String },
    /// The disk failed or holds what it cannot hold; the text names the file or directory. The node stops.
    #[error("storage: {0}")]
    Storage(String),
    /// A value of [`Config`](crate::Config) makes no sense.
    #[error("invalid raft configuration: {0}")]
    Config(String),
}
