//! The bodies of a call, as they pass: counted, and with how the call ended.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::body::Body;

use crate::deadline;
use crate::metrics::Call;
use crate::wire;

/// Where a request comes from.
pub(crate) enum Source {
    /// A client's connection that speaks HTTP/1.
    Http1(Incoming),
    /// A stream of a client's connection that speaks HTTP/2.
    Http2(wire::Body),
    /// The server itself, on behalf of a client that does not speak gRPC.
    Inside(Body),
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl http_body::Body for Source {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Source::Http1(body) => Pin::new(body).poll_frame(task).map_err(BoxError::from),
            Source::Http2(body) => Pin::new(body).poll_frame(task).map_err(BoxError::from),
            Source::Inside(body) => Pin::new(body).poll_frame(task).map_err(BoxError::from),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Source::Http1(body) => body.is_end_stream(),
            Source::Http2(body) => body.is_end_stream(),
            Source::Inside(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Source::Http1(body) => body.size_hint(),
            Source::Http2(body) => body.size_hint(),
            Source::Inside(body) => body.size_hint(),
        }
    }
}

/// A request's body.
pub(crate) struct Received {
    source: Source,
    call: Arc<Call>,
    frames: Frames,
}

impl Received {
    pub(crate) fn new(source: Source, call: Arc<Call>) -> Self {
        Self { source, call, frames: Frames::default() }
    }
}

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.source).poll_frame(task));
        if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()) {
            let (messages, bytes) = this.frames.pass(data);
            this.call.received(messages, bytes);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.source.size_hint()
    }
}

/// An answer's body. The call ends with it.
pub(crate) struct Sent {
    /// Gone when the time is over.
    body: Option<Body>,
    call: Arc<Call>,
    frames: Frames,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Sent {
    /// A body that is to be sent before the deadline; one that is not ends with that.
    pub(crate) fn new(body: Body, call: Arc<Call>, deadline: Option<Instant>) -> Self {
        // What has ended already needs no watch.
        let deadline = deadline.filter(|_| !body.is_end_stream()).map(|at| Box::pin(tokio::time::sleep_until(at)));
        Self { body: Some(body), call, frames: Frames::default(), deadline }
    }

    /// Ends what could not be sent in time.
    fn exceed(&mut self) -> Result<Frame<Bytes>, Status> {
        self.body = None;
        let mut trailers = HeaderMap::new();
        deadline::exceeded().add_header(&mut trailers)?;
        self.call.ended(&trailers);
        Ok(Frame::trailers(trailers))
    }
}

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(task);
        if polled.is_pending()
            && let Some(deadline) = &mut this.deadline
        {
            ready!(deadline.as_mut().poll(task));
            return Poll::Ready(Some(this.exceed()));
        }
        let frame = ready!(polled);
        if let Some(Ok(frame)) = &frame {
            if let Some(data) = frame.data_ref() {
                let (messages, bytes) = this.frames.pass(data);
                this.call.sent(messages, bytes);
            } else if let Some(trailers) = frame.trailers_ref() {
                this.call.ended(trailers);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(|body| body.size_hint()).unwrap_or_default()
    }
}

/// Bytes in front of each message: one flag, four of length.
pub(crate) const PREFIX: usize = 5;

/// Follows where messages begin in what passes.
#[derive(Default)]
struct Frames {
    prefix: [u8; PREFIX],
    /// Bytes of the prefix at hand.
    have: usize,
    /// Bytes of the message that are still to come.
    left: usize,
}

impl Frames {
    /// How many messages began in this piece, and how many of its bytes are messages'.
    fn pass(&mut self, mut data: &[u8]) -> (u64, u64) {
        let (mut messages, mut bytes) = (0, 0);
        while !data.is_empty() {
            if self.left > 0 {
                let part = self.left.min(data.len());
                self.left -= part;
                bytes += part as u64;
                data = &data[part..];
                continue;
            }
            let part = (PREFIX - self.have).min(data.len());
            self.prefix[self.have..self.have + part].copy_from_slice(&data[..part]);
            self.have += part;
            data = &data[part..];
            if self.have == PREFIX {
                let [_, length @ ..] = self.prefix;
                self.have = 0;
                self.left = u32::from_be_bytes(length) as usize;
                messages += 1;
            }
        }
        (messages, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_wherever_pieces_are_cut() {
        let stream = [&[0, 0, 0, 0, 3, 1, 2, 3][..], &[0, 0, 0, 0, 0], &[0, 0, 0, 1, 0], &[7; 256]].concat();
        for size in 1..stream.len() {
            let mut frames = Frames::default();
            let passed = stream.chunks(size).map(|piece| frames.pass(piece));
            let sum = passed.fold((0, 0), |sum, (messages, bytes)| (sum.0 + messages, sum.1 + bytes));
            assert_eq!(sum, (3, 259), "in pieces of {size}");
        }
    }
}
