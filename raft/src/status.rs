//! What a node tells about itself and its group.

use crate::stats::SyncStats;

/// A node's view at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub member_id: u64,
    pub cluster_id: u64,
    /// The member that leads, 0 when none is known or it has not been heard for longer than an election takes.
    pub leader: u64,
    pub is_leader: bool,
    /// Whether this member has no vote and waits to be promoted.
    pub is_learner: bool,
    pub term: u64,
    /// Index of the newest log entry. One entry holds many commands.
    pub index: u64,
    /// Index of the newest entry known to be committed.
    pub committed: u64,
    /// Index of the newest entry that the state contains.
    pub applied: u64,
    /// Bytes of the state on disk or in the memory backend, estimated.
    pub db_size: u64,
    /// The part of `db_size` that compaction has not freed, estimated.
    pub db_size_in_use: u64,
    /// Bytes of the log on disk or in memory.
    pub log_size: u64,
    /// Commands that wait for a place in the log.
    pub pending: u64,
    /// Synced writes of the log.
    pub syncs: SyncStats,
    /// Members to whom this one has sent a whole state since it started, and how often.
    pub states_sent: Vec<(u64, u64)>,
    /// Why the node has stopped by itself; `None` while it runs or after an orderly shutdown.
    pub failure: Option<String>,
}

/// One member of the group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    pub id: u64,
    pub name: String,
    pub peer_urls: Vec<String>,
    pub client_urls: Vec<String>,
    pub is_learner: bool,
}
