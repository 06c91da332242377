//! A connection's socket between HTTP/2 and the kernel. `h2` flushes after every frame that is not tiny; here small
//! writes gather, and the connection sends them all with one call when it has nothing more to say.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that gather before they are sent though there may be more to say. Also what waits here at most for a client that
/// does not read.
const GATHER: usize = 64 << 10;
/// Writes from so many bytes on are not worth a copy.
const LARGE: usize = 16 << 10;
/// What the buffer may keep while nothing is said, in bytes.
const IDLE: usize = 16 << 10;

/// The side that HTTP/2 reads and writes.
pub(super) struct Socket<S>(Arc<Mutex<State<S>>>);

/// The side of the connection's own task, which alone sends what was gathered.
pub(super) struct Outlet<S>(Arc<Mutex<State<S>>>);

struct State<S> {
    stream: S,
    out: Vec<u8>,
    /// How much of it is sent.
    sent: usize,
    /// Whether a write was refused because there was no room for it here. (One that the kernel refuses is none: the
    /// kernel says when it has room.)
    refused: bool,
    /// Whether anything was read since the last look.
    heard: bool,
}

/// What became of what was gathered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// All is sent.
    All,
    /// All is sent, and a write that was refused before would now be taken.
    Resume,
}

/// Two sides of a stream.
pub(super) fn pair<S>(stream: S) -> (Socket<S>, Outlet<S>) {
    let state = State { stream, out: Vec::new(), sent: 0, refused: false, heard: false };
    let shared = Arc::new(Mutex::new(state));
    (Socket(shared.clone()), Outlet(shared))
}

impl<S: AsyncWrite + Unpin> State<S> {
    /// Writes out what was gathered.
    fn drain(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.out.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(task, &self.out[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.sent += written,
            }
        }
        self.sent = 0;
        self.out.clear();
        // Idle connections are many; it grows again where it is needed.
        self.out.shrink_to(IDLE);
        Poll::Ready(Ok(()))
    }

    /// Makes room for so many bytes; `false` where they are to be written past the buffer.
    fn room(&mut self, task: &mut Context<'_>, bytes: usize) -> Poll<io::Result<bool>> {
        if bytes < LARGE && self.out.len() + bytes <= GATHER {
            if self.out.capacity() < self.out.len() + bytes {
                let most = if self.out.is_empty() { IDLE } else { GATHER };
                self.out.reserve_exact(most - self.out.len());
            }
            return Poll::Ready(Ok(true));
        }
        match self.drain(task) {
            Poll::Ready(done) => Poll::Ready(done.map(|()| bytes < LARGE)),
            Poll::Pending => {
                self.refused = true;
                Poll::Pending
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(self: Pin<&mut Self>, task: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.0.lock();
        let before = into.filled().len();
        ready!(Pin::new(&mut state.stream).poll_read(task, into))?;
        state.heard |= into.filled().len() > before;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(self: Pin<&mut Self>, task: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let state = &mut *self.0.lock();
        if ready!(state.room(task, data.len()))? {
            state.out.extend_from_slice(data);
            return Poll::Ready(Ok(data.len()));
        }
        Pin::new(&mut state.stream).poll_write(task, data)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let state = &mut *self.0.lock();
        let bytes = pieces.iter().map(|piece| piece.len()).sum();
        if ready!(state.room(task, bytes))? {
            pieces.iter().for_each(|piece| state.out.extend_from_slice(piece));
            return Poll::Ready(Ok(bytes));
        }
        Pin::new(&mut state.stream).poll_write_vectored(task, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Sends nothing: [`Outlet::send`] does, for many frames at once.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.0.lock();
        ready!(state.drain(task))?;
        Pin::new(&mut state.stream).poll_shutdown(task)
    }
}

impl<S: AsyncWrite + Unpin> Outlet<S> {
    /// Sends what was gathered.
    pub(super) fn send(&self, task: &mut Context<'_>) -> Poll<io::Result<Sent>> {
        let state = &mut *self.0.lock();
        ready!(state.drain(task))?;
        ready!(Pin::new(&mut state.stream).poll_flush(task))?;
        let sent = if std::mem::take(&mut state.refused) { Sent::Resume } else { Sent::All };
        Poll::Ready(Ok(sent))
    }
}

impl<S> Outlet<S> {
    /// Whether the client has said anything since the last time that this was asked.
    pub(super) fn has_heard(&self) -> bool {
        std::mem::take(&mut self.0.lock().heard)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Takes so many bytes and no more, and counts the calls.
    struct Slow {
        takes: usize,
        taken: Vec<u8>,
        calls: usize,
    }

    impl AsyncWrite for Slow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
            let part = self.takes.min(data.len());
            if part == 0 {
                return Poll::Pending;
            }
            self.takes -= part;
            self.calls += 1;
            self.taken.extend_from_slice(&data[..part]);
            Poll::Ready(Ok(part))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn slow(takes: usize) -> (Socket<Slow>, Outlet<Slow>) {
        pair(Slow { takes, taken: Vec::new(), calls: 0 })
    }

    #[test]
    fn small_writes_go_together() {
        let (mut socket, outlet) = slow(usize::MAX);
        let task = &mut Context::from_waker(Waker::noop());
        for byte in 0..100 {
            let piece = [byte; 300];
            assert!(matches!(Pin::new(&mut socket).poll_write(task, &piece), Poll::Ready(Ok(300))));
            assert!(Pin::new(&mut socket).poll_flush(task).is_ready());
        }
        assert_eq!(outlet.0.lock().stream.calls, 0);
        assert!(matches!(outlet.send(task), Poll::Ready(Ok(Sent::All))));
        let state = outlet.0.lock();
        assert_eq!((state.stream.calls, state.stream.taken.len()), (1, 30_000));
        assert!(state.stream.taken.chunks(300).enumerate().all(|(i, piece)| piece == [i as u8; 300]));
    }

    #[test]
    fn who_does_not_read_is_owed_a_bounded_amount() {
        let (mut socket, outlet) = slow(0);
        let task = &mut Context::from_waker(Waker::noop());
        let mut taken = 0;
        while Pin::new(&mut socket).poll_write(task, &[7; 1000]).is_ready() {
            taken += 1000;
            assert!(taken <= GATHER);
        }
        assert!(Pin::new(&mut socket).poll_write(task, &[8; LARGE]).is_pending(), "large ones wait their turn");
        assert!(outlet.send(task).is_pending());
        outlet.0.lock().stream.takes = usize::MAX;
        assert!(matches!(outlet.send(task), Poll::Ready(Ok(Sent::Resume))));
        assert!(matches!(outlet.send(task), Poll::Ready(Ok(Sent::All))));
        assert_eq!(outlet.0.lock().stream.taken.len(), taken);
        // What the kernel refuses it asks for again: trying at once would be trying for ever.
        outlet.0.lock().stream.takes = 0;
        assert!(Pin::new(&mut socket).poll_write(task, &[9; LARGE]).is_pending());
        assert!(matches!(outlet.send(task), Poll::Ready(Ok(Sent::All))));
    }

    #[tokio::test]
    async fn large_writes_keep_their_place() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let (mut socket, outlet) = pair(near);
        let mut expected = Vec::new();
        for (byte, size) in [(1, 10), (2, LARGE * 3), (3, 5), (4, LARGE)] {
            socket.write_all(&vec![byte; size]).await.unwrap();
            expected.extend(vec![byte; size]);
        }
        std::future::poll_fn(|task| outlet.send(task)).await.unwrap();
        let mut got = vec![0; expected.len()];
        far.read_exact(&mut got).await.unwrap();
        assert_eq!(got, expected);
    }

    #[tokio::test]
    async fn what_is_read_counts_as_heard() {
        let (near, mut far) = tokio::io::duplex(100);
        let (mut socket, outlet) = pair(near);
        assert!(!outlet.has_heard());
        far.write_all(b"word").await.unwrap();
        drop(far);
        let mut text = String::new();
        socket.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "word");
        assert!(outlet.has_heard() && !outlet.has_heard());
    }
}
