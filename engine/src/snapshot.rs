//! What the writer publishes and what everybody else shares.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;

use crate::backend::{Backend, Space, SpaceKey};
use crate::cache::Cache;
use crate::interest::Interest;
use crate::lease::LeaseTable;
use crate::ring::Ring;
use crate::tree::Tree;
use crate::{Applied, Error, Revision};

/// Records looked up at once; also what a small read is, whose records are worth caching.
pub(crate) const FETCH_CHUNK: usize = 512;
const CACHE_READS_UPTO: usize = 64;

/// The whole state at one revision. Never changes.
pub(crate) struct Snapshot {
    pub tree: Tree,
    pub revision: i64,
    /// History below this revision must not be read; -1 before the first compaction.
    pub compacted: i64,
    pub applied: Option<Applied>,
}

/// Shared by the writer, readers and watchers.
pub(crate) struct Shared {
    pub snapshot: ArcSwap<Snapshot>,
    pub backend: Arc<dyn Backend>,
    pub cache: Cache,
    pub ring: Ring,
    pub interest: Arc<Interest>,
    pub leases: LeaseTable,
}

/// Where records come from: what has been written, and for the writer also what is about to be.
pub(crate) trait Records {
    /// The record under `at`; `None` if it has been compacted away.
    fn record(&self, at: Revision) -> Result<Option<Bytes>, Error>;

    /// The records under `at`, in the same order.
    fn records(&self, at: &[Revision]) -> Result<Vec<Option<Bytes>>, Error>;
}

impl Records for Shared {
    fn record(&self, at: Revision) -> Result<Option<Bytes>, Error> {
        if let Some(bytes) = self.cache.get(at) {
            return Ok(Some(bytes));
        }
        let bytes = self.backend.get(Space::Revisions, &at.to_bytes())?;
        if let Some(bytes) = &bytes {
            self.cache.insert(at, bytes.clone());
        }
        Ok(bytes)
    }

    fn records(&self, at: &[Revision]) -> Result<Vec<Option<Bytes>>, Error> {
        let mut found: Vec<Option<Bytes>> = at.iter().map(|&at| self.cache.get(at)).collect();
        let mut missing: Vec<usize> = (0..at.len()).filter(|&index| found[index].is_none()).collect();
        missing.sort_unstable_by_key(|&index| at[index]);
        let worth_caching = at.len() <= CACHE_READS_UPTO;
        for chunk in missing.chunks(FETCH_CHUNK) {
            let keys: Vec<SpaceKey> = chunk.iter().map(|&index| SpaceKey::from_slice(&at[index].to_bytes())).collect();
            let records = self.backend.multi_get(Space::Revisions, &keys)?;
            for (&index, record) in chunk.iter().zip(records) {
                if let Some(bytes) = record.as_ref().filter(|_| worth_caching) {
                    self.cache.insert(at[index], bytes.clone());
                }
                found[index] = record;
            }
        }
        Ok(found)
    }
}
