//! Where the engine keeps what must survive: a few ordered keyspaces, written in atomic batches.

use bytes::Bytes;
use smallvec::SmallVec;

use crate::Error;

/// An ordered keyspace of a [`Backend`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// A handful of named blobs: format, position, membership.
    Meta,
    /// Every kept write, by revision.
    Revisions,
    /// Every lease, by id.
    Leases,
}

impl Space {
    /// All of them.
    pub const ALL: [Space; 3] = [Space::Meta, Space::Revisions, Space::Leases];

    /// Name on disk.
    pub fn name(self) -> &'static str {
        match self {
            Space::Meta => "meta",
            Space::Revisions => "revisions",
            Space::Leases => "leases",
        }
    }
}

/// A key of a keyspace; those that the engine writes often fit inline.
pub type SpaceKey = SmallVec<[u8; 16]>;

/// One change of a [`Batch`]: `None` deletes.
#[derive(Clone, Debug)]
pub struct Change {
    pub space: Space,
    pub key: SpaceKey,
    pub value: Option<Bytes>,
}

/// Changes that take place together or not at all.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub changes: Vec<Change>,
}

impl Batch {
    pub fn put(&mut self, space: Space, key: &[u8], value: Bytes) {
        self.changes.push(Change { space, key: SmallVec::from_slice(key), value: Some(value) });
    }

    pub fn delete(&mut self, space: Space, key: &[u8]) {
        self.changes.push(Change { space, key: SmallVec::from_slice(key), value: None });
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// Receives one key and its value; `false` ends the scan.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<bool, Error>;

/// Bytes of what was read lately that a backend on disk may keep in memory.
pub(crate) const READ_CACHE: usize = 128 << 20;

/// Ordered, atomic storage. Writes come from one thread, reads from any.
///
/// It has no log of its own: what was written since the last [`Backend::flush`] may be lost in a crash, but only as
/// whole batches and only from the end: what remains is always the state after some earlier batch. The raft log
/// replays the rest.
pub trait Backend: Send + Sync + 'static {
    /// Applies all of `batch`, or nothing.
    ///
    /// # Errors
    /// [`Error::Storage`] when the storage failed; the caller must stop writing.
    fn write(&self, batch: Batch) -> Result<(), Error>;

    /// The value under `key`.
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// The values under `keys`, in the same order. Ascending keys are the fastest.
    fn multi_get(&self, space: Space, keys: &[SpaceKey]) -> Result<Vec<Option<Bytes>>, Error>;

    /// Visits keys from `start` on in ascending order, up to `end` (exclusive; `None`: to the last).
    fn scan(&self, space: Space, start: &[u8], end: Option<&[u8]>, visit: Visit) -> Result<(), Error>;

    /// [`Backend::scan`] of what is worth keeping in memory: likely to be read again soon, and little enough to be there
    /// still.
    fn scan_again(&self, space: Space, start: &[u8], end: Option<&[u8]>, visit: Visit) -> Result<(), Error> {
        self.scan(space, start, end, visit)
    }

    /// Returns when everything written before the call would survive a crash.
    fn flush(&self) -> Result<(), Error>;

    /// Bytes that the data takes, estimated, memory not yet written to disk included.
    fn size_bytes(&self) -> u64;

    /// The part of [`Backend::size_bytes`] that is not left over from overwritten and deleted values, estimated.
    fn in_use_bytes(&self) -> u64 {
        self.size_bytes()
    }

    /// Gives back what overwritten and deleted values of a keyspace still take, in front of `end` (exclusive; `None`: to
    /// the last); with `whole` even where that means to rewrite data that is in good order. Reads and writes go on
    /// meanwhile. Nothing to do for a backend that never holds such values.
    ///
    /// # Errors
    /// [`Error::Storage`] when the storage failed.
    fn compact(&self, _space: Space, _end: Option<&[u8]>, _whole: bool) -> Result<(), Error> {
        Ok(())
    }

    /// Ends a [`Backend::compact`] that is under way, and all later ones: the backend is about to be closed.
    fn interrupt(&self) {}

    /// Calls `read` with everything as it is at this moment. Writes go on meanwhile and are not seen; the space of
    /// what they replace is kept until `read` returns.
    ///
    /// # Errors
    /// What `read` returns; [`Error::Storage`].
    fn pinned(&self, read: &mut dyn FnMut(&dyn View) -> Result<(), Error>) -> Result<(), Error>;
}

/// What can be read: of a backend, or of one moment of it.
pub trait View {
    /// As [`Backend::get`].
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// As [`Backend::scan`].
    fn scan(&self, space: Space, start: &[u8], end: Option<&[u8]>, visit: Visit) -> Result<(), Error>;
}

impl<B: Backend> View for B {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Backend::get(self, space, key)
    }

    fn scan(&self, space: Space, start: &[u8], end: Option<&[u8]>, visit: Visit) -> Result<(), Error> {
        Backend::scan(self, space, start, end, visit)
    }
}

impl View for dyn Backend {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Backend::get(self, space, key)
    }

    fn scan(&self, space: Space, start: &[u8], end: Option<&[u8]>, visit: Visit) -> Result<(), Error> {
        Backend::scan(self, space, start, end, visit)
    }
}
