//! Which protocol a connection speaks, told by its first bytes.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use kelson_wire::http2::PREFACE;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    Http1,
    Http2,
    /// What members say to each other.
    Member,
}

/// Reads until it is clear what is spoken; what was read goes into `begun`, and is to be read again by who speaks it.
/// `None` where the connection ended before.
pub(super) async fn read<S: AsyncRead + Unpin>(
    stream: &mut S,
    begun: &mut BytesMut,
) -> std::io::Result<Option<Spoken>> {
    loop {
        if let Some(spoken) = told(begun) {
            return Ok(Some(spoken));
        }
        if stream.read_buf(begun).await? == 0 {
            // Who closes its side in the middle of a preface has nothing to ask.
            return Ok(None);
        }
    }
}

fn told(begun: &[u8]) -> Option<Spoken> {
    for (preface, spoken) in [(PREFACE, Spoken::Http2), (kelson_raft::GREETING, Spoken::Member)] {
        let common = begun.iter().zip(preface).take_while(|(byte, expected)| byte == expected).count();
        if common == preface.len() {
            return Some(spoken);
        }
        if common == begun.len() {
            return None;
        }
    }
    Some(Spoken::Http1)
}

/// A stream of which a part has been read already, to be read again.
pub(super) struct Begun<S> {
    begun: Bytes,
    stream: S,
}

impl<S> Begun<S> {
    pub(super) fn new(begun: Bytes, stream: S) -> Self {
        Self { begun, stream }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Begun<S> {
    fn poll_read(self: Pin<&mut Self>, task: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        if this.begun.is_empty() {
            return Pin::new(&mut this.stream).poll_read(task, into);
        }
        let part = this.begun.len().min(into.remaining());
        into.put_slice(&this.begun.split_to(part));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Begun<S> {
    fn poll_write(self: Pin<&mut Self>, task: &mut Context<'_>, data: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(task, data)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        pieces: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(task, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(task)
    }

    fn poll_shutdown(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_that_differs_tells() {
        assert_eq!(told(b""), None);
        assert_eq!(told(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r"), None);
        assert_eq!(told(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore"), Some(Spoken::Http2));
        assert_eq!(told(b"G"), Some(Spoken::Http1));
        assert_eq!((told(b"KELSON/1"), told(b"KELSON/1\nmore")), (None, Some(Spoken::Member)));
        assert_eq!(told(b"KEY / HTTP/1.1"), Some(Spoken::Http1));
        assert_eq!(told(b"PRI * HTTP/1.1\r\n"), Some(Spoken::Http1));
        assert_eq!(told(b"POST / HTTP/1.1"), Some(Spoken::Http1));
    }

    #[tokio::test]
    async fn what_was_read_is_kept_however_it_comes() {
        for text in [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nframes"[..], b"GET / HTTP/1.1\r\n", b"PR"] {
            for size in 1..text.len() {
                let (mut near, mut far) = tokio::io::duplex(size);
                let sent = text.to_vec();
                let sending = tokio::spawn(async move {
                    // The reader may have heard enough.
                    let _ = tokio::io::AsyncWriteExt::write_all(&mut far, &sent).await;
                });
                let mut begun = BytesMut::new();
                let spoken = read(&mut near, &mut begun).await.unwrap();
                drop(near);
                sending.await.unwrap();
                assert_eq!(spoken, told(text));
                assert!(text.starts_with(&begun));
            }
        }
    }
}
