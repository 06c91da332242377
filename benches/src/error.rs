//! What can go wrong while a server is driven.

use std::time::Duration;

/// Why a run of the load generator gave no figures.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Only plain HTTP/2 is driven.
    #[error("{0}: not of the form http://HOST:PORT")]
    Url(String),
    /// No connection.
    #[error("connecting to {address}: {source}")]
    Connect {
        /// Host and port.
        address: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The load threads could not be made.
    #[error("starting the load threads: {0}")]
    Threads(#[source] std::io::Error),
    /// Bounds that no histogram has.
    #[error("histogram: {0}")]
    Histogram(#[from] hdrhistogram::CreationError),
    /// The connection broke.
    #[error("HTTP/2: {0}")]
    Http(String),
    /// The server broke off a call without a status.
    #[error("{method}: the server has reset the stream (reason {reason})")]
    Reset {
        /// Which call.
        method: &'static str,
        /// HTTP/2's number for why.
        reason: u32,
    },
    /// The server refused.
    #[error("{method}: gRPC status {code}: {message}")]
    Status {
        /// Which call.
        method: &'static str,
        /// The gRPC code.
        code: u32,
        /// The server's words.
        message: String,
    },
    /// The server answered what the request does not explain.
    #[error("{0}")]
    Answer(String),
    /// The time that the caller gave a phase is over.
    #[error("not done after {:.0} s: {what}", .limit.as_secs_f64())]
    Deadline {
        /// What was under way.
        what: String,
        /// The time that it had.
        limit: Duration,
    },
    /// The caller asked for an end.
    #[error("interrupted")]
    Interrupted,
}
