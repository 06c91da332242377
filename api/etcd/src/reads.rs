//! Reads that do not stand in anybody's way.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use kelson_engine::Reader;
use kelson_engine::command::{RangeRequest, RangeResponse, SortOrder, SortTarget};
use kelson_raft::{Error, Node};
use tokio::sync::Semaphore;

use crate::histogram::{self, Histogram};

/// From when on a barrier is called slow, as in etcd.
const SLOW: Duration = Duration::from_millis(500);

/// Most keys that are read on the thread that serves the request. Reading more may take long enough to be felt by the
/// requests beside it.
const SMALL: i64 = 200;

/// Reads on a node; large ones one by one on threads of their own, a bounded number at a time.
pub(crate) struct Reads {
    node: Node,
    most: usize,
    /// Barriers that were not reached, and those that were slow.
    pub(crate) failed: AtomicU64,
    pub(crate) slow: AtomicU64,
    /// Times of the reads that failed, and of those that did not.
    pub(crate) took: [Histogram; 2],
    large: Semaphore,
}

impl Reads {
    pub(crate) fn new(node: Node, max_large: usize) -> Self {
        let most = max_large.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            node,
            most,
            failed: AtomicU64::default(),
            slow: AtomicU64::default(),
            took: [(); 2].map(|()| Histogram::new(&histogram::RANGE)),
            large: Semaphore::new(most),
        }
    }

    /// The revision of the last compaction, 0 where there was none.
    pub(crate) fn compacted_revision(&self) -> i64 {
        self.node.reader().compacted_revision()
    }

    /// A read that sees everything acknowledged before the call.
    pub(crate) async fn linearizable(&self, request: RangeRequest) -> Result<(i64, RangeResponse), Error> {
        self.barrier().await?;
        self.local(request).await
    }

    /// Returns when everything acknowledged before the call can be read.
    pub(crate) async fn barrier(&self) -> Result<(), Error> {
        let start = Instant::now();
        let reached = self.node.read_barrier().await;
        if reached.is_err() {
            self.failed.fetch_add(1, Relaxed);
        } else if start.elapsed() > SLOW {
            self.slow.fetch_add(1, Relaxed);
        }
        reached
    }

    /// A read of this member's state.
    pub(crate) async fn local(&self, request: RangeRequest) -> Result<(i64, RangeResponse), Error> {
        let start = Instant::now();
        let answer = self.read(request).await;
        self.took[usize::from(answer.is_ok())].took(start.elapsed());
        answer
    }

    /// [`Reads::local`] of a range that is small: of one key, or a count.
    pub(crate) fn now(&self, request: &RangeRequest) -> Result<(i64, RangeResponse), Error> {
        let start = Instant::now();
        let answer = self.node.reader().range(request);
        self.took[usize::from(answer.is_ok())].took(start.elapsed());
        Ok(answer?)
    }

    async fn read(&self, request: RangeRequest) -> Result<(i64, RangeResponse), Error> {
        if is_small(&request) {
            return Ok(self.node.reader().range(&request)?);
        }
        // Held while the thread reads; it is never closed.
        let _permit = self.large.acquire().await.map_err(|_| Error::Stopped)?;
        let node = self.node.clone();
        match tokio::task::spawn_blocking(move || node.reader().range(&request)).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Error::Stopped),
        }
    }

    /// A read of everything there is, by whatever means.
    pub(crate) async fn whole<T, F>(&self, read: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Reader) -> Result<T, Error> + Send + 'static,
    {
        let _permit = self.large.acquire().await.map_err(|_| Error::Stopped)?;
        let node = self.node.clone();
        tokio::task::spawn_blocking(move || read(node.reader())).await.unwrap_or(Err(Error::Stopped))
    }

    /// Large reads under way.
    pub(crate) fn under_way(&self) -> usize {
        self.most - self.large.available_permits()
    }
}

fn is_small(request: &RangeRequest) -> bool {
    let one_key = request.range.end.is_empty();
    let filtered = request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0;
    let sorted = request.sort_target != SortTarget::Key || request.sort_order == SortOrder::Descend;
    // What sorts or filters looks at the whole range, whatever it returns. Counting is cheap.
    one_key || (!filtered && !sorted && (request.count_only || (1..=SMALL).contains(&request.limit)))
}
