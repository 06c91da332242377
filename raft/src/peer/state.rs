//! A whole state, from a leader whose log does not reach back far enough to a member that is too far behind.
//!
//! It is read from a pinned backend while writes go on, sent in chunks at a bounded rate, and put in a place of its own.
//! When it is whole the receiving node stops, and starts again from it: see [`super::staging`].

use std::{io, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use kelson_engine::{
    Backend,
    backend::{Batch, Space},
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
    let reading = tokio::task::spawn_blocking(move || read(&*backend, &chunks));
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
    reading.await.map_err(io::Error::other)?.map_err(io::Error::other)?;
    frame::write(stream.stream(), Frame::with(END, &crc.to_le_bytes())).await?;
    match timeout(PATIENCE, stream.next()).await?? {
        Some((TAKEN, _)) => Ok(()),
        Some((REFUSED, why)) => Err(io::Error::other(Body::of(why).string().map_err(broken)?)),
        Some((kind, _)) => Err(broken(format!("an answer of kind {kind} to a state"))),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Reads everything as it is at one moment, on a thread of its own.
fn read(backend: &dyn Backend, chunks: &mpsc::Sender<Bytes>) -> Result<(), kelson_engine::Error> {
    let gone = || kelson_engine::Error::Storage("nobody takes the state any more".to_owned());
    backend.pinned(&mut |view| {
        let mut chunk = BytesMut::with_capacity(CHUNK);
        for space in Space::ALL {
            view.scan(space, &[], None, &mut |key, value| {
                chunk.extend_from_slice(&[space_byte(space)]);
                for part in [key, value] {
                    chunk.extend_from_slice(&(part.len() as u32).to_le_bytes());
                    chunk.extend_from_slice(part);
                }
                if chunk.len() >= CHUNK {
                    chunks.blocking_send(chunk.split().freeze()).map_err(|_| gone())?;
                }
                Ok(true)
            })?;
        }
        if chunk.is_empty() { Ok(()) } else { chunks.blocking_send(chunk.split().freeze()).map_err(|_| gone()) }
    })
}

fn space_byte(space: Space) -> u8 {
    Space::ALL.iter().position(|other| *other == space).map_or(u8::MAX, |at| at as u8)
}

/// Takes a state that begins on this stream. `true` when it is whole and kept, so that the node must start again;
/// `false` when what this member has is as new.
pub(crate) async fn receive<S>(
    mut frames: Frames<S>,
    applied: impl FnOnce() -> u64,
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
    let needed = applied() < last.index;
    let outcome = if needed { take(&mut frames, staging).await } else { skip(&mut frames).await };
    let answer = match &outcome {
        Ok(()) => Frame::new(TAKEN),
        Err(error) => {
            let mut why = Vec::new();
            crate::codec::put_str(&mut why, &error.to_string());
            Frame::with(REFUSED, &why)
        }
    };
    frame::write(frames.stream(), answer).await?;
    outcome.map(|()| needed)
}

async fn skip<S: AsyncRead + Unpin>(frames: &mut Frames<S>) -> io::Result<()> {
    while timeout(PATIENCE, frames.next()).await??.ok_or(io::ErrorKind::UnexpectedEof)?.0 != END {}
    Ok(())
}

async fn take<S: AsyncRead + Unpin>(frames: &mut Frames<S>, staging: Arc<dyn Staging>) -> io::Result<()> {
    let (chunks, waiting) = mpsc::channel(CHUNKS);
    let writing = tokio::task::spawn_blocking(move || write(&*staging, waiting));
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
    written.and_then(|()| if complete { Ok(()) } else { Err(broken("the state could not be written")) })
}

/// Writes what comes, on a thread of its own, until `None` says that it is all.
fn write(staging: &dyn Staging, mut chunks: mpsc::Receiver<Option<Bytes>>) -> Result<(), Error> {
    let backend = staging.begin()?;
    while let Some(chunk) = chunks.blocking_recv() {
        let Some(chunk) = chunk else {
            backend.flush()?;
            return staging.keep(backend);
        };
        let batch = batch(chunk).map_err(Error::Storage)?;
        backend.write(batch)?;
    }
    Err(Error::Storage("the state has ended too early".to_owned()))
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
