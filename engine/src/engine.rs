//! The one writer: takes committed commands in log order, stores and publishes what they did.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::alarm::Alarms;
use crate::auth::Auth;
use crate::backend::{Backend, Batch, Space};
use crate::command::{Command, Outcome};
use crate::compaction::Compaction;
use crate::event::Event;
use crate::ring::RingWriter;
use crate::snapshot::{Records, Shared, Snapshot};
use crate::tree::Tree;
use crate::{Applied, Error, Reader, Revision, hash, recovery};

/// Keys and older writes of an index from which on most of it is in no cache of the processor.
const COLD: u64 = 1 << 18;

/// Bounds of what the engine keeps in memory beside the index.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Records kept for reads, in bytes. When it is full, those not read lately go first.
    pub cache_bytes: u64,
    /// Events kept for watchers; one that is further behind reads history.
    pub ring_events: usize,
    /// The same in bytes. Keys and values are shared with the cache.
    pub ring_bytes: usize,
    /// Events that were read for one watcher and are kept a moment for the others of the same range, in bytes. When it
    /// is full the oldest go first, and who comes late reads for itself.
    pub shelf_bytes: usize,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions { cache_bytes: 32 << 20, ring_events: 1 << 15, ring_bytes: 32 << 20, shelf_bytes: 8 << 20 }
    }
}

/// See the module's documentation. There is one per backend.
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
    pub(crate) ring: RingWriter,
    pub(crate) tree: Tree,
    pub(crate) revision: i64,
    /// -1 before the first compaction.
    pub(crate) compacted: i64,
    pub(crate) applied: Option<Applied>,
    pub(crate) auth: Arc<Auth>,
    /// Index of the entry at hand.
    pub(crate) index: u64,
    /// Writes of the transaction at hand.
    pub(crate) sub: u32,
    /// Records of the entries at hand, which the backend does not have yet, ascending.
    pub(crate) pending: Vec<(Revision, Bytes)>,
    pub(crate) events: Vec<Arc<Event>>,
    pub(crate) batch: Batch,
    pub(crate) alarms: Alarms,
    pub(crate) compaction: Option<Compaction>,
    /// Revisions that the index has dropped and the backend not yet; each key's in ascending order.
    pub(crate) dead: VecDeque<Revision>,
    pub(crate) failed: bool,
}

impl Engine {
    /// Opens the state in `backend` with the default bounds. Reads all of it once to rebuild the index.
    ///
    /// # Errors
    /// [`Error::Storage`] when the backend fails, is of another format, or holds what it cannot hold.
    pub fn open(backend: Arc<dyn Backend>) -> Result<Engine, Error> {
        Engine::open_with(backend, EngineOptions::default())
    }

    /// [`Engine::open`] with bounds of one's own.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub fn open_with(backend: Arc<dyn Backend>, options: EngineOptions) -> Result<Engine, Error> {
        recovery::open(backend, options)
    }

    /// Position of the last applied entry; `None` in a new store.
    pub fn applied(&self) -> Option<Applied> {
        self.applied
    }

    /// A handle for reads and watches.
    pub fn reader(&self) -> Reader {
        Reader { shared: Arc::clone(&self.shared) }
    }

    /// A blob that [`Engine::apply`] stored under `name`.
    ///
    /// # Errors
    /// [`Error::Storage`] when the backend fails.
    pub fn meta(&self, name: &str) -> Result<Option<Bytes>, Error> {
        self.shared.backend.get(Space::Meta, &meta_key(name))
    }

    /// Applies the commands of one or several entries and stores, in one atomic backend write, what they did,
    /// together with `applied` (the position of the last of these entries) and the blobs in `meta`. Then publishes
    /// the new revision, hands the events to the watchers and wakes them.
    ///
    /// A command that is refused leaves no trace; its error stands in its place of the result.
    ///
    /// # Errors
    /// [`Error::OutOfOrder`] for entries that were applied already: nothing happens. [`Error::Storage`] when the
    /// backend failed: what was applied is unknown until the state is opened anew, and every later call fails.
    pub fn apply(
        &mut self,
        applied: Applied,
        commands: &[Command],
        meta: &[(&'static str, Bytes)],
    ) -> Result<Vec<Result<Outcome, Error>>, Error> {
        self.check_failed()?;
        if let Some(last) = self.applied.filter(|last| *last >= applied) {
            return Err(Error::OutOfOrder { index: applied.index, applied: last.index });
        }
        // Whatever leaves this function early leaves a half-applied state behind.
        self.failed = true;
        self.index = applied.index;
        self.warm(commands);
        let mut outcomes = Vec::with_capacity(commands.len());
        for command in commands {
            match self.execute(command) {
                Err(fatal @ Error::Storage(_)) => return Err(fatal),
                outcome => outcomes.push(outcome),
            }
        }
        self.applied = Some(applied);
        for (name, blob) in meta {
            self.batch.put(Space::Meta, &meta_key(name), blob.clone());
        }
        self.compact_some(Compaction::BESIDE_APPLY);
        self.commit()?;
        self.failed = false;
        Ok(outcomes)
    }

    /// Brings the index of what is about to be executed near, where that is worth it.
    fn warm(&self, commands: &[Command]) {
        let keys = self.tree.summary().live + self.tree.summary().garbage;
        if keys >= COLD && commands.len() > 1 {
            self.tree.warm(commands.iter().filter_map(first_key));
        }
    }

    pub(crate) fn check_failed(&self) -> Result<(), Error> {
        match self.failed {
            true => Err(Error::Storage("writing failed before; open the store anew".into())),
            false => Ok(()),
        }
    }

    /// Stores and publishes what has piled up.
    pub(crate) fn commit(&mut self) -> Result<(), Error> {
        let mut batch = std::mem::take(&mut self.batch);
        for (at, record) in &self.pending {
            batch.put(Space::Revisions, &at.to_bytes(), record.clone());
        }
        let state = recovery::State { applied: self.applied, revision: self.revision, compacted: self.compacted };
        batch.put(Space::Meta, recovery::STATE, state.encode());
        let measure = self.shared.size.wrote(&batch);
        self.shared.backend.write(batch)?;
        if measure {
            self.shared.size.measure(&*self.shared.backend);
        }
        for (at, record) in self.pending.drain(..) {
            self.shared.cache.insert(at, record);
        }
        self.publish();
        Ok(())
    }

    fn publish(&mut self) {
        for event in &self.events {
            self.ring.append(Arc::clone(event));
        }
        let before = self.shared.snapshot.load().compacted;
        // Before the keys: who reads a key that was written after a permission was taken away must see that it was.
        let auth_changed = !Arc::ptr_eq(&self.shared.auth.load(), &self.auth);
        if auth_changed {
            self.shared.auth.store(self.auth.clone());
        }
        self.shared.snapshot.store(Arc::new(Snapshot {
            tree: self.tree.clone(),
            revision: self.revision,
            compacted: self.compacted,
            applied: self.applied,
            alarms: Arc::clone(self.alarms.list()),
        }));
        self.ring.shrink();
        if self.compacted != before {
            self.compaction = Some(Compaction::default());
        }
        let wakers = self.shared.interest.notify(&self.events, self.revision);
        self.events.clear();
        wakers.into_iter().for_each(std::task::Waker::wake);
        if auth_changed {
            self.shared.listeners.wake();
        }
    }

    /// Makes everything applied durable in the backend, and returns its position. [`Reader::flush`] does the same
    /// from another thread.
    ///
    /// # Errors
    /// [`Error::Storage`] when the backend fails.
    pub fn flush(&self) -> Result<Option<Applied>, Error> {
        self.reader().flush()
    }

    /// A hash of everything that clients can see: kept history, leases, revisions. Equal on every member that has
    /// applied the same entries, whatever each has physically compacted. Reads the whole store.
    ///
    /// # Errors
    /// [`Error::Storage`] when the backend fails.
    pub fn state_hash(&self) -> Result<u64, Error> {
        hash::state(&self.shared).map(|(hash, _)| hash)
    }
}

/// Where a command looks first, and mostly nowhere else.
fn first_key(command: &Command) -> Option<&[u8]> {
    match command.plain() {
        Command::Put(put) => Some(&put.key),
        Command::DeleteRange(delete) => Some(&delete.range.start),
        Command::Txn(txn) => txn.compares.first().map(|compare| &compare.range.start[..]),
        _ => None,
    }
}

pub(crate) fn meta_key(name: &str) -> Vec<u8> {
    [b"m/", name.as_bytes()].concat()
}

/// The writer reads its own uncommitted writes.
impl Records for Engine {
    fn record(&self, at: Revision) -> Result<Option<Bytes>, Error> {
        match self.pending.binary_search_by_key(&at, |(at, _)| *at) {
            Ok(index) => Ok(Some(self.pending[index].1.clone())),
            Err(_) => self.shared.record(at),
        }
    }

    fn records(&self, at: &[Revision]) -> Result<Vec<Option<Bytes>>, Error> {
        if self.pending.is_empty() {
            return self.shared.records(at);
        }
        at.iter().map(|&at| self.record(at)).collect()
    }
}
