//! Founds a state from another store's, with exactly its revisions, in an empty backend.
//!
//! What comes in is not trusted: a history that no store can have is refused, with the record that shows it.

use std::sync::Arc;

use bytes::Bytes;

use crate::auth::Auth;
use crate::backend::{Backend, Batch, Space};
use crate::export::Write;
use crate::history::Change;
use crate::lease::{self, LeaseTime, MAX_LEASE_TTL};
use crate::record::Record;
use crate::recovery::{FORMAT, FORMAT_VERSION, STATE, State};
use crate::tree::Tree;
use crate::{Alarm, Applied, Error, Revision, auth};

/// Bytes and records that go to the backend at once.
const BATCH_BYTES: usize = 4 << 20;
const BATCH_RECORDS: usize = 4096;

/// Takes writes in order of their revisions, then the rest, then [`Importer::finish`]. Until that has returned the
/// backend holds no state; keeps every key in memory, as a running store does.
pub struct Importer {
    backend: Arc<dyn Backend>,
    /// Below it history has holes; -1 for none.
    compacted: i64,
    tree: Tree,
    last: Revision,
    writes: u64,
    batch: Batch,
    bytes: usize,
}

impl Importer {
    /// Begins in an empty backend. Up to `compacted` (0: none) only what is visible there needs to come.
    ///
    /// # Errors
    /// [`Error::Import`] when the backend holds something; [`Error::Storage`].
    pub fn new(backend: Arc<dyn Backend>, compacted: i64) -> Result<Importer, Error> {
        for space in Space::ALL {
            let mut empty = true;
            backend.scan(space, &[], None, &mut |_, _| {
                empty = false;
                Ok(false)
            })?;
            if !empty {
                return Err(Error::Import("there is a state already".to_owned()));
            }
        }
        let compacted = if compacted > 0 { compacted } else { -1 };
        let (tree, last, batch) = (Tree::default(), Revision { main: 1, sub: 0 }, Batch::default());
        Ok(Importer { backend, compacted, tree, last, writes: 0, batch, bytes: 0 })
    }

    /// Adds the next write.
    ///
    /// # Errors
    /// [`Error::Import`] for one that cannot follow those before it; [`Error::Storage`].
    pub fn write(&mut self, write: &Write) -> Result<(), Error> {
        let wrong = |reason: String| {
            let Revision { main, sub } = write.at;
            Err(Error::Import(format!("revision {main}, write {sub} (key \"{}\"): {reason}", write.key.escape_ascii())))
        };
        if let Err(reason) = self.follows(write.at) {
            return wrong(reason);
        }
        if write.key.is_empty() {
            return wrong("it has no key".to_owned());
        }
        let Write { at, create_revision, version, lease, .. } = *write;
        let change = match write.tombstone {
            true => Change::Load { at, create: 0, version: 0, lease: 0, length: 0 },
            false => Change::Load { at, create: create_revision, version, lease, length: write.value.len() as u32 },
        };
        // What the key was before, and whether that is known: behind the compaction all is.
        let entry = self.tree.get(write.key).map(|entry| (entry.is_live(), entry.create, entry.version));
        let known = at.main > self.compacted || entry.is_some();
        let lived = entry.filter(|(live, ..)| *live);
        let wanted = match (write.tombstone, lived) {
            (true, None) if known => return wrong("it deletes a key that does not exist".to_owned()),
            (true, _) => None,
            (false, Some((_, create, version))) => Some((create, version + 1)),
            (false, None) if known => Some((at.main, 1)),
            (false, None) => None,
        };
        if !write.tombstone {
            if !(1..=at.main).contains(&create_revision) || version < 1 {
                return wrong(format!("created at {create_revision} and version {version} cannot be"));
            }
            if let Some((create, expected)) = wanted.filter(|wanted| *wanted != (create_revision, version)) {
                return wrong(format!(
                    "it was created at {create_revision} and is version {version}, and should be {create} and {expected}"
                ));
            }
        }
        let previous = self.tree.write(write.key, change).before.map(|before| before.at);
        let record = Record {
            create: if write.tombstone { 0 } else { create_revision },
            version: if write.tombstone { 0 } else { version },
            lease: if write.tombstone { 0 } else { lease },
            previous,
            key: write.key,
            value: if write.tombstone { &[] } else { write.value },
        };
        let record = record.encode();
        self.bytes += record.len();
        self.batch.put(Space::Revisions, &at.to_bytes(), record);
        self.last = at;
        self.writes += 1;
        self.spill(BATCH_BYTES, BATCH_RECORDS)
    }

    /// Whether a write at `at` may come next; the error says why not.
    fn follows(&self, at: Revision) -> Result<(), String> {
        let first = self.writes == 0;
        let last = self.last;
        if at.main < 2 || (!first && at <= last) {
            return Err(format!("it does not follow revision {}, write {}", last.main, last.sub));
        }
        if at.main <= self.compacted {
            return Ok(());
        }
        // Behind the compaction nothing may be missing.
        let (next, due) = match last.main < self.compacted {
            true => (self.compacted + 1, 0),
            false if at.main == last.main => (last.main, last.sub + 1),
            false => (last.main + 1, 0),
        };
        match at.main == next && at.sub == due {
            true => Ok(()),
            false => Err(format!("revision {next}, write {due} is missing before it")),
        }
    }

    /// Adds a lease.
    ///
    /// # Errors
    /// [`Error::Import`] for an id of 0 or a time that no lease can have; [`Error::Storage`].
    pub fn lease(&mut self, lease: LeaseTime) -> Result<(), Error> {
        let LeaseTime { id, ttl, remaining } = lease;
        if id == 0 || ttl > MAX_LEASE_TTL || remaining > ttl.max(0) || remaining < 0 {
            return Err(Error::Import(format!("lease {id:x}: {ttl} s granted and {remaining} s left cannot be")));
        }
        self.batch.put(Space::Leases, &id.to_be_bytes(), lease::encode(ttl, remaining));
        self.spill(BATCH_BYTES, BATCH_RECORDS)
    }

    /// Adds an alarm that stands.
    pub fn alarm(&mut self, alarm: Alarm) {
        self.batch.put(Space::Meta, &alarm.to_key(), Bytes::new());
    }

    /// Sets users and roles; the last call counts.
    pub fn auth(&mut self, auth: &Auth) {
        auth::store_all(auth, &mut self.batch);
    }

    /// Revision of the newest write so far, 1 without any.
    pub fn revision(&self) -> i64 {
        self.last.main
    }

    /// Number of writes so far.
    pub fn writes(&self) -> u64 {
        self.writes
    }

    fn spill(&mut self, bytes: usize, records: usize) -> Result<(), Error> {
        if self.bytes >= bytes || self.batch.changes.len() >= records {
            self.bytes = 0;
            self.backend.write(std::mem::take(&mut self.batch))?;
        }
        Ok(())
    }

    /// Completes the state: at `revision`, which may lie behind the newest write only where all is compacted up to it;
    /// as if the entry `applied` had made it; with the named blobs. It is on stable storage when this returns.
    ///
    /// # Errors
    /// [`Error::Import`] for a revision or compaction that does not fit the writes; [`Error::Storage`].
    pub fn finish(
        mut self,
        revision: i64,
        compacted: i64,
        applied: Applied,
        meta: &[(&'static str, Bytes)],
    ) -> Result<(), Error> {
        let compacted = if compacted > 0 { compacted } else { -1 };
        let last = self.last.main;
        let fits = revision == last || (revision > last && compacted == revision);
        if !fits || compacted > revision || compacted < self.compacted {
            return Err(Error::Import(format!(
                "revision {revision}, compacted at {compacted}, does not fit a newest write at {last}"
            )));
        }
        self.spill(0, 0)?;
        let mut batch = Batch::default();
        batch.put(Space::Meta, FORMAT, Bytes::from_static(FORMAT_VERSION));
        batch.put(Space::Meta, STATE, State { applied: Some(applied), revision, compacted }.encode());
        for (name, blob) in meta {
            batch.put(Space::Meta, &crate::engine::meta_key(name), blob.clone());
        }
        self.backend.write(batch)?;
        self.backend.flush()
    }
}
