//! The Snapshot method: the file in pieces, then its SHA-256, as etcd sends them.
//!
//! The store is pinned only while the file is written, at the disk's pace; a client that reads slowly holds nothing
//! but the file.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use kelson_raft::Node;
use kelson_wire::pb::etcdserverpb::SnapshotResponse;
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::save::{SaveError, save};
use crate::context::CLUSTER_VERSION;
use crate::refusal;

/// Bytes of one message.
const PIECE: usize = 256 << 10;
/// Messages read from the file ahead of the client.
const AHEAD: usize = 4;

/// What a client of the Snapshot method gets.
pub(crate) type Stream = Pin<Box<dyn futures_util::Stream<Item = Result<SnapshotResponse, Status>> + Send>>;

/// Snapshots under way.
pub(crate) struct Snapshots {
    places: Arc<Semaphore>,
    timeout: Duration,
}

impl Snapshots {
    /// At most `most` at a time, and none that is written for longer than `timeout`.
    pub(crate) fn new(most: usize, timeout: Duration) -> Self {
        Self { places: Arc::new(Semaphore::new(most.max(1))), timeout }
    }

    /// Begins one. It ends, and leaves nothing behind, when the stream is dropped.
    pub(crate) fn begin(&self, node: &Node, shutdown: &CancellationToken) -> Result<Stream, Status> {
        let place = self.places.clone().try_acquire_owned();
        let place = place.map_err(|_| Status::unknown(refusal::TOO_MANY_REQUESTS))?;
        let (pieces, receiver) = mpsc::channel(AHEAD);
        let sending = Sending {
            node: node.clone(),
            pieces,
            shutdown: shutdown.clone(),
            until: Instant::now() + self.timeout,
            _place: place,
        };
        tokio::task::spawn_blocking(move || sending.run());
        Ok(stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) }).boxed())
    }
}

/// One snapshot, on a thread of its own.
struct Sending {
    node: Node,
    pieces: mpsc::Sender<Result<SnapshotResponse, Status>>,
    shutdown: CancellationToken,
    until: Instant,
    _place: OwnedSemaphorePermit,
}

impl Sending {
    fn run(self) {
        // In memory there is no data directory.
        let folder = self.node.data_dir().map_or_else(std::env::temp_dir, PathBuf::from);
        let goes_on = || !self.pieces.is_closed() && !self.shutdown.is_cancelled() && Instant::now() < self.until;
        let sent = match save(&self.node, &folder, &goes_on) {
            Ok((file, size)) => self.send(&file, size),
            Err(error) => Err(self.status(&error)),
        };
        if let Err(status) = sent
            && !self.pieces.is_closed()
        {
            tracing::warn!("a snapshot failed: {}", status.message());
            // Nobody may be there any more to hear it.
            let _ = self.pieces.blocking_send(Err(status));
        }
    }

    fn send(&self, file: &File, size: u64) -> Result<(), Status> {
        let mut hash = Sha256::new();
        let mut at = 0;
        while at < size {
            let length = usize::try_from(size - at).unwrap_or(PIECE).min(PIECE);
            let mut piece = vec![0; length];
            file.read_exact_at(&mut piece, at).map_err(|error| Status::internal(format!("snapshot: {error}")))?;
            hash.update(&piece);
            at += length as u64;
            self.piece(size - at, piece.into())?;
        }
        self.piece(0, Bytes::copy_from_slice(&hash.finalize()))
    }

    fn piece(&self, remaining_bytes: u64, blob: Bytes) -> Result<(), Status> {
        let piece = SnapshotResponse { header: None, remaining_bytes, blob, version: CLUSTER_VERSION.into() };
        if self.shutdown.is_cancelled() {
            return Err(Status::unavailable(refusal::STOPPED));
        }
        self.pieces.blocking_send(Ok(piece)).map_err(|_| Status::cancelled("the client is gone"))
    }

    fn status(&self, error: &SaveError) -> Status {
        match error {
            SaveError::Engine(error) => refusal::of_engine(error),
            SaveError::Full { .. } => Status::resource_exhausted(error.to_string()),
            SaveError::GivenUp if self.shutdown.is_cancelled() => Status::unavailable(refusal::STOPPED),
            SaveError::GivenUp if Instant::now() >= self.until => {
                Status::deadline_exceeded("the snapshot took too long to write: the store may not be held for longer")
            }
            SaveError::GivenUp => Status::cancelled(error.to_string()),
            SaveError::Bolt(_) | SaveError::Folder { .. } => Status::internal(error.to_string()),
        }
    }
}
