//! openraft's own suite for storage, on every log there is.

use std::sync::Arc;

use kelson_engine::{Engine, MemoryBackend};
use openraft::{
    StorageError,
    testing::log::{StoreBuilder, Suite},
};
use tokio::sync::Notify;

use crate::{
    clock::MonotonicClock,
    compaction::Compaction,
    leases::Leases,
    log::{LogStore, disk::Disk, memory::MemoryDisk, writer::LogThread},
    state::{StateMachine, Thresholds},
    types::Types,
};

/// Makes stores whose tail holds at most `tail_bytes`: with 0 nearly every read goes to the disk. Entries are written by the
/// log's thread where that `overlaps` with anything, else by who appends them.
pub(super) struct Builder<F> {
    pub(super) disk: F,
    pub(super) tail_bytes: usize,
    pub(super) overlaps: bool,
}

impl<F, G> StoreBuilder<Types, LogStore, StateMachine, (LogThread, G)> for Builder<F>
where
    F: Fn() -> (Arc<dyn Disk>, G) + Send + Sync,
    G: Send + Sync,
{
    async fn build(&self) -> Result<((LogThread, G), LogStore, StateMachine), StorageError<Types>> {
        let (disk, guard) = (self.disk)();
        let (log, thread) = LogStore::open(disk, self.tail_bytes).unwrap();
        let overlaps = self.overlaps;
        log.overlap_while(move || overlaps);
        let engine = Engine::open(Arc::new(MemoryBackend::new())).unwrap();
        let leases =
            Arc::new(Leases::new(1, Arc::new(MonotonicClock::default()), std::time::Duration::MAX, engine.reader()));
        let thresholds = Thresholds { entries: 100, bytes: 1 << 20 };
        let (compaction, wanted) = (Arc::new(Compaction::new()), Arc::new(Notify::new()));
        let machine = StateMachine::new(engine, leases, compaction, thresholds, wanted).unwrap();
        Ok(((thread, guard), log, machine))
    }
}

/// The suite stops at the first thing that fails. Its last part installs another member's state in a running node, which
/// is not how one is taken over here: exactly that must be what fails.
pub(super) async fn passes_up_to_transfer<F, G>(builder: Builder<F>)
where
    F: Fn() -> (Arc<dyn Disk>, G) + Send + Sync,
    G: Send + Sync,
{
    let error = Suite::test_all(builder).await.unwrap_err().to_string();
    assert!(error.contains("another member's state is not installed in a running node"), "{error}");
}

#[tokio::test]
async fn log_in_memory() {
    let with = |tail_bytes, overlaps| {
        let disk = || (Arc::new(MemoryDisk::default()) as Arc<dyn Disk>, ());
        passes_up_to_transfer(Builder { disk, tail_bytes, overlaps })
    };
    // Together, because the suite sleeps a lot.
    tokio::join!(with(0, true), with(1 << 20, true), with(0, false), with(1 << 20, false));
}
