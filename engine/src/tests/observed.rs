//! A backend in memory that counts lookups and can run out of space.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use crate::backend::{Backend, Batch, Space, SpaceKey, Visit};
use crate::{Error, MemoryBackend, backend};

pub(super) struct Observed {
    pub inner: MemoryBackend,
    /// Writes that succeed; all later ones fail.
    pub writes_left: AtomicUsize,
    /// Records looked up one by one.
    pub lookups: AtomicUsize,
}

impl Default for Observed {
    fn default() -> Observed {
        let (writes_left, lookups) = (AtomicUsize::new(usize::MAX), AtomicUsize::new(0));
        Observed { inner: MemoryBackend::new(), writes_left, lookups }
    }
}

impl Backend for Observed {
    fn write(&self, batch: Batch) -> Result<(), Error> {
        match self.writes_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) {
            Ok(_) => self.inner.write(batch),
            Err(_) => Err(Error::Storage("disk full".into())),
        }
    }

    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.lookups.fetch_add(1, Ordering::SeqCst);
        self.inner.get(space, key)
    }

    fn multi_get(&self, space: Space, keys: &[SpaceKey]) -> Result<Vec<Option<Bytes>>, Error> {
        self.lookups.fetch_add(keys.len(), Ordering::SeqCst);
        self.inner.multi_get(space, keys)
    }

    fn scan(&self, space: Space, start: &[u8], end: Option<&[u8]>, visit: Visit) -> Result<(), Error> {
        self.inner.scan(space, start, end, visit)
    }

    fn flush(&self) -> Result<(), Error> {
        self.inner.flush()
    }

    fn size_bytes(&self) -> u64 {
        self.inner.size_bytes()
    }

    fn pinned(&self, read: &mut dyn FnMut(&dyn backend::View) -> Result<(), Error>) -> Result<(), Error> {
        self.inner.pinned(read)
    }
}
