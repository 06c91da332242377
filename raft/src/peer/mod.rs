//! How members talk to each other: frames over any byte stream, one stream per purpose.
//!
//! Who calls dials a stream for each purpose: short calls, which many callers share; one follower's appends, which are
//! pipelined and answered in order; a state. A stream begins with [`hello`], which agrees on a version and makes sure that
//! both belong to the same cluster. What carries the stream, TCP or TLS or a test's pipe, is the composition's matter.

mod append;
mod ask;
mod frame;
mod hello;
mod host;
mod link;
pub(crate) mod message;
mod roster;
mod staging;
mod state;

pub(crate) use append::{Appends, serve as serve_appends};
pub use ask::{Found, ask};
pub(crate) use host::Host;
pub(crate) use link::Failure;
pub(crate) use message::Kind;
pub(crate) use roster::{Roster, Timing};
#[cfg(feature = "rocksdb")]
pub(crate) use staging::DirStaging;
pub(crate) use staging::{MemoryStaging, Staging};
pub(crate) use state::{Receiving, open as open_state, send as send_state};

use std::{future::Future, io, pin::Pin};

use tokio::io::{AsyncRead, AsyncWrite};

/// The first bytes of every stream between members; no request of HTTP begins so.
pub const GREETING: &[u8] = b"KELSON/1\n";

/// A stream between two members.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Connection for S {}

/// A connection that is being made.
pub type Dialing<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Connection>>> + Send + 'a>>;

/// Makes streams to other members. What it spawns runs on the node's own thread, so it must not block.
pub trait Dial: Send + Sync + 'static {
    /// Opens a stream to the member that advertises this peer URL. Whoever calls bounds the time.
    fn dial<'a>(&'a self, url: &'a str) -> Dialing<'a>;
}

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Calls with numbers and answers in any order.
    Calls = 1,
    /// Appends of one leader, answered in order.
    Appends = 2,
    /// One state.
    State = 3,
    /// Who the members are, for one that does not know the cluster's id yet.
    Ask = 4,
}

impl Purpose {
    fn of(byte: u8) -> Option<Purpose> {
        [Purpose::Calls, Purpose::Appends, Purpose::State, Purpose::Ask].into_iter().find(|p| *p as u8 == byte)
    }
}

fn broken(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}
