//! The bodies of a call, as they pass: counted, and with how the call ended.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tonic::Status;
use tonic::body::Body;

use crate::metrics::Call;

/// Where a request comes from.
pub(crate) enum Source {
    /// A client's connection.
    Wire(Incoming),
    /// The server itself, on behalf of a client that does not speak gRPC.
    Inside(Body),
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

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
        let frame = match &mut this.source {
            Source::Wire(body) => ready!(Pin::new(body).poll_frame(task)).map(|frame| frame.map_err(BoxError::from)),
            Source::Inside(body) => ready!(Pin::new(body).poll_frame(task)).map(|frame| frame.map_err(BoxError::from)),
        };
        if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()) {
            let (messages, bytes) = this.frames.pass(data);
            this.call.received(messages, bytes);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Wire(body) => body.is_end_stream(),
            Source::Inside(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Wire(body) => body.size_hint(),
            Source::Inside(body) => body.size_hint(),
        }
    }
}

/// An answer's body. The call ends with it.
pub(crate) struct Sent {
    body: Body,
    call: Arc<Call>,
    frames: Frames,
}

impl Sent {
    pub(crate) fn new(body: Body, call: Arc<Call>) -> Self {
        Self { body, call, frames: Frames::default() }
    }
}

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(task));
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
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
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
