//! One stream of a connection: what it may send and receive, and how far its call has come.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::AbortHandle;
use http::HeaderMap;
use tokio::time::Instant;
use tonic::body::Body;

use super::body::Inbound;
use super::head::Hot;
use super::message::Gather;
use crate::auth::Caller;
use crate::kv::Begun;
use crate::metrics;

/// A stream.
pub(super) struct Stream {
    /// Whether the client may have more to say.
    pub(super) open: bool,
    /// Bytes that the client may still send, and bytes that it sent since it was told so.
    pub(super) window: i64,
    pub(super) taken: usize,
    /// Bytes of the body that are still to come, where that was said.
    pub(super) length: Option<u64>,
    /// Bytes that the client takes.
    pub(super) room: i64,
    /// What waits for that.
    pub(super) waiting: VecDeque<Bytes>,
    /// How the answer ends, behind what waits; `None` while that is not known.
    pub(super) end: Option<End>,
    /// Whether it stands in the line of those who wait for the connection's window.
    pub(super) in_line: bool,
    pub(super) stage: Stage,
}

/// How an answer ends.
pub(super) enum End {
    /// As good ones do.
    Good,
    Trailers(HeaderMap),
    /// With its data.
    Bare,
}

/// How far a call has come.
pub(super) enum Stage {
    /// A hot call whose message is on its way.
    Gathering(Box<Gathering>),
    /// A write that is to be made durable.
    Submitted { begun: Begun, metered: metrics::Call, expires: Instant, deadline: Option<Instant> },
    /// A hot call that waits for something else.
    Answering { metered: metrics::Call, deadline: Option<Instant>, abort: AbortHandle },
    /// A call of other services.
    Routed { inbound: Option<Arc<Inbound>>, abort: Option<AbortHandle>, body: Option<Body> },
    /// All that is left is to send.
    Sending,
}

/// A message on its way in.
pub(super) struct Gathering {
    pub(super) hot: Hot,
    pub(super) caller: Caller,
    pub(super) needs_leader: bool,
    pub(super) deadline: Option<Instant>,
    /// `None` while the call is not begun.
    pub(super) metered: Option<metrics::Call>,
    /// Whether it stands in the line of those whose client is owed too much.
    pub(super) deferred: bool,
    pub(super) gather: Gather,
}

impl Stream {
    pub(super) fn new(open: bool, window: i64, room: i64, length: Option<u64>, stage: Stage) -> Self {
        Stream { open, window, taken: 0, length, room, waiting: VecDeque::new(), end: None, in_line: false, stage }
    }

    /// Bytes of a hot answer that wait for the client's windows.
    pub(super) fn owed(&self) -> usize {
        match self.stage {
            Stage::Sending => self.waiting.iter().map(Bytes::len).sum(),
            _ => 0,
        }
    }
}
