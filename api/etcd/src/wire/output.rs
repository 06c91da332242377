//! What is to be sent: small frames gather, large values stay where they lie, and one call sends them all.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

/// Pieces from so many bytes on are not worth a copy.
const LARGE: usize = 16 << 10;
/// What the buffer may keep while nothing is said, in bytes: idle connections are many.
const IDLE: usize = 16 << 10;
/// Pieces that go out with one call.
const PIECES: usize = 32;

/// Frames on their way to the socket.
#[derive(Debug, Default)]
pub(super) struct Output {
    /// What goes first.
    ready: VecDeque<Bytes>,
    ready_bytes: usize,
    tail: Vec<u8>,
    /// How much of the tail is sent.
    sent: usize,
}

impl Output {
    /// Where small frames are put.
    pub(super) fn frames(&mut self) -> &mut Vec<u8> {
        &mut self.tail
    }

    /// Puts a piece of a frame behind what is there.
    pub(super) fn piece(&mut self, bytes: Bytes) {
        if bytes.len() < LARGE {
            return self.tail.extend_from_slice(&bytes);
        }
        let mut front = Bytes::from(std::mem::take(&mut self.tail));
        front.advance(std::mem::take(&mut self.sent));
        self.ready_bytes += front.len() + bytes.len();
        self.ready.extend([front, bytes].into_iter().filter(|piece| !piece.is_empty()));
    }

    /// Bytes that wait.
    pub(super) fn waiting(&self) -> usize {
        self.ready_bytes + self.tail.len() - self.sent
    }

    /// Sends what waits.
    pub(super) fn send<S: AsyncWrite + Unpin>(
        &mut self,
        socket: &mut S,
        task: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.waiting() > 0 {
            let tail = &self.tail[self.sent..];
            let written = if self.ready.is_empty() {
                ready!(Pin::new(&mut *socket).poll_write(task, tail))?
            } else {
                let mut pieces = [IoSlice::new(&[]); PIECES];
                let all = self.ready.iter().map(|piece| &piece[..]).chain([tail]);
                let count = pieces.iter_mut().zip(all).map(|(place, piece)| *place = IoSlice::new(piece)).count();
                ready!(Pin::new(&mut *socket).poll_write_vectored(task, &pieces[..count]))?
            };
            match written {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.advance(written),
            }
        }
        self.sent = 0;
        self.tail.clear();
        self.tail.shrink_to(IDLE);
        // TLS holds back what it has encrypted.
        Pin::new(socket).poll_flush(task)
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(first) = self.ready.front_mut() {
            let part = first.len().min(written);
            first.advance(part);
            self.ready_bytes -= part;
            written -= part;
            if !first.is_empty() {
                return;
            }
            self.ready.pop_front();
        }
        self.sent += written;
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Takes so many bytes with each call, and `calls` calls.
    struct Slow {
        takes: usize,
        calls: usize,
        taken: Vec<u8>,
    }

    impl AsyncWrite for Slow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
            if self.calls == 0 {
                return Poll::Pending;
            }
            self.calls -= 1;
            let part = self.takes.min(data.len());
            self.taken.extend_from_slice(&data[..part]);
            Poll::Ready(Ok(part))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            task: &mut Context<'_>,
            pieces: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let all: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
            self.poll_write(task, &all)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn everything_is_sent_in_order_however_little_is_taken() {
        let task = &mut Context::from_waker(Waker::noop());
        for takes in [1000, LARGE, LARGE + 7, 1 << 20] {
            let mut socket = Slow { takes, calls: 3, taken: Vec::new() };
            let (mut output, mut expected) = (Output::default(), Vec::new());
            for (byte, size) in [(1, 10), (2, LARGE * 3), (3, 5), (4, 7), (5, LARGE), (6, 100)] {
                output.piece(vec![byte; size].into());
                expected.extend(vec![byte; size]);
            }
            assert_eq!(output.waiting(), expected.len());
            let mut late = false;
            while output.send(&mut socket, task).is_pending() {
                // More is said while what was said is on its way.
                output.frames().push(9);
                expected.push(9);
                socket.calls = if late { usize::MAX } else { 2 };
                late = true;
            }
            assert_eq!(socket.taken, expected);
            assert_eq!((output.waiting(), output.tail.capacity() <= IDLE), (0, true));
        }
    }

    #[test]
    fn small_frames_go_together_and_large_pieces_are_not_copied() {
        let task = &mut Context::from_waker(Waker::noop());
        let mut socket = Slow { takes: usize::MAX, calls: 1, taken: Vec::new() };
        let mut output = Output::default();
        for byte in 0..100 {
            output.frames().extend([byte; 300]);
        }
        assert!(output.send(&mut socket, task).is_ready());
        assert_eq!(socket.taken.len(), 30_000);
        let large = Bytes::from(vec![7; LARGE]);
        let lies = large.as_ptr();
        output.piece(large);
        assert_eq!(output.ready[0].as_ptr(), lies);
    }
}
