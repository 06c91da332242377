//! Everything at one revision, in revision order: what a backup is made of.
//!
//! The backend is pinned for as long as the export is read, so that writes, compactions and the freeing of space go on
//! beside it and do not change what it gives. Nothing is collected: writes are handed on as they are read.

use std::sync::Arc;

use crate::alarm::Alarms;
use crate::auth::Auth;
use crate::backend::{Space, View};
use crate::record::Record;
use crate::recovery::{STATE, State};
use crate::snapshot::Snapshot;
use crate::{Alarm, Applied, Error, LeaseTime, Reader, Revision, auth, lease};

/// Times that the pinning is repeated because a compaction to a newer revision than the index had came in between.
const RETRIES: usize = 64;

/// A write as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write<'a> {
    pub at: Revision,
    /// The key was deleted: what follows the key is empty.
    pub tombstone: bool,
    pub key: &'a [u8],
    pub value: &'a [u8],
    pub create_revision: i64,
    pub version: i64,
    /// 0 for none.
    pub lease: i64,
}

/// A state that stands still. See [`Reader::export`].
pub struct Export<'a> {
    view: &'a dyn View,
    index: Arc<Snapshot>,
    state: State,
}

impl Reader {
    /// Calls `read` with the whole state at the newest revision. It stays what it is until `read` returns, and so does
    /// the space that it takes: whoever reads bounds the time.
    ///
    /// # Errors
    /// What `read` returns; [`Error::Storage`].
    pub fn export<T, E: From<Error>>(&self, read: impl FnOnce(&Export) -> Result<T, E>) -> Result<T, E> {
        let mut read = Some(read);
        let mut outcome = None;
        for _ in 0..RETRIES {
            // The index first: it must know every write that the pinned compaction may have made invisible.
            let index = self.shared.snapshot.load_full();
            self.shared.backend.pinned(&mut |view| {
                let state = match view.get(Space::Meta, STATE)? {
                    Some(bytes) => State::decode(&bytes),
                    None => Some(State { applied: None, revision: 1, compacted: -1 }),
                };
                let state = state.ok_or_else(|| Error::Storage("the store is damaged: unreadable state".into()))?;
                if state.compacted <= index.revision
                    && let Some(read) = read.take()
                {
                    outcome = Some(read(&Export { view, index: Arc::clone(&index), state }));
                }
                Ok(())
            })?;
            if let Some(outcome) = outcome {
                return outcome;
            }
        }
        Err(Error::Storage("compactions overtake every attempt to export".into()).into())
    }
}

impl Export<'_> {
    /// Revision that the state is at.
    pub fn revision(&self) -> i64 {
        self.state.revision
    }

    /// The oldest revision that can be read; 0 before the first compaction.
    pub fn compacted_revision(&self) -> i64 {
        self.state.compacted.max(0)
    }

    /// Position of the last entry that is in it.
    pub fn applied(&self) -> Option<Applied> {
        self.state.applied
    }

    /// Visits every write that a reader may still see, in order of revisions.
    ///
    /// # Errors
    /// What `visit` returns ends the visit; [`Error::Storage`].
    pub fn writes<E: From<Error>>(&self, mut visit: impl FnMut(&Write) -> Result<(), E>) -> Result<(), E> {
        let mut ended = Ok(());
        self.view.scan(Space::Revisions, &[], None, &mut |key, value| {
            let at = Revision::from_bytes(key).ok_or_else(|| Error::Storage("damaged revision key".into()))?;
            let record = Record::decode(value)?;
            if at.main <= self.state.compacted && !self.is_kept(at, record.key) {
                return Ok(true);
            }
            let Record { create, version, lease, key, value, .. } = record;
            let tombstone = record.is_tombstone();
            ended = visit(&Write { at, tombstone, key, value, create_revision: create, version, lease });
            Ok(ended.is_ok())
        })?;
        ended
    }

    /// Whether the compaction leaves this write, which is not newer than it. What it drops may still be in the backend.
    fn is_kept(&self, at: Revision, key: &[u8]) -> bool {
        let entry = self.index.tree.get(key);
        entry.is_some_and(|entry| entry.keeps(at, self.state.compacted))
    }

    /// Visits every lease in order of the ids as unsigned numbers.
    ///
    /// # Errors
    /// As [`Export::writes`].
    pub fn leases<E: From<Error>>(&self, mut visit: impl FnMut(LeaseTime) -> Result<(), E>) -> Result<(), E> {
        let mut ended = Ok(());
        self.view.scan(Space::Leases, &[], None, &mut |key, value| {
            let damaged = || Error::Storage("the store is damaged: unreadable lease".into());
            let id = key.try_into().map(i64::from_be_bytes).map_err(|_| damaged())?;
            let (ttl, remaining) = lease::decode(value).ok_or_else(damaged)?;
            ended = visit(LeaseTime { id, ttl, remaining });
            Ok(ended.is_ok())
        })?;
        ended
    }

    /// The alarms that stand.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn alarms(&self) -> Result<Arc<[Alarm]>, Error> {
        Ok(Arc::clone(Alarms::load(self.view)?.list()))
    }

    /// Users, roles and whether they count.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn auth(&self) -> Result<Auth, Error> {
        auth::load(self.view)
    }
}
