//! The client's side of HTTP/2, as lean as a load generator wants it: all calls of a connection write into one buffer,
//! which goes out with one call of the kernel, and one task reads for all of them.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use kelson_wire::http2::frame::{self, HEAD, Head, flag, kind, setting};
use kelson_wire::http2::hpack::{self, Indexing};
use kelson_wire::http2::{DEFAULT_FRAME, DEFAULT_WINDOW, Decoder, PREFACE, Reason};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;

use crate::error::Error;

/// Bytes that the server may send on a stream, and on a connection, before it is told to go on. Large, so that a list
/// of a hundred megabytes is measured and not the round trips of its flow control.
const STREAM_WINDOW: u32 = 64 << 20;
const CONNECTION_WINDOW: u32 = 1 << 30;
/// The buffer that is read into.
const READ: usize = 256 << 10;
/// The number of the newest entry of the server's table of headers.
const NEWEST: usize = 62;

/// A connection. Clones share it.
#[derive(Clone)]
pub(crate) struct Transport(Arc<Mutex<State>>);

struct State {
    out: Vec<u8>,
    sent: usize,
    /// The task that reads and writes.
    driver: Option<Waker>,
    streams: FxHashMap<u32, Stream>,
    next: u32,
    /// What the server takes: bytes of the connection, bytes of a new stream, bytes of a frame, streams.
    room: i64,
    window: u32,
    frame: usize,
    most: usize,
    /// Calls that wait for a stream, and streams that wait for the connection's room.
    queue: VecDeque<Waker>,
    line: VecDeque<u32>,
    /// Bytes that came since the server was told to go on.
    taken: u32,
    decoder: Decoder,
    /// Headers in the server's table, oldest first.
    table: Vec<(Bytes, Bytes)>,
    failure: Option<Lost>,
}

/// Why a connection is no more.
#[derive(Clone, Debug)]
struct Lost(String);

#[derive(Default)]
struct Stream {
    room: i64,
    waiting: VecDeque<Bytes>,
    /// Whether our side ends behind what waits; and has ended.
    finished: bool,
    in_line: bool,
    came: VecDeque<Bytes>,
    /// Of the stream's window.
    taken: u32,
    end: Option<End>,
    waker: Option<Waker>,
}

/// How the server has ended a stream.
#[derive(Clone, Debug)]
pub(crate) enum End {
    /// With gRPC's status and message.
    Status(u32, String),
    Reset(u32),
}

/// Headers of a call, made once.
pub(crate) type Fields = Arc<[(Bytes, Bytes)]>;

impl Transport {
    /// Speaks on a socket; a task of the present runtime drives it.
    pub(crate) fn start(socket: TcpStream) -> Transport {
        let mut out = PREFACE.to_vec();
        let settings = [(setting::ENABLE_PUSH, 0), (setting::INITIAL_WINDOW_SIZE, STREAM_WINDOW)];
        frame::settings(&settings, &mut out);
        let more = CONNECTION_WINDOW - DEFAULT_WINDOW;
        frame::short(kind::WINDOW_UPDATE, 0, 0, more.to_be_bytes(), &mut out);
        let transport = Transport(Arc::new(Mutex::new(State {
            out,
            sent: 0,
            driver: None,
            streams: FxHashMap::default(),
            next: 1,
            room: i64::from(DEFAULT_WINDOW),
            window: DEFAULT_WINDOW,
            frame: DEFAULT_FRAME,
            most: usize::MAX,
            queue: VecDeque::new(),
            line: VecDeque::new(),
            taken: 0,
            decoder: Decoder::default(),
            table: Vec::new(),
            failure: None,
        })));
        let driver = Driver { state: Arc::downgrade(&transport.0), socket, input: BytesMut::new() };
        tokio::spawn(driver);
        transport
    }

    /// Begins a call with its first message, framed already; `finished` says that there is no other.
    pub(crate) fn poll_open(
        &self,
        task: &mut Context<'_>,
        fields: &[(Bytes, Bytes)],
        framed: &mut Bytes,
        finished: bool,
    ) -> Poll<Result<Handle, Error>> {
        let state = &mut *self.0.lock();
        if let Some(lost) = &state.failure {
            return Poll::Ready(Err(lost.error()));
        }
        if state.streams.len() >= state.most {
            state.queue.push_back(task.waker().clone());
            return Poll::Pending;
        }
        let id = state.next;
        state.next += 2;
        state.head(id, fields);
        let stream = Stream { room: i64::from(state.window), finished, ..Stream::default() };
        state.streams.insert(id, stream);
        state.send(id, std::mem::take(framed));
        Poll::Ready(Ok(Handle { transport: self.clone(), id }))
    }
}

impl Lost {
    fn error(&self) -> Error {
        Error::Http(self.0.clone())
    }
}

/// A stream. It is reset when this goes before the server has ended it.
pub(crate) struct Handle {
    transport: Transport,
    id: u32,
}

impl Handle {
    /// Sends one message more.
    pub(crate) fn send(&self, framed: Bytes) -> Result<(), Error> {
        let state = &mut *self.transport.0.lock();
        match &state.failure {
            Some(lost) => Err(lost.error()),
            None => {
                state.send(self.id, framed);
                Ok(())
            }
        }
    }

    /// Says that there is no more.
    pub(crate) fn finish(&self) {
        let state = &mut *self.transport.0.lock();
        let Some(stream) = state.streams.get_mut(&self.id).filter(|stream| !stream.finished) else { return };
        stream.finished = true;
        if stream.waiting.is_empty() {
            state.put(Head { length: 0, kind: kind::DATA, flags: flag::END_STREAM, stream: self.id });
        }
    }

    /// The next piece of the server's body; its end when there is no more.
    pub(crate) fn poll_piece(&self, task: &mut Context<'_>) -> Poll<Result<Result<Bytes, End>, Error>> {
        let state = &mut *self.transport.0.lock();
        let Some(stream) = state.streams.get_mut(&self.id) else {
            return Poll::Ready(Ok(Err(End::Reset(Reason::Cancel as u32))));
        };
        if let Some(piece) = stream.came.pop_front() {
            stream.taken += piece.len() as u32;
            // One that has ended needs no room.
            if stream.taken >= STREAM_WINDOW / 2 && stream.end.is_none() {
                let taken = std::mem::take(&mut stream.taken);
                state.short(kind::WINDOW_UPDATE, self.id, taken.to_be_bytes());
            }
            return Poll::Ready(Ok(Ok(piece)));
        }
        if let Some(end) = &stream.end {
            return Poll::Ready(Ok(Err(end.clone())));
        }
        if let Some(lost) = &state.failure {
            return Poll::Ready(Err(lost.error()));
        }
        stream.waker = Some(task.waker().clone());
        Poll::Pending
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let state = &mut *self.transport.0.lock();
        let Some(stream) = state.streams.remove(&self.id) else { return };
        if stream.end.is_none() && state.failure.is_none() {
            state.short(kind::RST_STREAM, self.id, (Reason::Cancel as u32).to_be_bytes());
        }
        if let Some(next) = state.queue.pop_front() {
            next.wake();
        }
    }
}

impl State {
    /// Sees to it that what is written goes out.
    fn wake(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    fn put(&mut self, head: Head) {
        self.out.extend_from_slice(&head.bytes());
        self.wake();
    }

    fn short<const N: usize>(&mut self, kind: u8, stream: u32, payload: [u8; N]) {
        frame::short(kind, 0, stream, payload, &mut self.out);
        self.wake();
    }

    /// Writes the headers of a call: a number for each that the server has seen before.
    fn head(&mut self, id: u32, fields: &[(Bytes, Bytes)]) {
        let at = self.out.len();
        self.out.extend_from_slice(&[0; HEAD]);
        for (name, value) in fields {
            match self.table.iter().position(|known| known.0 == *name && known.1 == *value) {
                Some(place) => hpack::indexed(NEWEST + self.table.len() - 1 - place, &mut self.out),
                None => {
                    hpack::literal(Indexing::Keep, name, value, &mut self.out);
                    self.table.push((name.clone(), value.clone()));
                }
            }
        }
        let length = self.out.len() - at - HEAD;
        let head = Head { length, kind: kind::HEADERS, flags: flag::END_HEADERS, stream: id };
        self.out[at..at + HEAD].copy_from_slice(&head.bytes());
        self.wake();
    }

    fn send(&mut self, id: u32, framed: Bytes) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.waiting.push_back(framed);
            self.pump(id);
        }
    }

    /// Writes what the server has room for.
    fn pump(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        while let Some(front) = stream.waiting.front_mut() {
            let length = (front.len() as i64).min(stream.room).min(self.room).min(self.frame as i64);
            if length <= 0 && !front.is_empty() {
                if stream.room > 0 && !stream.in_line {
                    stream.in_line = true;
                    self.line.push_back(id);
                }
                break;
            }
            let length = length as usize;
            let ended = stream.finished && stream.waiting.len() == 1 && length == stream.waiting[0].len();
            let flags = if ended { flag::END_STREAM } else { 0 };
            self.out.extend_from_slice(&Head { length, kind: kind::DATA, flags, stream: id }.bytes());
            let front = &mut stream.waiting[0];
            self.out.extend_from_slice(&front.split_to(length));
            if front.is_empty() {
                stream.waiting.pop_front();
            }
            stream.room -= length as i64;
            self.room -= length as i64;
        }
        self.wake();
    }

    fn ended(&mut self, id: u32, end: End) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.end.get_or_insert(end);
            if let Some(waker) = stream.waker.take() {
                waker.wake();
            }
        }
    }

    fn lose(&mut self, why: impl ToString) {
        self.failure = Some(Lost(why.to_string()));
        self.streams.values_mut().filter_map(|stream| stream.waker.take()).for_each(Waker::wake);
        self.queue.drain(..).for_each(Waker::wake);
    }

    fn hear(&mut self, head: Head, mut payload: BytesMut) -> Result<(), Lost> {
        let wrong = |what: &str| Lost(format!("the server sent {what}"));
        if head.has(flag::PADDED) && matches!(head.kind, kind::DATA | kind::HEADERS) {
            let padding = frame::padding(&payload).map_err(|_| wrong("a frame with wrong padding"))?;
            payload.advance(1);
            payload.truncate(payload.len() - padding);
        }
        match head.kind {
            kind::DATA => {
                self.taken += head.length as u32;
                if self.taken >= CONNECTION_WINDOW / 2 {
                    let taken = std::mem::take(&mut self.taken);
                    self.short(kind::WINDOW_UPDATE, 0, taken.to_be_bytes());
                }
                if let Some(stream) = self.streams.get_mut(&head.stream) {
                    stream.came.push_back(payload.freeze());
                    if let Some(waker) = stream.waker.take_if(|_| !head.has(flag::END_STREAM)) {
                        waker.wake();
                    }
                }
                if head.has(flag::END_STREAM) {
                    self.ended(head.stream, End::Status(2, "no gRPC status in the answer".into()));
                }
            }
            kind::HEADERS => {
                if !head.has(flag::END_HEADERS) || head.has(flag::PRIORITY) {
                    return Err(wrong("headers as no server of gRPC does"));
                }
                let (mut code, mut text) = (None, None);
                let field = |name: &[u8], value: &[u8]| match name {
                    b"grpc-status" => code = std::str::from_utf8(value).ok().and_then(|code| code.parse().ok()),
                    b"grpc-message" => text = Some(String::from_utf8_lossy(value).into_owned()),
                    _ => {}
                };
                self.decoder.decode(&payload, field).map_err(|error| Lost(error.to_string()))?;
                if head.has(flag::END_STREAM) {
                    let none = || "no gRPC status in the answer".to_owned();
                    let text = if code == Some(0) { String::new() } else { text.unwrap_or_else(none) };
                    self.ended(head.stream, End::Status(code.unwrap_or(2), text));
                }
            }
            kind::RST_STREAM => {
                let reason = payload.first_chunk().copied().map_or(0, u32::from_be_bytes);
                self.ended(head.stream, End::Reset(reason));
            }
            kind::SETTINGS if !head.has(flag::ACK) => self.settings(&payload),
            kind::PING if !head.has(flag::ACK) => {
                let payload: [u8; 8] = payload[..].try_into().map_err(|_| wrong("a ping of a wrong size"))?;
                frame::short(kind::PING, flag::ACK, 0, payload, &mut self.out);
                self.wake();
            }
            kind::GOAWAY => return Err(Lost("the server says goodbye".into())),
            kind::WINDOW_UPDATE => {
                let more = i64::from(payload.first_chunk().copied().map_or(0, u32::from_be_bytes));
                if let Some(stream) = self.streams.get_mut(&head.stream) {
                    stream.room += more;
                    self.pump(head.stream);
                } else if head.stream == 0 {
                    self.room += more;
                    while self.room > 0
                        && let Some(next) = self.line.pop_front()
                    {
                        if let Some(stream) = self.streams.get_mut(&next) {
                            stream.in_line = false;
                            self.pump(next);
                        }
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn settings(&mut self, payload: &[u8]) {
        let (settings, _) = payload.as_chunks::<6>();
        for [a, b, value @ ..] in settings {
            let value = u32::from_be_bytes(*value);
            match u16::from_be_bytes([*a, *b]) {
                setting::INITIAL_WINDOW_SIZE => {
                    let difference = i64::from(value) - i64::from(self.window);
                    self.window = value;
                    self.streams.values_mut().for_each(|stream| stream.room += difference);
                    let ids: Vec<u32> = self.streams.keys().copied().collect();
                    ids.into_iter().for_each(|id| self.pump(id));
                }
                setting::MAX_FRAME_SIZE => self.frame = value as usize,
                setting::MAX_CONCURRENT_STREAMS => self.most = value as usize,
                _ => {}
            }
        }
        frame::short(kind::SETTINGS, flag::ACK, 0, [], &mut self.out);
        self.wake();
    }
}

/// Reads and writes for all. Ends with the connection, or when nobody uses it any more.
struct Driver {
    state: std::sync::Weak<Mutex<State>>,
    socket: TcpStream,
    input: BytesMut,
}

impl Driver {
    fn drive(&mut self, state: &mut State, task: &mut Context<'_>) -> Poll<Lost> {
        self.input.reserve(READ);
        match pin!(self.socket.read_buf(&mut self.input)).poll(task) {
            Poll::Ready(Ok(0)) => return Poll::Ready(Lost("the server has closed the connection".into())),
            Poll::Ready(Err(error)) => return Poll::Ready(Lost(error.to_string())),
            Poll::Pending => {}
            // More may have come. Those that this is for have their turn first, and the buffer is free again then.
            Poll::Ready(Ok(_)) => task.waker().wake_by_ref(),
        }
        while let Some(head) = Head::read(&self.input).filter(|head| self.input.len() >= HEAD + head.length) {
            let mut payload = self.input.split_to(HEAD + head.length);
            payload.advance(HEAD);
            if let Err(lost) = state.hear(head, payload) {
                return Poll::Ready(lost);
            }
        }
        // Who writes from now on is to wake this task.
        state.driver = Some(task.waker().clone());
        while state.sent < state.out.len() {
            match ready!(Pin::new(&mut self.socket).poll_write(task, &state.out[state.sent..])) {
                Ok(0) => return Poll::Ready(Lost("nothing can be sent".into())),
                Ok(written) => state.sent += written,
                Err(error) => return Poll::Ready(Lost(error.to_string())),
            }
        }
        state.sent = 0;
        state.out.clear();
        Poll::Pending
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let Some(state) = this.state.upgrade() else { return Poll::Ready(()) };
        let state = &mut *state.lock();
        let lost = ready!(this.drive(state, task));
        state.lose(lost.0);
        Poll::Ready(())
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // The driver sees that nobody is left.
        self.wake();
    }
}
