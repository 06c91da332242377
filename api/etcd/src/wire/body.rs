//! A request's body as it comes on an HTTP/2 stream, for those who read it at their own pace.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;

/// Pieces that are smaller than this are put together while they wait, so that none takes more room than it is worth.
const SMALL: usize = 1 << 10;

/// The client has reset the stream, or is gone.
#[derive(Debug, thiserror::Error)]
#[error("the client has given up the request")]
pub(crate) struct GivenUp;

/// What was read of bodies: to be told to the client as new room in its windows.
#[derive(Debug, Default)]
pub(super) struct Credit {
    /// Bytes of the connection's window.
    bytes: AtomicUsize,
    /// Streams of which a good part of the window was read.
    streams: Mutex<Vec<u32>>,
    waker: AtomicWaker,
}

impl Credit {
    /// Where `waker` is to be told when there is something to take.
    pub(super) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Bytes read since this was asked last.
    pub(super) fn take_bytes(&self) -> usize {
        // Nearly always nothing: a look is cheaper than an exchange.
        if self.bytes.load(Relaxed) == 0 { 0 } else { self.bytes.swap(0, Relaxed) }
    }

    pub(super) fn take_streams(&self) -> Vec<u32> {
        std::mem::take(&mut *self.streams.lock())
    }
}

/// Between a stream of the connection and the [`Body`] that is read.
#[derive(Debug)]
pub(super) struct Inbound {
    stream: u32,
    /// Bytes after which the stream's window is worth a word; four times that for the connection's.
    word: usize,
    credit: Arc<Credit>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pieces: VecDeque<Bytes>,
    /// Bytes read and not yet told to the client.
    read: usize,
    trailers: Option<HeaderMap>,
    end: Option<Result<(), ()>>,
    /// Nobody reads any more.
    dropped: bool,
    waker: Option<Waker>,
}

impl Inbound {
    pub(super) fn new(stream: u32, word: usize, credit: Arc<Credit>) -> Arc<Self> {
        Arc::new(Self { stream, word, credit, state: Mutex::default() })
    }

    /// Bytes of the stream's window that were read, to be told to the client.
    pub(super) fn take_read(&self) -> usize {
        std::mem::take(&mut self.state.lock().read)
    }

    /// Hands on a piece.
    pub(super) fn push(&self, piece: Bytes) {
        let mut state = self.state.lock();
        if state.dropped {
            drop(state);
            self.credit.bytes.fetch_add(piece.len(), Relaxed);
            return;
        }
        match state.pieces.back_mut() {
            Some(last) if last.len() + piece.len() <= SMALL => *last = [&last[..], &piece].concat().into(),
            _ => state.pieces.push_back(piece),
        }
        wake(state);
    }

    /// There is no more: all is said, or the client has given up.
    pub(super) fn end(&self, trailers: Option<HeaderMap>, how: Result<(), ()>) {
        let mut state = self.state.lock();
        state.trailers = trailers;
        state.end = Some(how);
        wake(state);
    }

    /// Counts what was read; wakes the connection when that is worth a word to the client.
    fn credit(&self, state: &mut State, bytes: usize) {
        let before = state.read;
        state.read += bytes;
        let mut worth = self.credit.bytes.fetch_add(bytes, Relaxed) + bytes >= 4 * self.word;
        if before < self.word && state.read >= self.word {
            self.credit.streams.lock().push(self.stream);
            worth = true;
        }
        if worth {
            self.credit.waker.wake();
        }
    }
}

fn wake(mut state: parking_lot::MutexGuard<'_, State>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The body of one request. What is taken of it makes room in the windows for as much again.
#[derive(Debug)]
pub(crate) struct Body(Arc<Inbound>);

impl Body {
    pub(super) fn new(inbound: Arc<Inbound>) -> Self {
        Self(inbound)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let state = &mut *self.0.state.lock();
        state.dropped = true;
        let left = state.pieces.drain(..).map(|piece| piece.len()).sum();
        self.0.credit(state, left);
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = GivenUp;

    fn poll_frame(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, GivenUp>>> {
        let state = &mut *self.0.state.lock();
        // Who gives up does not want done what it has said before.
        if state.end == Some(Err(())) {
            return Poll::Ready(Some(Err(GivenUp)));
        }
        if let Some(piece) = state.pieces.pop_front() {
            self.0.credit(state, piece.len());
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if state.end.is_some() {
            return Poll::Ready(state.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
        }
        state.waker = Some(task.waker().clone());
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        let state = self.0.state.lock();
        state.end == Some(Ok(())) && state.pieces.is_empty() && state.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_end_stream() { SizeHint::with_exact(0) } else { SizeHint::default() }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn what_is_read_is_credited_once_it_is_worth_a_word() {
        let credit = Arc::new(Credit::default());
        let inbound = Inbound::new(7, 100, credit.clone());
        let mut body = Body::new(inbound.clone());
        for size in [2000, 60, 50] {
            inbound.push(vec![b'x'; size].into());
        }
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().len(), 2000);
        assert_eq!((credit.take_streams(), inbound.take_read(), credit.take_bytes()), (vec![7], 2000, 2000));
        // Small pieces went together.
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().len(), 110);
        inbound.push(vec![b'y'; 30].into());
        drop(body);
        inbound.push(vec![b'z'; 5].into());
        assert_eq!((credit.take_streams(), credit.take_bytes()), (vec![7], 145));
    }

    #[tokio::test]
    async fn a_body_ends_as_its_stream_does() {
        let inbound = Inbound::new(1, 100, Arc::default());
        let mut body = Body::new(inbound.clone());
        inbound.push(Bytes::from_static(b"data"));
        inbound.end(Some(HeaderMap::new()), Ok(()));
        assert!(!http_body::Body::is_end_stream(&body));
        assert!(body.frame().await.unwrap().unwrap().is_data());
        assert!(body.frame().await.unwrap().unwrap().is_trailers());
        assert!(body.frame().await.is_none() && http_body::Body::is_end_stream(&body));
        let inbound = Inbound::new(1, 100, Arc::default());
        let mut body = Body::new(inbound.clone());
        inbound.push(Bytes::from_static(b"data"));
        inbound.end(None, Err(()));
        assert!(body.frame().await.unwrap().is_err());
    }
}
