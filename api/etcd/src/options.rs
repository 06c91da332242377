//! What a server may be told, and every bound of it.

use std::sync::Arc;
use std::time::Duration;

use crate::auth::AuthOptions;
use crate::lease::MIN_TTL;

/// When history is dropped by itself (etcd's `auto-compaction-mode` and `auto-compaction-retention`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Never.
    #[default]
    Off,
    /// So much time's worth of history is kept.
    Periodic(Duration),
    /// So many revisions are kept; looked after every five minutes.
    Revision(i64),
}

/// Settings of [`serve`](crate::serve). Start from the default and change what differs.
#[derive(Clone)]
pub struct ServerOptions {
    /// Most bytes of one writing request (etcd's `max-request-bytes`). Messages that exceed it by more than 512 KiB are
    /// not even read.
    pub max_request_bytes: usize,
    /// Most operations in one list of a transaction, nested ones included (etcd's `max-txn-ops`).
    pub max_txn_ops: usize,
    /// How often a watch that asked for it hears where it stands when nothing happens.
    pub progress_notify_interval: Duration,
    /// Most watches on one stream; one more is refused.
    pub max_watches_per_stream: usize,
    /// Most connections at a time. Further ones wait unaccepted, in the listener's backlog.
    pub max_connections: usize,
    /// Most open requests and watch streams on one connection; further ones wait at the client.
    pub max_streams_per_connection: u32,
    /// Large reads that run at a time; further ones wait. Bounds their memory, and the threads that they take.
    pub max_large_reads: usize,
    /// Bytes of large answers (1 MiB and more) that may wait for clients to take them; further ones wait for their turn ...
    pub max_unsent_bytes: usize,
    /// ... so long, and are refused then with `etcdserver: too many requests`.
    pub unsent_patience: Duration,
    /// Requests of the Lock and Election services that wait at a time; one more is refused with
    /// `etcdserver: too many requests`.
    pub max_waiters: usize,
    /// Bytes of state that may be kept (etcd's `quota-backend-bytes`): 0 for etcd's default of 2 GiB, negative for no
    /// bound. Beyond it the NOSPACE alarm is raised and what would add to the state is refused.
    pub quota_bytes: i64,
    /// Compactions that nobody has to ask for.
    pub auto_compaction: AutoCompaction,
    /// A unary request that lasts longer is worth a warning (etcd's `warning-unary-request-duration`); zero gives none.
    pub slow_request: Duration,
    /// Serve the JSON gateway under `/v3/` (etcd's `enable-grpc-gateway`).
    pub gateway: bool,
    /// Answer `/debug/pprof` (etcd's `enable-pprof`) by saying that there are no Go profiles.
    pub pprof: bool,
    /// Snapshots that are sent at a time; one more is refused with `etcdserver: too many requests`. Each takes the space of
    /// the whole state on the data directory's disk until it is sent.
    pub max_snapshots: usize,
    /// Longest that the writing of a snapshot may hold on to the state; beyond it the snapshot fails. Sending what is
    /// written does not count.
    pub snapshot_timeout: Duration,
    /// What a stop waits for requests under way before it cuts them off.
    pub shutdown_grace: Duration,
    /// A connection that says nothing for so long is asked whether it lives (`None`: never) ...
    pub keep_alive: Option<Duration>,
    /// ... and cut off when it does not answer within this.
    pub keep_alive_timeout: Duration,
    /// Who may do what.
    pub auth: AuthOptions,
    /// Shortest time of a lease, in seconds; one that asks for less gets this (etcd: one and a half election timeouts).
    pub min_lease_ttl: i64,
    /// Serve TLS with this configuration. Protocol negotiation is added to it.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            max_request_bytes: 3 << 19,
            max_txn_ops: 128,
            progress_notify_interval: Duration::from_secs(600),
            max_watches_per_stream: 1 << 20,
            max_connections: 10_000,
            max_streams_per_connection: 16_384,
            max_large_reads: 8,
            max_unsent_bytes: 512 << 20,
            unsent_patience: Duration::from_secs(7),
            max_waiters: 65_536,
            quota_bytes: 0,
            auto_compaction: AutoCompaction::Off,
            slow_request: Duration::from_millis(300),
            gateway: true,
            pprof: false,
            max_snapshots: 2,
            snapshot_timeout: Duration::from_secs(1800),
            shutdown_grace: Duration::from_secs(5),
            keep_alive: Some(Duration::from_secs(30)),
            min_lease_ttl: MIN_TTL,
            keep_alive_timeout: Duration::from_secs(20),
            auth: AuthOptions::default(),
            tls: None,
        }
    }
}

impl ServerOptions {
    /// Most bytes of any message that is taken in.
    pub(crate) fn max_message_bytes(&self) -> usize {
        self.max_request_bytes.saturating_add(512 << 10)
    }
}
