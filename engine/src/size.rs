//! How large the store is, cheap enough to ask before every write.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::backend::{Backend, Batch};

/// Bytes written after which the backend is asked again, or this part of what it has if that is more: it counts its files
/// one by one. Until then they are added to its last answer.
const MEASURE_EVERY: u64 = 256 << 10;
const MEASURE_PART: u64 = 1_000;

/// The backend's last answer and what was written since. The three counts may be some writes apart from each other.
#[derive(Default)]
pub(crate) struct Size {
    total: AtomicU64,
    in_use: AtomicU64,
    since: AtomicU64,
}

impl Size {
    pub fn measured(backend: &dyn Backend) -> Size {
        let size = Size::default();
        size.measure(backend);
        size
    }

    /// Asks the backend.
    pub fn measure(&self, backend: &dyn Backend) {
        let total = backend.size_bytes();
        self.since.store(0, Relaxed);
        self.total.store(total, Relaxed);
        self.in_use.store(backend.in_use_bytes().min(total), Relaxed);
    }

    /// Counts a batch that is about to be written; whether it is time to [`Size::measure`] behind it.
    pub fn wrote(&self, batch: &Batch) -> bool {
        let bytes = |change: &crate::backend::Change| change.key.len() + change.value.as_ref().map_or(0, |v| v.len());
        let bytes = batch.changes.iter().map(bytes).sum::<usize>() as u64;
        self.since.fetch_add(bytes, Relaxed) + bytes >= MEASURE_EVERY.max(self.total.load(Relaxed) / MEASURE_PART)
    }

    pub fn total(&self) -> u64 {
        self.total.load(Relaxed) + self.since.load(Relaxed)
    }

    pub fn in_use(&self) -> u64 {
        self.in_use.load(Relaxed) + self.since.load(Relaxed)
    }
}
