//! The one error type of this crate.

/// Why a server ended, or could not begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The listener takes no connections any more.
    #[error("cannot accept connections: {0}")]
    Accept(#[from] std::io::Error),
    /// The JSON gateway lacks what it translates with.
    #[error("JSON gateway: {0}")]
    Gateway(String),
    /// Certificates or keys that cannot be used.
    #[error("TLS: {0}")]
    Tls(String),
    /// Settings of auth that make no sense, or keys that cannot be used.
    #[error("{0}")]
    Auth(String),
    /// A snapshot that cannot be read or is damaged; the text names the file and the place.
    #[error(transparent)]
    Snapshot(#[from] kelson_bolt::Error),
    /// The node that was to take something over refused.
    #[error(transparent)]
    Node(#[from] kelson_raft::Error),
}
