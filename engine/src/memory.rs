//! The backend that lives in memory: for tests, simulations of crashes, and stores that need not survive.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use crate::backend::{Backend, Batch, Space, SpaceKey, Visit};
use crate::sync::{Mutex, RwLock};
use crate::{Error, backend};

/// Keys visited under one hold of the lock, so that a scan does not keep writers waiting.
const SCAN_CHUNK: usize = 256;

#[derive(Clone, Default)]
struct Spaces {
    maps: [BTreeMap<SpaceKey, Bytes>; Space::ALL.len()],
    bytes: u64,
}

impl Spaces {
    fn map(&self, space: Space) -> &BTreeMap<SpaceKey, Bytes> {
        &self.maps[space as usize]
    }

    fn write(&mut self, batch: Batch) {
        for change in batch.changes {
            let map = &mut self.maps[change.space as usize];
            let length = change.key.len();
            let before = match change.value {
                Some(value) => {
                    self.bytes += (length + value.len()) as u64;
                    map.insert(change.key, value)
                }
                None => map.remove(&change.key),
            };
            self.bytes -= before.map_or(0, |value| (length + value.len()) as u64);
        }
    }
}

/// What would survive a crash, and the batches that would not.
#[derive(Default)]
struct Crash {
    durable: Spaces,
    unflushed: Vec<Batch>,
}

/// See the module's documentation.
#[derive(Default)]
pub struct MemoryBackend {
    live: RwLock<Spaces>,
    crash: Option<Mutex<Crash>>,
}

impl MemoryBackend {
    /// Keeps no record of what was flushed.
    pub fn new() -> MemoryBackend {
        MemoryBackend::default()
    }

    /// Remembers what was flushed, for [`MemoryBackend::crashed`]. Unflushed batches are kept twice.
    pub fn with_crashes() -> MemoryBackend {
        MemoryBackend { crash: Some(Mutex::default()), ..MemoryBackend::default() }
    }

    /// What a crash at this moment would leave, when `kept` of the batches written since the last flush reached the
    /// disk by themselves: a prefix of the writes, never a part of a batch.
    ///
    /// Without [`MemoryBackend::with_crashes`] nothing survives.
    pub fn crashed(&self, kept: usize) -> MemoryBackend {
        let mut survived = Spaces::default();
        if let Some(crash) = &self.crash {
            let crash = crash.lock();
            survived = crash.durable.clone();
            for batch in crash.unflushed.iter().take(kept) {
                survived.write(batch.clone());
            }
        }
        let crash = Crash { durable: survived.clone(), unflushed: Vec::new() };
        MemoryBackend { live: RwLock::new(survived), crash: Some(Mutex::new(crash)) }
    }

    /// Number of batches that were written and not flushed; 0 without [`MemoryBackend::with_crashes`].
    pub fn unflushed(&self) -> usize {
        self.crash.as_ref().map_or(0, |crash| crash.lock().unflushed.len())
    }

    /// Number of keys in a keyspace.
    pub fn len(&self, space: Space) -> usize {
        self.live.read().map(space).len()
    }

    /// Whether a keyspace holds nothing.
    pub fn is_empty(&self, space: Space) -> bool {
        self.len(space) == 0
    }
}

impl Backend for MemoryBackend {
    fn write(&self, batch: Batch) -> Result<(), Error> {
        if let Some(crash) = &self.crash {
            crash.lock().unflushed.push(batch.clone());
        }
        self.live.write().write(batch);
        Ok(())
    }

    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(self.live.read().map(space).get(key).cloned())
    }

    fn multi_get(&self, space: Space, keys: &[SpaceKey]) -> Result<Vec<Option<Bytes>>, Error> {
        let live = self.live.read();
        Ok(keys.iter().map(|key| live.map(space).get(key).cloned()).collect())
    }

    fn scan(&self, space: Space, start: &[u8], end: Option<&[u8]>, visit: Visit) -> Result<(), Error> {
        let mut from = Bound::Included(SpaceKey::from_slice(start));
        loop {
            let until = end.map_or(Bound::Unbounded, |end| Bound::Excluded(SpaceKey::from_slice(end)));
            if end.is_some_and(|end| matches!(&from, Bound::Included(at) | Bound::Excluded(at) if &at[..] >= end)) {
                return Ok(());
            }
            let chunk: Vec<(SpaceKey, Bytes)> = {
                let live = self.live.read();
                let range = live.map(space).range((from, until));
                range.take(SCAN_CHUNK).map(|(key, value)| (key.clone(), value.clone())).collect()
            };
            for (key, value) in &chunk {
                if !visit(key, value)? {
                    return Ok(());
                }
            }
            match chunk.into_iter().next_back() {
                Some((last, _)) => from = Bound::Excluded(last),
                None => return Ok(()),
            }
        }
    }

    fn flush(&self) -> Result<(), Error> {
        if let Some(crash) = &self.crash {
            let mut crash = crash.lock();
            for batch in std::mem::take(&mut crash.unflushed) {
                crash.durable.write(batch);
            }
        }
        Ok(())
    }

    fn size_bytes(&self) -> u64 {
        self.live.read().bytes
    }

    /// Copies the keys; the values are shared.
    fn pinned(&self, read: &mut dyn FnMut(&dyn backend::View) -> Result<(), Error>) -> Result<(), Error> {
        let copy = self.live.read().clone();
        read(&MemoryBackend { live: RwLock::new(copy), crash: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(backend: &MemoryBackend, key: &str, value: &str) {
        let mut batch = Batch::default();
        batch.put(Space::Meta, key.as_bytes(), Bytes::copy_from_slice(value.as_bytes()));
        backend.write(batch).unwrap();
    }

    #[test]
    fn a_crash_leaves_a_prefix_of_the_writes() {
        let backend = MemoryBackend::with_crashes();
        put(&backend, "a", "1");
        backend.flush().unwrap();
        put(&backend, "b", "2");
        put(&backend, "c", "3");
        assert_eq!(backend.unflushed(), 2);
        for (kept, present) in [(0, 1), (1, 2), (2, 3), (9, 3)] {
            assert_eq!(backend.crashed(kept).len(Space::Meta), present, "kept {kept}");
        }
        assert!(MemoryBackend::new().crashed(0).is_empty(Space::Meta));
    }

    #[test]
    fn scan_goes_on_past_a_chunk_and_stops_where_told() {
        let backend = MemoryBackend::new();
        for number in 0..3 * SCAN_CHUNK {
            put(&backend, &format!("{number:06}"), "value");
        }
        let scan = |start: &str, end: Option<&str>, limit: usize| {
            let mut seen = Vec::new();
            let visit = &mut |key: &[u8], _: &[u8]| {
                seen.push(String::from_utf8_lossy(key).into_owned());
                Ok(seen.len() < limit)
            };
            backend.scan(Space::Meta, start.as_bytes(), end.map(str::as_bytes), visit).unwrap();
            assert!(seen.is_sorted());
            seen
        };
        assert_eq!(scan("", None, usize::MAX).len(), 3 * SCAN_CHUNK);
        assert_eq!(scan("000010", Some("000300"), usize::MAX).len(), 290);
        assert_eq!(scan("000010", Some("000010"), usize::MAX).len(), 0);
        assert_eq!(scan("000020", Some("000010"), usize::MAX).len(), 0);
        assert_eq!(scan("000010", None, 5).last().unwrap(), "000014");
    }

    #[test]
    fn size_follows_overwrites_and_deletes() {
        let backend = MemoryBackend::new();
        put(&backend, "a", "12345");
        put(&backend, "a", "1");
        assert_eq!(backend.size_bytes(), 2);
        let mut batch = Batch::default();
        batch.delete(Space::Meta, b"a");
        batch.delete(Space::Meta, b"absent");
        backend.write(batch).unwrap();
        assert_eq!(backend.size_bytes(), 0);
    }
}
