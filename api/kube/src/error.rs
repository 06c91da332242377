//! Why a gateway could not be brought up or kept up. Failures of requests are `Status` objects, not these.

/// Errors of the crate's public functions.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store refused or failed.
    #[error("the store failed: {0}")]
    Store(#[from] kelson_wire::store::StoreError),
    /// The gateway could not create what every cluster has.
    #[error("could not create {what}: {message}")]
    Bootstrap { what: String, message: String },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File { path: String, source: std::io::Error },
    /// A socket failed.
    #[error(transparent)]
    Socket(#[from] std::io::Error),
    /// A certificate could not be made or read.
    #[error("{0}")]
    Certificate(String),
    /// A certificate does not fit into TLS.
    #[error("{0}")]
    Tls(#[from] rustls::Error),
}
