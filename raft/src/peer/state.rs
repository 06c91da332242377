//! A whole state, from a leader whose log does not reach back far enough to a member that is too far behind.
//!
//! It is read from a pinned backend while writes go on, sent in chunks at a bounded rate, and put in a place of its own.
//! When it is whole the receiving node stops, and starts again from it: see [`super::staging`].

use std::{io, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use kelson_engine::{
    Backend,
    backend::{Batch, Space},
    plant::{Bug, planted},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    time::{Instant, timeout},
};

use super::{
    Purpose, broken,
    frame::{self, Frame, Frames},
    message,
    roster::Roster,
    staging::Staging,
};
use crate::{
    Error,
    codec::Body,
    task,
    types::{LocalVote, LogId},
};

/// Bytes of a chunk, unless a single value is larger.
const CHUNK: usize = 512 << 10;
/// Chunks in memory on each side.
const CHUNKS: usize = 4;
/// How long a receiver may take for a chunk, or a sender until the next one.
const PATIENCE: Duration = Duration::from_secs(30);

const BEGIN: u8 = 1;
const PIECE: u8 = 2;
const END: u8 = 3;
const TAKEN: u8 = 4;
const REFUSED: u8 = 5;

/// Sends the state in `backend`, at most `rate` bytes a second, and returns when the other member has it for good.
pub(crate) async fn send(
    roster: &Roster,
    target: u64,
    backend: Arc<dyn Backend>,
    (vote, last): (LocalVote, LogId),
    rate: u64,
) -> io::Result<()> {
    let mut stream = roster.open(target, Purpose::State).await?;
    frame::write(stream.stream(), Frame::with(BEGIN, &message::encode_mark(&vote, Some(&last)))).await?;
    let (chunks, mut ready) = mpsc::channel(CHUNKS);
    let reading = task::spawn(read_aside(backend, chunks));
    let (begun, mut sent, mut crc) = (Instant::now(), 0_u64, 0);
    while let Some(chunk) = ready.recv().await {
        crc = crc32c::crc32c_append(crc, &chunk);
        sent += chunk.len() as u64;
        let mut piece = Frame::new(PIECE);
        piece.put_shared(&chunk);
        timeout(PATIENCE, frame::write(stream.stream(), piece)).await??;
        // Client requests need the disk and the network as well.
        let due = Duration::from_millis(sent.saturating_mul(1000) / rate.max(1));
        tokio::time::sleep_until(begun + due).await;
    }
    reading.await.map_err(io::Error::other)??;
    frame::write(stream.stream(), Frame::with(END, &crc.to_le_bytes())).await?;
    match timeout(PATIENCE, stream.next()).await?? {
        Some((TAKEN, _)) => Ok(()),
        Some((REFUSED, why)) => Err(io::Error::other(Body::of(why).string().map_err(broken)?)),
        Some((kind, _)) => Err(broken(format!("an answer of kind {kind} to a state"))),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Reads everything as it is at one moment; `send` says whether anybody still takes it.
fn read(backend: &dyn Backend, send: &mut dyn FnMut(Bytes) -> bool) -> Result<(), kelson_engine::Error> {
    let gone = || kelson_engine::Error::Storage("nobody takes the state any more".to_owned());
    backend.pinned(&mut |view| {
        let mut chunk = BytesMut::with_capacity(CHUNK);
        for space in Space::ALL {
            if space == Space::Leases && planted(Bug::StateWithoutLeases) {
                continue;
            }
            view.scan(space, &[], None, &mut |key, value| {
                chunk.extend_from_slice(&[space_byte(space)]);
                for part in [key, value] {
                    chunk.extend_from_slice(&(part.len() as u32).to_le_bytes());
                    chunk.extend_from_slice(part);
                }
                if chunk.len() >= CHUNK && !send(chunk.split().freeze()) {
                    return Err(gone());
                }
                Ok(true)
            })?;
        }
        if chunk.is_empty() || send(chunk.freeze()) { Ok(()) } else { Err(gone()) }
    })
}

/// [`read`] beside all else.
#[cfg(not(feature = "sim"))]
async fn read_aside(backend: Arc<dyn Backend>, chunks: mpsc::Sender<Bytes>) -> io::Result<()> {
    let read = move || read(&*backend, &mut |chunk| chunks.blocking_send(chunk).is_ok());
    crate::task::blocking(read).await?.map_err(io::Error::other)
}

#[cfg(feature = "sim")]
async fn read_aside(backend: Arc<dyn Backend>, chunks: mpsc::Sender<Bytes>) -> io::Result<()> {
    let mut all = Vec::new();
    read(&*backend, &mut |chunk| {
        all.push(chunk);
        true
    })
    .map_err(io::Error::other)?;
    for chunk in all {
        // Who takes them no more has said why.
        let _ = chunks.send(chunk).await;
    }
    Ok(())
}

fn space_byte(space: Space) -> u8 {
    Space::ALL.iter().position(|other| *other == space).map_or(u8::MAX, |at| at as u8)
}

/// Takes a state that begins on this stream. `true` when it is whole and kept, so that the node must start again;
/// `false` when what this member has is as new, by `applied`: from the beginning, or because it has come by another way
/// meanwhile.
pub(crate) async fn receive<S>(
    mut frames: Frames<S>,
    applied: impl Fn() -> u64 + Send + Sync + 'static,
    staging: Arc<dyn Staging>,
) -> io::Result<bool>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Some((BEGIN, body)) = timeout(PATIENCE, frames.next()).await?? else {
        return Err(broken("a state without a beginning"));
    };
    let (_, last) = message::mark(body).map_err(broken)?;
    let last = last.ok_or_else(|| broken("a state of nothing"))?;
    // Whoever sends it learns from raft's own answers how far this member is.
    let needed = move || applied() < last.index;
    let outcome = if needed() {
        take(&mut frames, Incoming { staging, backend: None, needed: Box::new(needed), kept: false }).await
    } else {
        skip(&mut frames).await
    };
    let answer = match &outcome {
        Ok(_) => Frame::new(TAKEN),
        Err(error) => {
            let mut why = Vec::new();
            crate::codec::put_str(&mut why, &error.to_string());
            Frame::with(REFUSED, &why)
        }
    };
    let told = frame::write(frames.stream(), answer).await;
    // A state that is kept takes the place of this member's own at the next start, which therefore must come now, whether or
    // not its sender still hears of it: what is written meanwhile would be lost.
    if !matches!(outcome, Ok(true)) {
        told?;
    }
    outcome
}

async fn skip<S: AsyncRead + Unpin>(frames: &mut Frames<S>) -> io::Result<bool> {
    while timeout(PATIENCE, frames.next()).await??.ok_or(io::ErrorKind::UnexpectedEof)?.0 != END {}
    Ok(false)
}

async fn take<S: AsyncRead + Unpin>(frames: &mut Frames<S>, incoming: Incoming) -> io::Result<bool> {
    let (chunks, waiting) = mpsc::channel(CHUNKS);
    let writing = task::spawn(write_aside(incoming, waiting));
    let mut crc = 0;
    let complete = loop {
        match timeout(PATIENCE, frames.next()).await?? {
            Some((PIECE, chunk)) => {
                crc = crc32c::crc32c_append(crc, &chunk);
                if chunks.send(Some(chunk)).await.is_err() {
                    break false;
                }
            }
            Some((END, sum)) if *sum == crc.to_le_bytes() => break chunks.send(None).await.is_ok(),
            Some((END, _)) => return Err(broken("the state's checksum is wrong")),
            Some((kind, _)) => return Err(broken(format!("kind {kind} in a state"))),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    };
    drop(chunks);
    let written = writing.await.map_err(io::Error::other)?.map_err(io::Error::other);
    written.and_then(|kept| if complete { Ok(kept) } else { Err(broken("the state could not be written")) })
}

/// A state on its way into its place.
struct Incoming {
    staging: Arc<dyn Staging>,
    backend: Option<Arc<dyn Backend>>,
    /// Whether this member still lacks what is in it.
    needed: Box<dyn Fn() -> bool + Send + Sync>,
    /// It is whole, and the next start takes it.
    kept: bool,
}

impl Incoming {
    /// Takes what comes next, `None` after the last; returns whether that was all.
    fn take(&mut self, chunk: Option<Bytes>) -> Result<bool, Error> {
        let backend = match &self.backend {
            Some(backend) => backend,
            None => self.backend.insert(self.staging.begin()?),
        };
        if let Some(chunk) = chunk {
            backend.write(batch(chunk).map_err(Error::Storage)?)?;
            return Ok(false);
        }
        backend.flush()?;
        // Going back would lose what this member has said that it has.
        if (self.needed)() || planted(Bug::OldStateKept) {
            self.backend.take().map_or(Ok(()), |backend| self.staging.keep(backend))?;
            self.kept = true;
        }
        Ok(true)
    }
}

fn too_early() -> Error {
    Error::Storage("the state has ended too early".to_owned())
}

/// Writes what comes, beside all else, until `None` says that it is all.
#[cfg(not(feature = "sim"))]
async fn write_aside(mut incoming: Incoming, mut chunks: mpsc::Receiver<Option<Bytes>>) -> Result<bool, Error> {
    let write = move || {
        while let Some(chunk) = chunks.blocking_recv() {
            if incoming.take(chunk)? {
                return Ok(incoming.kept);
            }
        }
        Err(too_early())
    };
    crate::task::blocking(write).await.map_err(|e| Error::Storage(e.to_string()))?
}

#[cfg(feature = "sim")]
async fn write_aside(mut incoming: Incoming, mut chunks: mpsc::Receiver<Option<Bytes>>) -> Result<bool, Error> {
    while let Some(chunk) = chunks.recv().await {
        if chunk.is_none() {
            tokio::time::sleep(incoming.staging.flushes()).await;
        }
        if incoming.take(chunk)? {
            return Ok(incoming.kept);
        }
    }
    Err(too_early())
}

fn batch(chunk: Bytes) -> Result<Batch, String> {
    let mut batch = Batch::default();
    let mut body = Body::of(chunk);
    while body.end().is_err() {
        let space = body.u8()?;
        let space = *Space::ALL.get(usize::from(space)).ok_or_else(|| format!("unknown keyspace {space}"))?;
        let length = body.len()?;
        let key = body.take(length)?;
        let length = body.len()?;
        batch.put(space, &key, body.take(length)?);
    }
    Ok(batch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{peer::MemoryStaging, types::LeaderId};

    #[tokio::test]
    async fn a_state_that_is_kept_restarts_the_node_though_its_sender_is_gone() {
        let (mut sender, receiver) = tokio::io::duplex(1 << 10);
        let leader = LeaderId { term: 1, node_id: 1 };
        let mark = message::encode_mark(&LocalVote::new(1, 1), Some(&LogId::new(leader, 7)));
        frame::write(&mut sender, Frame::with(BEGIN, &mark)).await.unwrap();
        frame::write(&mut sender, Frame::with(END, &0_u32.to_le_bytes())).await.unwrap();
        drop(sender);
        let staging = Arc::new(MemoryStaging::default());
        let received = receive(Frames::new(receiver), || 3, staging.clone()).await;
        assert!(received.unwrap());
        assert!(staging.kept.lock().is_some());
    }
}
