use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use bytes::Bytes;
use kelson_engine::Backend;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    time::{Instant, timeout},
};

use super::{BEGIN, END, PATIENCE, PIECE, READY, REFUSED, STORED, TAKEN, piece::read};
use crate::{
    codec::Body,
    peer::{
        Connection, Purpose, broken,
        frame::{self, Frame, Frames},
        message,
        roster::Roster,
    },
    task,
};

/// Pieces that a sender keeps in memory: sent or about to be, and not known to be stored.
const WINDOW: usize = 8;
/// How long a member may take to start from a state that it has.
const RESTART: Duration = Duration::from_secs(300);
/// How late a piece may be, so that those behind it go at once and the rate is kept.
const CREDIT: Duration = Duration::from_millis(100);
/// Between two streams for one state.
const PAUSE: Duration = Duration::from_millis(200);

/// A stream to a member that answers.
type Open = Frames<Box<dyn Connection>>;

/// Opens a stream for a state.
pub(crate) async fn open(roster: &Roster, target: u64) -> io::Result<Open> {
    let opened = timeout(roster.timing.connect, roster.open(target, Purpose::State)).await;
    opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Sends the state in `backend` as it is now on `stream`, at most `rate` bytes a second, and returns when the other member
/// has it for good. `head` says which one it is, by [`message::encode_begin`]. A stream that breaks is followed by another
/// one, which goes on where the last one was, as long as that gets on.
pub(crate) async fn send(
    roster: &Roster,
    target: u64,
    stream: Open,
    backend: Arc<dyn Backend>,
    head: &[u8],
    rate: u64,
) -> io::Result<()> {
    let (pieces, ready) = mpsc::channel(1);
    let reading = task::spawn(read_aside(backend, pieces));
    let mut state = Outgoing::new(ready, rate);
    let mut moved = Instant::now();
    let mut opened = Ok(stream);
    loop {
        let before = state.stored;
        let ended = match opened {
            Ok(stream) => state.deliver(stream, head).await,
            Err(error) => Err(error),
        };
        let broke = match ended {
            Ok(Ended::Taken) => return Ok(()),
            Ok(Ended::Refused(why)) => return Err(io::Error::other(why)),
            Ok(Ended::Forgotten) => return Err(io::Error::other("the other member has lost what it had of the state")),
            Ok(Ended::Unread) => {
                reading.await.map_err(io::Error::other)??;
                return Err(io::Error::other("the state could not be read to its end"));
            }
            Err(error) => error,
        };
        if state.stored > before {
            moved = Instant::now();
        }
        if moved.elapsed() > if state.whole { RESTART } else { PATIENCE } {
            return Err(broke);
        }
        tracing::debug!("the state for member {target:x} goes on after {} pieces: {broke}", state.stored);
        tokio::time::sleep(PAUSE).await;
        opened = open(roster, target).await;
    }
}

/// How a stream of a state has ended, if it did not break.
#[derive(Debug, PartialEq)]
pub(super) enum Ended {
    Taken,
    Refused(String),
    /// The other member has less than it said: what is missing is not kept here.
    Forgotten,
    /// What reads the state has failed.
    Unread,
}

/// A state on its way to another member.
pub(super) struct Outgoing {
    /// What is read, `None` after the last.
    ready: mpsc::Receiver<Option<Bytes>>,
    /// Pieces that the other member is not known to have stored.
    window: VecDeque<Bytes>,
    /// Pieces that it has: all those before the window.
    pub(super) stored: u64,
    /// Of all pieces so far.
    crc: u32,
    /// The last piece has been read.
    whole: bool,
    rate: u64,
    /// When the next piece may go at that rate.
    due: Instant,
    /// Bytes so far.
    pub(super) sent: u64,
}

impl Outgoing {
    pub(super) fn new(ready: mpsc::Receiver<Option<Bytes>>, rate: u64) -> Self {
        let (window, due) = (VecDeque::with_capacity(WINDOW), Instant::now());
        Outgoing { ready, window, stored: 0, crc: 0, whole: false, rate, due, sent: 0 }
    }

    /// Sends what the other member lacks, until it has taken the state or the stream breaks.
    pub(super) async fn deliver<S>(&mut self, mut stream: Frames<S>, head: &[u8]) -> io::Result<Ended>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        frame::write(stream.stream(), Frame::with(BEGIN, head)).await?;
        let (mut ready, mut ended) = (false, false);
        // The first piece of the window that this stream has not carried.
        let mut next = 0;
        loop {
            if ready && let Some(piece) = self.window.get(next).cloned() {
                next += 1;
                self.sent += piece.len() as u64;
                let mut frame = Frame::new(PIECE);
                frame.put_shared(&piece);
                timeout(PATIENCE, frame::write(stream.stream(), frame)).await??;
                self.pace(piece.len() as u64).await;
                continue;
            }
            if ready && self.whole && !ended {
                ended = true;
                frame::write(stream.stream(), Frame::with(END, &self.crc.to_le_bytes())).await?;
            }
            tokio::select! {
                biased;
                answer = timeout(PATIENCE, stream.next()) => match answer?? {
                    Some((READY, body)) if !ready => {
                        if self.settle(body)?.is_none() {
                            return Ok(Ended::Forgotten);
                        }
                        ready = true;
                    }
                    Some((STORED, body)) if ready => {
                        let stored = self.settle(body)?.and_then(|pieces| next.checked_sub(pieces));
                        next = stored.ok_or_else(|| broken("pieces are stored that were not sent"))?;
                    }
                    Some((TAKEN, _)) => return Ok(Ended::Taken),
                    Some((REFUSED, why)) => return Ok(Ended::Refused(Body::of(why).string().map_err(broken)?)),
                    Some((kind, _)) => return Err(broken(format!("an answer of kind {kind} to a state"))),
                    None => return Err(io::ErrorKind::UnexpectedEof.into()),
                },
                piece = self.ready.recv(), if ready && !self.whole && self.window.len() < WINDOW => match piece {
                    Some(Some(piece)) => {
                        self.crc = crc32c::crc32c_append(self.crc, &piece);
                        self.window.push_back(piece);
                    }
                    Some(None) => self.whole = true,
                    None => return Ok(Ended::Unread),
                },
            }
        }
    }

    /// Waits for as long as so many bytes take at the rate: client requests need the disk and the network as well. Time in
    /// which nothing could be sent is not made up for.
    pub(super) async fn pace(&mut self, bytes: u64) {
        let now = Instant::now();
        let earliest = now.checked_sub(CREDIT).unwrap_or(now);
        self.due = self.due.max(earliest) + Duration::from_micros(bytes.saturating_mul(1_000_000) / self.rate.max(1));
        tokio::time::sleep_until(self.due).await;
    }

    /// The other member has stored so many; returns how many of them leave the window, `None` if it has had more.
    fn settle(&mut self, body: Bytes) -> io::Result<Option<usize>> {
        let stored = message::number(body).map_err(broken)?;
        let Some(pieces) = stored.checked_sub(self.stored) else { return Ok(None) };
        let pieces = usize::try_from(pieces).ok().filter(|pieces| *pieces <= self.window.len());
        let pieces = pieces.ok_or_else(|| broken("pieces are stored that were not sent"))?;
        self.window.drain(..pieces);
        self.stored = stored;
        Ok(Some(pieces))
    }
}

/// [`read`] beside all else; `None` after all that there is.
#[cfg(not(feature = "sim"))]
pub(super) async fn read_aside(backend: Arc<dyn Backend>, pieces: mpsc::Sender<Option<Bytes>>) -> io::Result<()> {
    let read = move || {
        read(&*backend, &mut |piece| pieces.blocking_send(Some(piece)).is_ok())?;
        // Who takes them no more has said why.
        let _ = pieces.blocking_send(None);
        Ok::<_, kelson_engine::Error>(())
    };
    crate::task::blocking(read).await?.map_err(io::Error::other)
}

#[cfg(feature = "sim")]
pub(super) async fn read_aside(backend: Arc<dyn Backend>, pieces: mpsc::Sender<Option<Bytes>>) -> io::Result<()> {
    let mut all = Vec::new();
    read(&*backend, &mut |piece| {
        all.push(Some(piece));
        true
    })
    .map_err(io::Error::other)?;
    for piece in all.into_iter().chain([None]) {
        // Who takes them no more has said why.
        let _ = pieces.send(piece).await;
    }
    Ok(())
}
