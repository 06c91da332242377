use std::{future::Future, io, pin::pin, sync::Arc};

use bytes::Bytes;
use kelson_engine::{
    Backend,
    plant::{Bug, planted},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Mutex, mpsc, watch},
    time::timeout,
};

use super::{BEGIN, END, PATIENCE, PIECE, READY, REFUSED, STORED, TAKEN, piece::batch};
use crate::{
    Error,
    peer::{
        broken,
        frame::{self, Frame, Frames},
        message,
        staging::Staging,
    },
    task,
};

/// Pieces that wait to be written at the receiver.
const WAITING: usize = 4;
/// What becomes of a stream whose state comes on another one.
pub(super) const OVERTAKEN: &str = "another stream has taken over";

/// The place for a state that comes. One comes at a time: a later stream takes over from an earlier one, since a sender that
/// begins again knows that the other stream is of no use; it goes on with what has come if that is of the same state.
pub(crate) struct Receiving {
    /// What the stream before has left; held by the stream whose turn it is.
    left: Mutex<Left>,
    turn: watch::Sender<Turn>,
}

/// What a stream leaves to the next one.
#[derive(Default)]
enum Left {
    #[default]
    Nothing,
    Part(Partial),
    /// A whole state, which waits for this member to start again.
    Kept,
}

#[derive(Clone, Copy, Default)]
struct Turn {
    number: u64,
    /// Of the leader whose state it is: an older leader's takes no turn.
    term: u64,
}

impl Default for Receiving {
    fn default() -> Self {
        Receiving { left: Mutex::default(), turn: watch::Sender::new(Turn::default()) }
    }
}

impl Receiving {
    /// A turn for a leader's stream, which ends the one before; `None` if that one is a later leader's.
    fn take_turn(&self, term: u64) -> Option<u64> {
        let mut mine = None;
        self.turn.send_if_modified(|turn| {
            let later = term >= turn.term;
            if later {
                *turn = Turn { number: turn.number + 1, term };
                mine = Some(turn.number);
            }
            later
        });
        mine
    }

    /// Until it is another stream's turn.
    async fn over(&self, mine: u64) {
        // The sender is in `self`.
        let _ = self.turn.subscribe().wait_for(|turn| turn.number != mine).await;
    }
}

/// A part of a state.
struct Partial {
    /// Which one.
    head: Bytes,
    incoming: Incoming,
    /// Of what has come.
    crc: u32,
}

/// Takes a state that begins on this stream. `true` when it is whole and kept, so that the node must start again;
/// `false` when what this member has is as new, by `applied`: from the beginning, or because it has come by another way
/// meanwhile.
pub(crate) async fn receive<S>(
    mut frames: Frames<S>,
    applied: impl Fn() -> u64 + Send + Sync + 'static,
    staging: Arc<dyn Staging>,
    receiving: &Receiving,
) -> io::Result<bool>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Some((BEGIN, head)) = timeout(PATIENCE, frames.next()).await?? else {
        return Err(broken("a state without a beginning"));
    };
    let (vote, last) = message::mark(head.clone()).map_err(broken)?;
    let last = last.ok_or_else(|| broken("a state of nothing"))?;
    let needed = move || applied() < last.index;
    if !needed() {
        // Also when the sender has not heard so before.
        frame::write(frames.stream(), Frame::new(TAKEN)).await?;
        return Ok(false);
    }
    let Some(mine) = receiving.take_turn(vote.leader_id.term) else {
        return refuse(&mut frames, io::Error::other("a later leader sends its state")).await;
    };
    let mut left = receiving.left.lock().await;
    let partial = match std::mem::take(&mut *left) {
        Left::Part(partial) if partial.head == head => partial,
        Left::Part(_) | Left::Nothing => {
            let needed = Box::new(needed);
            let incoming = Incoming { staging, backend: None, needed, pieces: 0, whole: false, kept: false };
            Partial { head, incoming, crc: 0 }
        }
        Left::Kept => {
            *left = Left::Kept;
            return Err(io::Error::other("this member is about to start again"));
        }
    };
    match take(&mut frames, partial, receiving.over(mine)).await {
        // Its sender hears so when it asks again: of a member that has started from it. Until then this one answers as who
        // lacks what is in it, which raft must not hear of who has taken it.
        Ok(Taken::Whole { kept: true }) => {
            *left = Left::Kept;
            Ok(true)
        }
        Ok(Taken::Whole { kept: false }) => {
            frame::write(frames.stream(), Frame::new(TAKEN)).await?;
            Ok(false)
        }
        Ok(Taken::Part(partial, why)) => {
            if timeout(PATIENCE, receiving.over(mine)).await.is_ok() {
                *left = Left::Part(partial);
            }
            Err(why)
        }
        Err(error) => refuse(&mut frames, error).await,
    }
}

async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(frames: &mut Frames<S>, error: io::Error) -> io::Result<bool> {
    let mut why = Vec::new();
    crate::codec::put_str(&mut why, &error.to_string());
    frame::write(frames.stream(), Frame::with(REFUSED, &why)).await?;
    Err(error)
}

/// What a stream has brought.
enum Taken {
    /// All; `kept` if this member still lacked it.
    Whole { kept: bool },
    /// It broke, for this reason.
    Part(Partial, io::Error),
}

async fn take<S>(frames: &mut Frames<S>, partial: Partial, over: impl Future<Output = ()>) -> io::Result<Taken>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Partial { head, incoming, mut crc } = partial;
    let (pieces, waiting) = mpsc::channel(WAITING);
    let (stored, storing) = watch::channel(incoming.pieces);
    let writing = task::spawn(write_aside(incoming, waiting, stored));
    let ended = relay(frames, &pieces, storing, &mut crc, over).await;
    drop(pieces);
    let incoming = writing.await.map_err(io::Error::other)?.map_err(io::Error::other)?;
    match ended {
        Ok(()) if incoming.whole => Ok(Taken::Whole { kept: incoming.kept }),
        Ok(()) => Err(broken("the state's checksum is wrong")),
        Err(why) => Ok(Taken::Part(Partial { head, incoming, crc }, why)),
    }
}

/// Hands on what comes, and tells the sender what is stored, up to the end of the state.
async fn relay<S>(
    frames: &mut Frames<S>,
    pieces: &mpsc::Sender<Option<Bytes>>,
    mut storing: watch::Receiver<u64>,
    crc: &mut u32,
    over: impl Future<Output = ()>,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let ready = message::encode_number(*storing.borrow());
    frame::write(frames.stream(), Frame::with(READY, &ready)).await?;
    let mut over = pin!(over);
    loop {
        tokio::select! {
            biased;
            () = &mut over => return Err(io::Error::other(OVERTAKEN)),
            stored = storing.changed() => {
                if stored.is_err() {
                    // Whoever writes has failed, and says why.
                    return Ok(());
                }
                let stored = message::encode_number(*storing.borrow_and_update());
                frame::write(frames.stream(), Frame::with(STORED, &stored)).await?;
            }
            frame = timeout(PATIENCE, frames.next()) => match frame?? {
                Some((PIECE, piece)) => {
                    *crc = crc32c::crc32c_append(*crc, &piece);
                    if pieces.send(Some(piece)).await.is_err() {
                        return Ok(());
                    }
                }
                Some((END, sum)) => {
                    if *sum == crc.to_le_bytes() {
                        // Whoever writes has failed otherwise, and says why.
                        let _ = pieces.send(None).await;
                    }
                    return Ok(());
                }
                Some((kind, _)) => return Err(broken(format!("kind {kind} in a state"))),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            },
        }
    }
}

/// A state on its way into its place.
struct Incoming {
    staging: Arc<dyn Staging>,
    backend: Option<Arc<dyn Backend>>,
    /// Whether this member still lacks what is in it.
    needed: Box<dyn Fn() -> bool + Send + Sync>,
    /// Pieces that are in it.
    pieces: u64,
    /// All has come.
    whole: bool,
    /// It is whole, and the next start takes it.
    kept: bool,
}

impl Incoming {
    /// Takes what comes next, `None` after the last.
    fn take(&mut self, piece: Option<Bytes>) -> Result<(), Error> {
        let backend = match &self.backend {
            Some(backend) => backend,
            None => self.backend.insert(self.staging.begin()?),
        };
        if let Some(piece) = piece {
            backend.write(batch(piece).map_err(Error::Storage)?)?;
            self.pieces += 1;
            return Ok(());
        }
        backend.flush()?;
        self.whole = true;
        // Going back would lose what this member has said that it has.
        if (self.needed)() || planted(Bug::OldStateKept) {
            self.backend.take().map_or(Ok(()), |backend| self.staging.keep(backend))?;
            self.kept = true;
        }
        Ok(())
    }
}

/// Writes what comes, beside all else, until `None` says that it is all or no more comes.
#[cfg(not(feature = "sim"))]
async fn write_aside(
    mut incoming: Incoming,
    mut pieces: mpsc::Receiver<Option<Bytes>>,
    stored: watch::Sender<u64>,
) -> Result<Incoming, Error> {
    let write = move || {
        while let Some(piece) = pieces.blocking_recv() {
            incoming.take(piece)?;
            stored.send_replace(incoming.pieces);
        }
        Ok(incoming)
    };
    crate::task::blocking(write).await.map_err(|e| Error::Storage(e.to_string()))?
}

#[cfg(feature = "sim")]
async fn write_aside(
    mut incoming: Incoming,
    mut pieces: mpsc::Receiver<Option<Bytes>>,
    stored: watch::Sender<u64>,
) -> Result<Incoming, Error> {
    while let Some(piece) = pieces.recv().await {
        if piece.is_none() {
            tokio::time::sleep(incoming.staging.flushes()).await;
        }
        incoming.take(piece)?;
        stored.send_replace(incoming.pieces);
    }
    Ok(incoming)
}
