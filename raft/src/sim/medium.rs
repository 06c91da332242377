//! What of a member outlives its process.

use std::{sync::Arc, time::Duration};

use kelson_engine::{
    Backend, MemoryBackend,
    plant::{Bug, planted},
};
use parking_lot::Mutex;

use super::{
    Ballot,
    disk::{Pace, SimDisk},
};
use crate::{
    Error, codec,
    log::{disk::Meta, memory::Content},
    peer::Staging,
    start::Parts,
};

/// How a member's process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// What was written is there, synced or not, until the power goes.
    Kill,
    /// Of what was not synced, this many thousandths are there, from the front.
    Power { kept: usize },
}

/// What a log durably holds at one position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    Nothing,
    /// An entry of this term and leader.
    Entry {
        term: u64,
        node: u64,
    },
    /// It was there, and the state has it.
    Purged,
}

/// The log, the state, and the state of another member that is to take its place.
pub struct Medium {
    pace: Pace,
    inner: Mutex<Inner>,
    incoming: Arc<Incoming>,
}

struct Inner {
    log: Arc<SimDisk>,
    state: Arc<MemoryBackend>,
    /// Whether the state has come from another member since the last start.
    received: bool,
}

/// Received states.
struct Incoming {
    /// How long it takes to have the next one on the disk.
    whole: Box<dyn Fn() -> Duration + Send + Sync>,
    open: Mutex<Option<Arc<MemoryBackend>>>,
    kept: Mutex<Option<Arc<MemoryBackend>>>,
}

impl Staging for Incoming {
    fn begin(&self) -> Result<Arc<dyn Backend>, Error> {
        let backend = Arc::new(MemoryBackend::with_crashes());
        *self.open.lock() = Some(backend.clone());
        Ok(backend)
    }

    fn keep(&self, _: Arc<dyn Backend>) -> Result<(), Error> {
        *self.kept.lock() = self.open.lock().take();
        Ok(())
    }

    fn flushes(&self) -> Duration {
        (self.whole)()
    }
}

impl Medium {
    /// An empty one. `pace` says how long the next synced write takes; `None` breaks the disk until the next start. `whole`
    /// says how long it takes to have the next state of another member on the disk.
    pub fn new(
        pace: impl Fn() -> Option<Duration> + Send + Sync + 'static,
        whole: impl Fn() -> Duration + Send + Sync + 'static,
    ) -> Medium {
        let pace: Pace = Arc::new(pace);
        let log = Arc::new(SimDisk::new(Content::default(), pace.clone()));
        let inner = Inner { log, state: Arc::new(MemoryBackend::with_crashes()), received: false };
        let incoming = Incoming { whole: Box::new(whole), open: Mutex::default(), kept: Mutex::default() };
        Medium { pace, inner: Mutex::new(inner), incoming: Arc::new(incoming) }
    }

    pub(super) fn parts(&self) -> Parts {
        let mut inner = self.inner.lock();
        if let Some(received) = self.incoming.kept.lock().take() {
            (inner.state, inner.received) = (received, true);
        }
        inner.log.leave();
        // As the log's files do when they are opened.
        if !planted(Bug::UnsyncedAtStart) {
            inner.log.sync();
        }
        let mut parts = Parts::of(inner.log.clone(), inner.state.clone());
        parts.staging = self.incoming.clone();
        parts.received = inner.received;
        parts
    }

    /// The member runs: a state that came has been taken over.
    pub fn taken(&self) {
        self.inner.lock().received = false;
    }

    /// The process is gone; `kept` of the writes of the state that were not flushed have reached the disk by themselves.
    pub fn crash(&self, how: Crash, kept: usize) {
        let mut inner = self.inner.lock();
        inner.log = Arc::new(match how {
            Crash::Kill => inner.log.left(),
            Crash::Power { kept } => SimDisk::new(inner.log.cut(kept), self.pace.clone()),
        });
        inner.state = Arc::new(inner.state.crashed(kept));
        *self.incoming.open.lock() = None;
    }

    /// Writes of the state that a crash may lose.
    pub fn unflushed(&self) -> usize {
        self.inner.lock().state.unflushed()
    }

    /// Whether the log has writes that a power cut may lose.
    pub fn is_unsynced(&self) -> bool {
        self.inner.lock().log.is_unsynced()
    }

    /// Whether another member's state is on its way here.
    pub fn is_receiving(&self) -> bool {
        // Beside this one only whoever writes it holds it.
        self.incoming.open.lock().as_ref().is_some_and(|state| Arc::strong_count(state) > 1)
    }

    /// What the log durably holds at `index`.
    pub fn held(&self, index: u64) -> Held {
        let inner = self.inner.lock();
        inner.log.with_durable(|content| {
            let purged = content.meta(Meta::Purged).map(|record| codec::decode_log_id(record));
            if purged.is_some_and(|id| id.is_ok_and(|id| id.index >= index)) {
                return Held::Purged;
            }
            match content.entry(index).map(codec::decode_entry) {
                Some(Ok(entry)) => {
                    let leader = entry.log_id.leader_id;
                    Held::Entry { term: leader.term, node: leader.node_id }
                }
                _ => Held::Nothing,
            }
        })
    }

    /// The vote that is durable.
    pub fn vote(&self) -> Option<Ballot> {
        let inner = self.inner.lock();
        let vote = inner.log.with_durable(|content| content.meta(Meta::Vote).map(codec::decode_vote))?.ok()?;
        Some(Ballot { term: vote.leader_id.term, node: vote.leader_id.node_id, granted: vote.committed })
    }
}
