//! What the writer publishes and what everybody else shares.

use std::sync::Arc;

use bytes::Bytes;

use crate::alarm::Alarm;
use crate::auth::{Auth, Listeners, Tokens};
use crate::backend::{Backend, Space, SpaceKey};
use crate::cache::Cache;
use crate::events::Shelf;
use crate::interest::Interest;
use crate::lease::LeaseTable;
use crate::listing::Holds;
use crate::ring::Ring;
use crate::size::Size;
use crate::sync::ArcSwap;
use crate::tree::Tree;
use crate::{Applied, Error, Revision};

/// Records looked up at once.
pub(crate) const FETCH_CHUNK: usize = 2048;
/// Records of a read up to this size are worth caching; a larger one would push everything else out.
const CACHE_READS_UPTO: usize = 64;
/// From this many records on, reading past up to so many others for each is cheaper than looking each up.
const SCAN_FROM: usize = 64;
const SCAN_WASTE: usize = 4;

/// The whole state at one revision. Never changes.
pub(crate) struct Snapshot {
    pub tree: Tree,
    pub revision: i64,
    /// History below this revision must not be read; -1 before the first compaction.
    pub compacted: i64,
    pub applied: Option<Applied>,
    pub alarms: Arc<[Alarm]>,
}

/// Shared by the writer, readers and watchers.
pub(crate) struct Shared {
    pub snapshot: ArcSwap<Snapshot>,
    pub holds: Holds,
    pub backend: Arc<dyn Backend>,
    pub cache: Cache,
    pub ring: Ring,
    pub interest: Arc<Interest>,
    pub shelf: Shelf,
    pub leases: LeaseTable,
    pub size: Size,
    pub auth: ArcSwap<Auth>,
    pub tokens: Tokens,
    /// Told when `auth` has changed.
    pub listeners: Arc<Listeners>,
}

/// Where records come from: what has been written, and for the writer also what is about to be.
pub(crate) trait Records {
    /// The record under `at`; `None` if it has been compacted away.
    fn record(&self, at: Revision) -> Result<Option<Bytes>, Error>;

    /// The records under `at`, in the same order.
    fn records(&self, at: &[Revision]) -> Result<Vec<Option<Bytes>>, Error>;
}

/// Where records are to be read on rather than looked up, `at` ascending: from the one key to the other, and after how many
/// to give up, where transactions were so large that most of what is read is of no use.
pub(crate) fn lie_together(at: &[Revision]) -> Option<([u8; Revision::BYTES], [u8; Revision::BYTES], usize)> {
    let [first, .., last] = at else { return None };
    let near = at.len() >= SCAN_FROM && last.main - first.main <= (at.len() * SCAN_WASTE) as i64;
    let end = Revision { main: last.main, sub: last.sub.saturating_add(1) };
    near.then(|| (first.to_bytes(), end.to_bytes(), at.len() * (SCAN_WASTE + 1)))
}

impl Shared {
    /// Records from the backend; `at` ascends. Writes of one time lie together, so much of what a large range holds is
    /// often found by reading on rather than by lookups.
    fn fetch(&self, at: &[Revision]) -> Result<Vec<Option<Bytes>>, Error> {
        let mut found = Vec::with_capacity(at.len());
        if let Some((start, end, mut left)) = lie_together(at) {
            self.backend.scan(Space::Revisions, &start, Some(&end), &mut |key, value| {
                left -= 1;
                let here = Revision::from_bytes(key).ok_or_else(|| Error::Storage("damaged revision key".into()))?;
                while at.get(found.len()).is_some_and(|at| *at < here) {
                    found.push(None);
                }
                if at.get(found.len()) == Some(&here) {
                    found.push(Some(Bytes::copy_from_slice(value)));
                }
                Ok(left > 0)
            })?;
            if left > 0 {
                found.resize(at.len(), None);
            }
        }
        let keys: Vec<SpaceKey> = at[found.len()..].iter().map(|at| SpaceKey::from_slice(&at.to_bytes())).collect();
        if !keys.is_empty() {
            found.extend(self.backend.multi_get(Space::Revisions, &keys)?);
        }
        Ok(found)
    }
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
            let wanted: Vec<Revision> = chunk.iter().map(|&index| at[index]).collect();
            for (&index, record) in chunk.iter().zip(self.fetch(&wanted)?) {
                if let Some(bytes) = record.as_ref().filter(|_| worth_caching) {
                    self.cache.insert(at[index], bytes.clone());
                }
                found[index] = record;
            }
        }
        Ok(found)
    }
}
