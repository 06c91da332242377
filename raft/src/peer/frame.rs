//! Frames: `length of what follows (4, little endian) | kind (1) | body`.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};

use super::broken;

/// Longest frame. Far above what one append or one chunk of a state holds: it bounds what a broken peer can make us keep.
pub(crate) const LONGEST: usize = 256 << 20;

/// Body pieces up to this length are copied beside their neighbours, longer ones are written from where they are.
const COPIED: usize = 8 << 10;

/// Reads frames. Cancelling [`Frames::next`] loses nothing.
pub(crate) struct Frames<R> {
    from: R,
    read: BytesMut,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    pub(crate) fn new(from: R) -> Self {
        Frames { from, read: BytesMut::with_capacity(16 << 10) }
    }

    /// The next frame's kind and body; `None` at the end of the stream between two frames.
    pub(crate) async fn next(&mut self) -> io::Result<Option<(u8, Bytes)>> {
        loop {
            if let Some(frame) = self.whole()? {
                return Ok(Some(frame));
            }
            if self.from.read_buf(&mut self.read).await? == 0 {
                let between = self.read.is_empty();
                return if between { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    fn whole(&mut self) -> io::Result<Option<(u8, Bytes)>> {
        let Some(head) = self.read.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*head) as usize;
        if length == 0 || length > LONGEST {
            return Err(broken(format!("a frame of {length} bytes")));
        }
        if self.read.len() < 4 + length {
            // Memory follows what has really come: a length alone takes none.
            self.read.reserve((4 + length - self.read.len()).min(1 << 20));
            return Ok(None);
        }
        self.read.advance(4);
        let mut frame = self.read.split_to(length).freeze();
        let kind = frame.get_u8();
        Ok(Some((kind, frame)))
    }

    /// The stream itself, to write to it.
    pub(crate) fn stream(&mut self) -> &mut R {
        &mut self.from
    }
}

impl<S: AsyncRead + AsyncWrite> Frames<S> {
    /// Both directions apart; what was read already is not lost.
    pub(crate) fn split(self) -> (Frames<ReadHalf<S>>, WriteHalf<S>) {
        let (from, into) = tokio::io::split(self.from);
        (Frames { from, read: self.read }, into)
    }
}

/// A frame that is being made of pieces; the large ones are not copied.
pub(crate) struct Frame {
    pieces: Vec<Bytes>,
    open: Vec<u8>,
    length: usize,
}

impl Frame {
    pub(crate) fn new(kind: u8) -> Self {
        Frame { pieces: Vec::new(), open: vec![0, 0, 0, 0, kind], length: 1 }
    }

    /// A frame with a body in one piece.
    pub(crate) fn with(kind: u8, body: &[u8]) -> Self {
        let mut frame = Frame::new(kind);
        frame.put(body);
        frame
    }

    /// Bytes of kind and body so far.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.length += bytes.len();
        self.open.extend_from_slice(bytes);
    }

    pub(crate) fn put_shared(&mut self, bytes: &Bytes) {
        if bytes.len() <= COPIED {
            return self.put(bytes);
        }
        self.length += bytes.len();
        self.pieces.push(std::mem::take(&mut self.open).into());
        self.pieces.push(bytes.clone());
    }

    /// The pieces in order.
    pub(crate) fn finish(self) -> io::Result<Vec<Bytes>> {
        let Frame { mut pieces, open, length } = self;
        if length > LONGEST {
            return Err(broken(format!("a frame of {length} bytes is too long to be sent")));
        }
        pieces.push(open.into());
        let mut first = pieces[0].to_vec();
        first[..4].copy_from_slice(&(length as u32).to_le_bytes());
        pieces[0] = first.into();
        Ok(pieces)
    }
}

/// Writes frames; the last one is on its way when this returns.
pub(crate) async fn write<W: AsyncWrite + Unpin>(into: &mut W, frame: Frame) -> io::Result<()> {
    for piece in frame.finish()? {
        into.write_all(&piece).await?;
    }
    into.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_come_as_they_were_sent_however_they_are_cut() {
        for size in [1, 2, 3, 7, 64 << 10] {
            let (mut near, far) = tokio::io::duplex(size);
            let large = Bytes::from(vec![7; COPIED + 1]);
            let sent = large.clone();
            let sending = tokio::spawn(async move {
                write(&mut near, Frame::with(1, b"abc")).await.unwrap();
                let mut frame = Frame::new(2);
                frame.put(b"head");
                frame.put_shared(&sent);
                frame.put_shared(&Bytes::from_static(b"tail"));
                write(&mut near, frame).await.unwrap();
                write(&mut near, Frame::new(3)).await.unwrap();
            });
            let mut frames = Frames::new(far);
            assert_eq!(frames.next().await.unwrap(), Some((1, Bytes::from_static(b"abc"))));
            let (kind, body) = frames.next().await.unwrap().unwrap();
            assert_eq!((kind, body), (2, [b"head", &large[..], b"tail"].concat().into()));
            assert_eq!(frames.next().await.unwrap(), Some((3, Bytes::new())));
            assert_eq!(frames.next().await.unwrap(), None);
            sending.await.unwrap();
        }
    }

    #[tokio::test]
    async fn nonsense_and_cut_frames_are_errors() {
        for bytes in [&[0, 0, 0, 0, 1][..], &[255, 255, 255, 255, 1], &[3, 0, 0, 0, 1, 2], &[3, 0]] {
            assert!(Frames::new(bytes).next().await.is_err(), "{bytes:?}");
        }
    }
}
