//! What a server may be told, and every bound of it.

use std::sync::Arc;
use std::time::Duration;

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
    /// What a stop waits for requests under way before it cuts them off.
    pub shutdown_grace: Duration,
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
            shutdown_grace: Duration::from_secs(5),
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
