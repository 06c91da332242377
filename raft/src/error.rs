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
