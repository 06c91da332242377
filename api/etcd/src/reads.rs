//! Reads that do not stand in anybody's way.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use kelson_engine::command::{RangeRequest, RangeResponse, SortOrder, SortTarget};
use kelson_engine::{Head, Listing, Reader};
use kelson_raft::{Error, Node};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use crate::histogram::{self, Histogram};

/// From when on a barrier is called slow, as in etcd.
const SLOW: Duration = Duration::from_millis(500);

/// Most keys that are read on the thread that serves the request. Reading more may take long enough to be felt by the
/// requests beside it.
const SMALL: i64 = 200;

/// Keys of a page: an answer with no more is seldom so large that it is worth finding out before it is read.
const PAGE: i64 = 1000;

/// How far threads that read much stand back: a quarter of a core is theirs beside one other. Any further, and the system takes
/// them for so light that it puts them where there is no room.
const NICENESS: i32 = 5;

/// Threads that read much, of the whole process. Whoever asks for much waits for it anyhow, and should not keep a core from
/// who asks for little.
static THREADS: LazyLock<io::Result<Runtime>> = LazyLock::new(|| {
    let stand_back = || {
        // Where it may not be done it is not: it only spares others.
        let _ = rustix::process::nice(NICENESS);
    };
    Builder::new_current_thread().thread_name("kelson-read").on_thread_start(stand_back).build()
});

/// Has something done by one of these threads.
fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    match &*THREADS {
        Ok(threads) => threads.spawn_blocking(work),
        Err(_) => tokio::task::spawn_blocking(work),
    }
}

/// Reads on a node; large ones one by one on threads of their own, a bounded number at a time.
pub(crate) struct Reads {
    node: Node,
    most: usize,
    /// Barriers that were not reached, and those that were slow.
    pub(crate) failed: AtomicU64,
    pub(crate) slow: AtomicU64,
    /// Times of the reads that failed, and of those that did not.
    pub(crate) took: Arc<[Histogram; 2]>,
    large: Arc<Semaphore>,
}

/// What came of [`Reads::listed_or_read`].
pub(crate) enum Found {
    /// The answer, at the store's revision.
    Read(i64, RangeResponse),
    /// One that is to be read while it is sent.
    Listed(Listing),
}

impl Reads {
    pub(crate) fn new(node: Node, max_large: usize) -> Self {
        let most = max_large.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            node,
            most,
            failed: AtomicU64::default(),
            slow: AtomicU64::default(),
            took: Arc::new([(); 2].map(|()| Histogram::new(&histogram::RANGE))),
            large: Arc::new(Semaphore::new(most)),
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
        self.whole(move |reader| Ok(reader.range(&request)?)).await
    }

    /// [`Reads::local`], but for what is worth reading while it is sent: see [`Reader::listing`].
    pub(crate) async fn listed_or_read(
        &self,
        request: RangeRequest,
        least: usize,
        size: fn(&Head, usize) -> usize,
    ) -> Result<Found, Error> {
        if is_small(&request) || (1..=PAGE).contains(&request.limit) {
            return self.local(request).await.map(|(revision, answer)| Found::Read(revision, answer));
        }
        let start = Instant::now();
        let read = move |reader: &Reader| match reader.listing(&request, least, &size)? {
            Some(listing) => Ok(Found::Listed(listing)),
            None => reader.range(&request).map(|(revision, answer)| Found::Read(revision, answer)).map_err(Error::from),
        };
        let answer = self.whole(read).await;
        // The read of a listing is still to come.
        if !matches!(answer, Ok(Found::Listed(_))) {
            self.took[usize::from(answer.is_ok())].took(start.elapsed());
        }
        answer
    }

    /// A read of everything there is, by whatever means.
    pub(crate) async fn whole<T, F>(&self, read: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Reader) -> Result<T, Error> + Send + 'static,
    {
        let node = self.node.clone();
        let _turn = self.turn().await?;
        aside(move || read(node.reader())).await.unwrap_or(Err(Error::Stopped))
    }

    /// Begins a read that nobody waits for here; it tells whether it succeeds.
    pub(crate) async fn begin(&self, read: impl FnOnce() -> bool + Send + 'static) -> Result<(), Error> {
        let (turn, took) = (self.turn().await?, self.took.clone());
        aside(move || {
            let start = Instant::now();
            took[usize::from(read())].took(start.elapsed());
            drop(turn);
        });
        Ok(())
    }

    /// The right to read much, to be held while that lasts.
    async fn turn(&self) -> Result<OwnedSemaphorePermit, Error> {
        // It is never closed.
        self.large.clone().acquire_owned().await.map_err(|_| Error::Stopped)
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
