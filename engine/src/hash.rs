//! Hashes of what the store holds, to compare members, replays and restored copies.

mod kv;

pub use kv::HashKv;

use crate::auth::{self, Auth};
use crate::backend::Space;
use crate::lease::LeaseTime;
use crate::reader::{RETRIES, Reader};
use crate::record::Record;
use crate::snapshot::{Shared, Snapshot};
use crate::tree::Span;
use crate::{Error, Revision};

fn mix(hash: u64, with: u64) -> u64 {
    // The finaliser of MurmurHash3: every bit of the input moves every bit of the result.
    let mut hash = (hash.rotate_left(5) ^ with).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

impl Reader {
    /// A hash of everything that clients can see, and the revision that it was taken at. Equal on every member that has
    /// applied the same entries; the number is this store's own, etcd's would be another. Leases may be of a moment
    /// later. Reads the whole store, in little memory.
    ///
    /// # Errors
    /// [`Error::Storage`] when the backend fails or lacks a record.
    pub fn hash(&self) -> Result<(u32, i64), Error> {
        let (hash, revision) = state(&self.shared)?;
        Ok(((hash ^ (hash >> 32)) as u32, revision))
    }

    /// etcd's hash of the history from the last compaction to `revision` (0: to the newest), as its `HashKV` gives it: two
    /// stores, of this kind or etcd's, that have seen the same changes agree. Reads the whole history, in little memory.
    ///
    /// Where exactly a compaction's own revision is asked for, an etcd that has made that compaction since its start
    /// answers from a cache, filled when what the compaction dropped was still there; this answers as an etcd does that
    /// was started since.
    ///
    /// # Errors
    /// [`Error::Compacted`] and [`Error::FutureRevision`]; [`Error::Storage`] when the backend fails.
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, Error> {
        undisturbed(&self.shared, |snapshot| kv::hash(&self.shared, snapshot, revision))
    }
}

/// Hash and revision.
pub(crate) fn state(shared: &Shared) -> Result<(u64, i64), Error> {
    undisturbed(shared, |snapshot| {
        let hash = history(shared, snapshot)?;
        Ok((conditions(shared, snapshot, hash), snapshot.revision))
    })
}

/// Repeats what reads the history of a snapshot when a compaction came in between, which may have dropped some of it.
fn undisturbed<T>(shared: &Shared, read: impl Fn(&Snapshot) -> Result<T, Error>) -> Result<T, Error> {
    let mut result = Err(Error::Compacted);
    for _ in 0..RETRIES {
        let snapshot = shared.snapshot.load_full();
        result = read(&snapshot);
        if shared.snapshot.load().compacted == snapshot.compacted {
            return result;
        }
    }
    result.and(Err(Error::Compacted))
}

fn history(shared: &Shared, snapshot: &Snapshot) -> Result<u64, Error> {
    let mut hash = mix(mix(0, snapshot.revision as u64), snapshot.compacted as u64);
    let mut missing = 0;
    snapshot.tree.visit(Span::Range(b"", None), &mut |_, entry| {
        missing += entry.kept(snapshot.compacted).count();
        true
    });
    records(shared, snapshot, snapshot.revision, &mut |at, record, bytes| {
        // What a compaction at work has not come to yet is not there any more.
        let entry = || snapshot.tree.get(record.key);
        if at.main > snapshot.compacted || entry().is_some_and(|entry| entry.keeps(at, snapshot.compacted)) {
            missing = missing.wrapping_sub(1);
            hash = mix(mix(hash, at.main as u64), u64::from(at.sub));
            hash = mix(hash, u64::from(crc32fast::hash(bytes)) << 32 | bytes.len() as u64);
        }
    })?;
    match missing {
        0 => Ok(hash),
        _ => Err(Error::Storage(format!("{missing} records of the history are missing"))),
    }
}

/// Mixes in what is not history.
fn conditions(shared: &Shared, snapshot: &Snapshot, mut hash: u64) -> u64 {
    for LeaseTime { id, ttl, remaining } in shared.leases.each() {
        hash = mix(mix(mix(hash, id as u64), ttl as u64), remaining as u64);
        for key in shared.leases.get(id).map(|lease| lease.keys).unwrap_or_default() {
            hash = mix(hash, u64::from(crc32fast::hash(&key)));
        }
    }
    for alarm in &*snapshot.alarms {
        hash = mix(mix(hash, alarm.kind.number().into()), alarm.member);
    }
    let auth = shared.auth.load_full();
    if *auth != Auth::default() {
        hash = mix(mix(hash, u64::from(auth.enabled())), auth.revision());
        for record in auth::records(&auth) {
            hash = mix(hash, u64::from(crc32fast::hash(&record)) << 32 | record.len() as u64);
        }
    }
    hash
}

/// Visits the records that the backend holds up to `revision`, in order.
fn records(
    shared: &Shared,
    snapshot: &Snapshot,
    revision: i64,
    visit: &mut dyn FnMut(Revision, Record, &[u8]),
) -> Result<(), Error> {
    // Clients may ask for negative revisions, of which there are none.
    let end = Revision { main: revision.clamp(0, snapshot.revision).saturating_add(1), sub: 0 };
    shared.backend.scan(Space::Revisions, &[], Some(&end.to_bytes()), &mut |key, bytes| {
        let at = Revision::from_bytes(key).ok_or_else(|| Error::Storage("damaged revision key".into()))?;
        visit(at, Record::decode(bytes)?, bytes);
        Ok(true)
    })
}
