//! One HTTP/2 connection: takes requests in, answers what can be answered, waits for the rest, and sends all of it
//! together. All of it is one task: nothing is locked but what comes from other threads.

use std::collections::VecDeque;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use kelson_engine::Outcome;
use kelson_raft::{Error, Inbox};
use kelson_wire::http2::frame::{self, flag, kind, setting};
use kelson_wire::http2::{DEFAULT_FRAME, DEFAULT_WINDOW, Decoder, MAX_WINDOW, PREFACE, Reason};
use rustc_hash::FxHashMap;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::body::Credit;
use super::heads::Heads;
use super::keepalive::{self, Due, KeepAlive};
use super::output::Output;
use super::receive::Block;
use super::request::{Fields, MAX_HEADERS};
use super::stream::Stream;
use super::task::Task;
use super::{CONNECTION_WINDOW, MAX_FRAME, STREAM_WINDOW, Shared};

/// Rounds of hearing and answering before others of the runtime have their turn.
const ROUNDS: usize = 16;
/// Waits that may end in one round.
const WAITS: usize = 512;
/// Reads of one round. Each takes what there is, up to the buffer's size.
const READS: usize = 4;
/// The buffer that is read into: at least so large, and at most while the client fills it.
const READ: usize = 16 << 10;
const READ_MOST: usize = 256 << 10;
/// Bytes on their way to the socket beyond which nothing more is heard: who does not read is not answered.
const SEND_MOST: usize = 1 << 20;
/// The same, beyond which bodies that can wait do.
pub(super) const BODY_MOST: usize = 512 << 10;
/// How long, and how much, a client may go on talking after it was told that the connection ends.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 16 << 20;
/// What the ping behind a goodbye says: its answer tells that the client knows.
pub(super) const GOODBYE: [u8; 8] = *b"goodbye!";

/// An HTTP/2 connection. As a future it ends with the connection.
pub(super) struct Connection<S> {
    pub(super) shared: Arc<Shared>,
    socket: S,
    input: BytesMut,
    /// Bytes that the next read makes room for.
    read: usize,
    pub(super) out: Output,
    pub(super) heads: Heads,
    pub(super) decoder: Decoder,
    pub(super) fields: Fields,
    /// Headers that go on in the next frame.
    pub(super) block: Option<Block>,
    pub(super) streams: FxHashMap<u32, Stream>,
    /// The newest stream, now and when this turn began.
    pub(super) newest: u32,
    pub(super) turn: u32,
    pub(super) recent: Recent,
    pub(super) tasks: FuturesUnordered<Task>,
    /// Outcomes of the writes of this connection, by stream.
    pub(super) inbox: Arc<Inbox>,
    arrived: Vec<(u64, Result<Outcome, Error>)>,
    pub(super) credit: Arc<Credit>,
    /// Streams that wait for the connection's window, for room in the output, and to be begun.
    pub(super) line: VecDeque<u32>,
    pub(super) stalled: Vec<u32>,
    pub(super) deferred: VecDeque<u32>,
    /// Bytes that the client may still send, and bytes that it sent since it was told so.
    pub(super) window: i64,
    pub(super) taken: usize,
    /// Bytes that the client takes.
    pub(super) room: i64,
    pub(super) client: Client,
    /// Bytes of answers that wait for the client's windows, and of messages that are there in part.
    pub(super) owed: usize,
    pub(super) partial: usize,
    pub(super) floods: Floods,
    /// When the first of the calls that wait may have to end.
    pub(super) due: Option<Instant>,
    clock: Pin<Box<Sleep>>,
    keep_alive: Option<KeepAlive>,
    /// Until a stop was asked for.
    stop: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// Whether the client knows that there will be no more, and no new stream of it is served.
    pub(super) last: bool,
    ending: Option<Ending>,
}

/// What the client has said of itself.
pub(super) struct Client {
    pub(super) window: u32,
    pub(super) frame: usize,
    /// Whether its settings have come.
    pub(super) known: bool,
}

/// What is borne of frames that are of no use.
#[derive(Default)]
pub(super) struct Floods {
    /// Streams opened and reset in one turn.
    pub(super) resets: usize,
    /// Streams that we have reset because of what the client did.
    pub(super) faults: usize,
    /// Empty frames of data in a row.
    pub(super) empty: usize,
}

/// Streams that ended lately, and whether by our own reset: frames of those may still be on their way.
#[derive(Default)]
pub(super) struct Recent(VecDeque<(u32, bool)>);

impl Recent {
    const MOST: usize = 1024;

    pub(super) fn push(&mut self, stream: u32, reset: bool) {
        if self.0.len() == Self::MOST {
            self.0.pop_front();
        }
        self.0.push_back((stream, reset));
    }

    /// Whether it was reset; `None` for one that is long gone.
    pub(super) fn find(&self, stream: u32) -> Option<bool> {
        self.0.iter().rev().find(|(recent, _)| *recent == stream).map(|(_, reset)| *reset)
    }
}

/// A connection that is to be closed when what is owed is sent.
struct Ending {
    why: Option<End>,
    until: Pin<Box<Sleep>>,
    left: usize,
    shut: bool,
}

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// In order, or cut by the client.
    Done,
    /// The client did what it may not.
    Fault(Reason),
    Io(io::Error),
    /// The client did not answer a ping.
    Lost,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// A connection of which this has been read: it begins with the preface.
    pub(super) fn new(shared: Arc<Shared>, socket: S, mut begun: BytesMut) -> Self {
        begun.advance(PREFACE.len().min(begun.len()));
        let context = shared.router.context();
        let stop = Some(Box::pin(context.shutdown.clone().cancelled_owned()));
        let options = &context.options;
        let keep_alive = options.keep_alive.map(|interval| KeepAlive::new(interval, options.keep_alive_timeout));
        let mut out = Output::default();
        let settings = [
            (setting::MAX_CONCURRENT_STREAMS, options.max_streams_per_connection),
            (setting::INITIAL_WINDOW_SIZE, STREAM_WINDOW),
            (setting::MAX_FRAME_SIZE, MAX_FRAME as u32),
            (setting::MAX_HEADER_LIST_SIZE, MAX_HEADERS as u32),
        ];
        frame::settings(&settings, out.frames());
        let more = CONNECTION_WINDOW - DEFAULT_WINDOW;
        frame::short(kind::WINDOW_UPDATE, 0, 0, more.to_be_bytes(), out.frames());
        Self {
            shared,
            socket,
            input: begun,
            read: READ,
            out,
            heads: Heads::default(),
            decoder: Decoder::default(),
            fields: Fields::default(),
            block: None,
            streams: FxHashMap::default(),
            newest: 0,
            turn: 0,
            recent: Recent::default(),
            tasks: FuturesUnordered::new(),
            inbox: Arc::default(),
            arrived: Vec::new(),
            credit: Arc::default(),
            line: VecDeque::new(),
            stalled: Vec::new(),
            deferred: VecDeque::new(),
            window: i64::from(CONNECTION_WINDOW),
            taken: 0,
            room: i64::from(DEFAULT_WINDOW),
            client: Client { window: DEFAULT_WINDOW, frame: DEFAULT_FRAME, known: false },
            owed: 0,
            partial: 0,
            floods: Floods::default(),
            due: None,
            clock: Box::pin(tokio::time::sleep(Duration::ZERO)),
            keep_alive,
            stop,
            last: false,
            ending: None,
        }
    }

    /// Says goodbye: what is under way is answered, what the client sends before it hears of it too.
    fn part(&mut self) {
        self.goaway(MAX_WINDOW, Reason::NoError);
        frame::short(kind::PING, 0, 0, GOODBYE, self.out.frames());
    }

    pub(super) fn goaway(&mut self, last: u32, reason: Reason) {
        let mut payload = [0; 8];
        payload[..4].copy_from_slice(&last.to_be_bytes());
        payload[4..].copy_from_slice(&(reason as u32).to_be_bytes());
        frame::short(kind::GOAWAY, 0, 0, payload, self.out.frames());
    }

    /// Ends the connection when what is said is sent.
    fn end(&mut self, why: End) {
        if let End::Fault(reason) = why {
            let streams: Vec<u32> = self.streams.keys().copied().collect();
            streams.into_iter().for_each(|stream| self.close(stream, true));
            self.goaway(self.newest, reason);
        }
        let until = Box::pin(tokio::time::sleep(LINGER));
        self.ending = Some(Ending { why: Some(why), until, left: LINGER_BYTES, shut: false });
    }

    /// What has come and is not yet dealt with.
    pub(super) fn input(&self) -> &[u8] {
        &self.input
    }

    /// So many bytes of it, when they are there.
    pub(super) fn take_input(&mut self, bytes: usize) -> Option<BytesMut> {
        (self.input.len() >= bytes).then(|| self.input.split_to(bytes))
    }

    /// Takes the outcomes that have come.
    fn hear_outcomes(&mut self, task: &mut Context<'_>) -> bool {
        let mut arrived = std::mem::take(&mut self.arrived);
        let some = self.inbox.poll_take(task, &mut arrived).is_ready();
        for (stream, outcome) in arrived.drain(..) {
            self.decided(stream as u32, outcome);
        }
        self.arrived = arrived;
        some
    }

    /// Goes on with what was waited for.
    fn go_on(&mut self, task: &mut Context<'_>) -> bool {
        for waits in 0..WAITS {
            match self.tasks.poll_next_unpin(task) {
                Poll::Ready(Some((stream, Some(done)))) => self.came(stream, done),
                Poll::Ready(Some((_, None))) => {}
                Poll::Ready(None) | Poll::Pending => return waits > 0,
            }
        }
        true
    }

    /// Tells the client of the room that reading has made.
    fn make_room(&mut self) {
        self.taken += self.credit.take_bytes();
        if self.taken >= CONNECTION_WINDOW as usize / 4 {
            let taken = std::mem::take(&mut self.taken);
            self.window += taken as i64;
            frame::short(kind::WINDOW_UPDATE, 0, 0, (taken as u32).to_be_bytes(), self.out.frames());
        }
        for stream in self.credit.take_streams() {
            self.widen(stream);
        }
    }

    /// Hears what the client says, while it reads what it is told.
    fn listen(&mut self, task: &mut Context<'_>) -> Poll<Result<(), End>> {
        let mut heard = false;
        for _ in 0..READS {
            if self.out.waiting() >= SEND_MOST {
                break;
            }
            // What was read together with the preface comes first.
            self.hear_frames().map_err(End::Fault)?;
            self.input.reserve(self.read);
            match pin!(self.socket.read_buf(&mut self.input)).poll(task) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(End::Done)),
                Poll::Ready(Ok(read)) => {
                    heard = true;
                    self.read = if read >= self.read { (2 * self.read).min(READ_MOST) } else { self.read };
                    self.hear_frames().map_err(End::Fault)?;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(End::Io(error))),
                Poll::Pending => {
                    if self.input.is_empty() {
                        // Idle connections are many.
                        self.input = BytesMut::new();
                        self.read = (self.read / 2).max(READ);
                    }
                    break;
                }
            }
        }
        if heard {
            if let Some(keep_alive) = &mut self.keep_alive {
                keep_alive.hear();
            }
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }

    /// One round; ready when there may be more to do.
    fn round(&mut self, task: &mut Context<'_>) -> Poll<Result<(), End>> {
        let mut more = self.hear_outcomes(task);
        more |= self.go_on(task);
        self.make_room();
        more |= self.begin_deferred();
        more |= match self.listen(task) {
            Poll::Ready(heard) => heard.map(|()| true)?,
            Poll::Pending => false,
        };
        let full = self.out.waiting() >= SEND_MOST;
        if let Poll::Ready(sent) = self.out.send(&mut self.socket, task) {
            sent.map_err(End::Io)?;
            more |= full || !self.stalled.is_empty();
            for stream in std::mem::take(&mut self.stalled) {
                self.read_on(stream);
            }
            if self.last && self.streams.is_empty() {
                return Poll::Ready(Err(End::Done));
            }
        }
        if more { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Ends the calls whose time is over, and looks at pings.
    fn watch_clocks(&mut self, task: &mut Context<'_>) -> Poll<Result<(), End>> {
        let mut due = false;
        while let Some(at) = self.due {
            if self.clock.deadline() != at {
                self.clock.as_mut().reset(at);
            }
            if self.clock.as_mut().poll(task).is_pending() {
                break;
            }
            self.expire(Instant::now());
            due = true;
        }
        match self.keep_alive.as_mut().map(|keep_alive| keep_alive.poll(task)) {
            Some(Poll::Ready(Due::Lost)) => return Poll::Ready(Err(End::Lost)),
            Some(Poll::Ready(Due::Ask)) => {
                frame::short(kind::PING, 0, 0, keepalive::PING, self.out.frames());
                due = true;
            }
            _ => {}
        }
        if due { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Sends what is left, closes our side, and passes over what the client still says: closing on it would take the last
    /// words from it.
    fn linger(&mut self, task: &mut Context<'_>) -> Poll<End> {
        let Some(ending) = &mut self.ending else { return Poll::Pending };
        let end = |ending: &mut Ending| Poll::Ready(ending.why.take().unwrap_or(End::Done));
        if ending.until.as_mut().poll(task).is_ready() {
            return end(ending);
        }
        let mut passed = [0; 8 << 10];
        loop {
            if !ending.shut && self.out.send(&mut self.socket, task).is_ready() {
                // It is the end either way.
                ending.shut = Pin::new(&mut self.socket).poll_shutdown(task).is_ready();
            }
            let mut buffer = ReadBuf::new(&mut passed);
            match ready!(Pin::new(&mut self.socket).poll_read(task, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => match ending.left.checked_sub(buffer.filled().len()) {
                    Some(left) => ending.left = left,
                    None => return end(ending),
                },
                _ => return end(ending),
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Connection<S> {
    type Output = End;

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<End> {
        let this = self.get_mut();
        if this.ending.is_some() {
            return this.linger(task);
        }
        if this.stop.as_mut().is_some_and(|stop| stop.as_mut().poll(task).is_ready()) {
            this.stop = None;
            this.part();
        }
        this.credit.register(task.waker());
        this.turn = this.newest;
        this.floods.resets = 0;
        for _ in 0..ROUNDS {
            let worked = this.round(task);
            let clocks = if worked.is_pending() { this.watch_clocks(task) } else { Poll::Pending };
            match (worked, clocks) {
                (Poll::Pending, Poll::Pending) => return Poll::Pending,
                (Poll::Ready(Err(end @ (End::Io(_) | End::Lost))), _) | (_, Poll::Ready(Err(end))) => {
                    return Poll::Ready(end);
                }
                (Poll::Ready(Err(end)), _) => {
                    this.end(end);
                    return this.linger(task);
                }
                _ => {}
            }
        }
        // Others wait for their turn.
        task.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S> Drop for Connection<S> {
    fn drop(&mut self) {
        // Those who read a body somewhere else are to hear that there is no more.
        self.streams.drain().for_each(|(_, stream)| super::send::give_up(stream));
    }
}

/// Frames that only say something of a stream.
pub(super) fn reset(stream: u32, reason: Reason, out: &mut Vec<u8>) {
    frame::short(kind::RST_STREAM, 0, stream, (reason as u32).to_be_bytes(), out);
}

/// The answer to a ping or to settings.
pub(super) const ACK: u8 = flag::ACK;
