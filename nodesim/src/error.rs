//! Why a simulator cannot start or go on.

use std::net::SocketAddr;

/// The crate's one error type.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be carried out as it stands.
    #[error("node simulator: {0}")]
    Config(String),
    /// The kubelet address cannot be listened on.
    #[error("node simulator: cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    /// The kubelet's certificate, key or client CA is unusable.
    #[error("node simulator: kubelet TLS: {0}")]
    Tls(String),
}
