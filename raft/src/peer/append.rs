//! One follower's appends: pipelined, answered in order, bounded on both sides.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{Stream, StreamExt, stream};
#[cfg(feature = "sim")]
use kelson_engine::plant::{Bug, planted};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf},
    sync::{Notify, Semaphore},
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::{
    Connection, Purpose, broken,
    frame::{self, Frame, Frames},
    message::{self, Append, Streamed},
    roster::Roster,
};
use crate::{node::Raft, task};

/// Appends under way to a follower; the next one waits for an answer. With at most [`READ_BYTES`](crate::log) each this
/// bounds what is in memory for a slow follower: the stream's own buffers hold far less.
const WINDOW: usize = 32;

/// A follower that lacks more entries than can be under way is far behind. What it lacks is then sent no faster than a state
/// is, since client requests need the disk and the network as well, unless it would fall further behind by that.
const FAR: u64 = WINDOW as u64 * 64;

const APPEND: u8 = 1;
const APPENDED: u8 = 2;

/// The leader's end of a stream.
pub(crate) struct Appends {
    frames: Frames<ReadHalf<Box<dyn Connection>>>,
    writer: JoinHandle<()>,
    window: Arc<Window>,
    answered: u64,
    /// Since when an answer is owed, or the last one.
    since: Instant,
    stall: Duration,
}

struct Window {
    places: Semaphore,
    sent: AtomicU64,
    /// No more appends come.
    ended: AtomicBool,
    changed: Notify,
    /// The last entry that was sent.
    #[cfg(feature = "sim")]
    newest: parking_lot::Mutex<Option<crate::types::LogId>>,
}

impl Drop for Appends {
    fn drop(&mut self) {
        self.writer.abort();
    }
}

impl Appends {
    /// Opens a stream to a member and sends it what `input` has, at most `rate` bytes a second while it is far behind.
    pub(crate) async fn open<S>(roster: &Roster, target: u64, input: S, rate: u64) -> io::Result<Appends>
    where
        S: Stream<Item = Append> + Send + Unpin + 'static,
    {
        let (frames, into) = roster.open(target, Purpose::Appends).await?.split();
        let window = Arc::new(Window {
            places: Semaphore::new(WINDOW),
            sent: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            changed: Notify::new(),
            #[cfg(feature = "sim")]
            newest: parking_lot::Mutex::default(),
        });
        let writer = task::spawn(write(input, into, window.clone(), rate));
        Ok(Appends { frames, writer, window, answered: 0, since: Instant::now(), stall: roster.timing.stall })
    }

    /// The next answer; `None` when all appends are answered and no more come.
    pub(crate) async fn next(&mut self) -> Option<io::Result<Streamed>> {
        loop {
            let owed = self.window.sent.load(Ordering::SeqCst) - self.answered;
            if owed == 0 {
                if self.window.ended.load(Ordering::SeqCst) {
                    // Once more, or the last append could be missed.
                    if self.window.sent.load(Ordering::SeqCst) == self.answered {
                        return None;
                    }
                    continue;
                }
                self.since = Instant::now();
            }
            let limit = if owed == 0 { self.stall } else { self.stall.saturating_sub(self.since.elapsed()) };
            let next = tokio::select! {
                biased;
                next = timeout(limit, self.frames.next()) => next,
                () = self.window.changed.notified() => continue,
            };
            match next {
                Ok(Ok(Some((APPENDED, body)))) => {
                    self.answered += 1;
                    self.since = Instant::now();
                    self.window.places.add_permits(1);
                    #[cfg(feature = "sim")]
                    if let (true, Ok(Ok(_)), newest @ Some(_)) =
                        (planted(Bug::SentIsStored), message::streamed(body.clone()), *self.window.newest.lock())
                    {
                        return Some(Ok(Ok(newest)));
                    }
                    return Some(message::streamed(body).map_err(broken));
                }
                Ok(Ok(Some((kind, _)))) => return Some(Err(broken(format!("kind {kind} among answers to appends")))),
                Ok(Ok(None)) => return Some(Err(io::ErrorKind::UnexpectedEof.into())),
                Ok(Err(error)) => return Some(Err(error)),
                Err(_) if owed == 0 => {}
                Err(_) => return Some(Err(io::Error::new(io::ErrorKind::TimedOut, "appends are not answered"))),
            }
        }
    }
}

async fn write<S, W>(mut input: S, mut into: WriteHalf<W>, window: Arc<Window>, rate: u64)
where
    S: Stream<Item = Append> + Send + Unpin,
    W: AsyncRead + AsyncWrite + Unpin,
{
    let mut behind = 0;
    loop {
        // First the place, then the append: it carries all entries that have come meanwhile.
        let Ok(place) = window.places.acquire().await else { break };
        place.forget();
        let Some(append) = input.next().await else { break };
        #[cfg(feature = "sim")]
        if let Some(last) = append.entries.last() {
            *window.newest.lock() = Some(last.log_id);
        }
        let mut frame = Frame::new(APPEND);
        message::put_append(&mut frame, &append);
        let (size, lacks) = (frame.len() as u64, lacks(&append));
        window.sent.fetch_add(1, Ordering::SeqCst);
        window.changed.notify_one();
        // A stream that broke is noticed by who reads it.
        if frame::write(&mut into, frame).await.is_err() {
            break;
        }
        if lacks > FAR && lacks < behind {
            tokio::time::sleep(Duration::from_micros(size.saturating_mul(1_000_000) / rate.max(1))).await;
        }
        behind = lacks;
    }
    window.ended.store(true, Ordering::SeqCst);
    window.changed.notify_one();
    // The stream stays open for the answers.
    std::future::pending::<()>().await;
}

/// Committed entries that are still missing after this append.
fn lacks(append: &Append) -> u64 {
    let index = |id: Option<crate::types::LogId>| id.map_or(0, |id| id.index);
    let last = append.entries.last().map(|entry| entry.log_id).or(append.prev_log_id);
    index(append.leader_commit).saturating_sub(index(last))
}

/// The follower's end: hands appends to raft and answers each when raft has.
pub(crate) async fn serve<S>(raft: Raft, roster: Arc<Roster>, frames: Frames<S>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (frames, mut into) = frames.split();
    let broke = Arc::new(parking_lot::Mutex::new(None));
    let failed = broke.clone();
    let input = stream::unfold(frames, move |mut frames| {
        let (failed, roster) = (failed.clone(), roster.clone());
        async move {
            let read = match frames.next().await {
                Ok(Some((APPEND, body))) => message::append(body).map_err(broken),
                Ok(Some((kind, _))) => Err(broken(format!("kind {kind} among appends"))),
                Ok(None) => return None,
                Err(error) => Err(error),
            };
            match read {
                Ok(append) => {
                    roster.hear();
                    Some((append, frames))
                }
                Err(error) => {
                    *failed.lock() = Some(error);
                    None
                }
            }
        }
    });
    let mut answers = std::pin::pin!(raft.stream_append(input));
    while let Some(answer) = answers.next().await {
        let answer = answer.map_err(io::Error::other)?;
        frame::write(&mut into, Frame::with(APPENDED, &message::encode_streamed(&answer))).await?;
    }
    let failed = broke.lock().take();
    failed.map_or(Ok(()), Err)
}
