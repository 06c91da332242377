//! A client that speaks HTTP/2 frame by frame, so that it can do what no library would.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::harness::{Server, within};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// One frame.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// A frame's bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Headers as HPACK writes them without indexing or compression.
pub fn fields(headers: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| {
        let mut length = Vec::new();
        match text.len() {
            short @ ..127 => length.push(short as u8),
            long => {
                length.push(127);
                let mut rest = long - 127;
                while rest >= 128 {
                    length.push((rest % 128 + 128) as u8);
                    rest /= 128;
                }
                length.push(rest as u8);
            }
        }
        [&length, text.as_bytes()].concat()
    };
    headers.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

/// The headers of a call.
pub fn call(path: &str) -> Vec<u8> {
    fields(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "etcd"),
        (":path", path),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ])
}

/// A connection.
pub struct Raw {
    reading: OwnedReadHalf,
    writing: Option<OwnedWriteHalf>,
}

impl Raw {
    /// Connects and says the preface, with empty settings.
    pub async fn open(server: &Server) -> Self {
        let (reading, writing) = TcpStream::connect(&server.address).await.unwrap().into_split();
        let mut raw = Raw { reading, writing: Some(writing) };
        raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        raw.send(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        // It takes all that is sent to it.
        raw.send(&frame(WINDOW_UPDATE, 0, 0, &(1u32 << 30).to_be_bytes())).await.unwrap();
        raw
    }

    /// The side that writes, for who writes while others read.
    pub fn take_writing(&mut self) -> OwnedWriteHalf {
        self.writing.take().expect("taken once")
    }

    /// Fails where the server has closed the connection.
    pub async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        within("a write", self.writing.as_mut().expect("not taken").write_all(bytes)).await
    }

    /// The next frame; `None` at the connection's end.
    pub async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        within("a frame", self.reading.read_exact(&mut head)).await.ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        within("a frame", self.reading.read_exact(&mut payload)).await.ok()?;
        Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload })
    }

    /// The next frame of a kind; `None` when the connection ends before.
    pub async fn next_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// How the server says goodbye: the code of its last GOAWAY.
    pub async fn goodbye(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.next().await {
            if frame.kind == GOAWAY {
                code = frame.payload.get(4..8).and_then(|code| Some(u32::from_be_bytes(code.try_into().ok()?)));
            }
        }
        code
    }
}
