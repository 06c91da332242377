//! etcd's `HashKV`: CRC-32C over the name of its bucket of keys and over that bucket's entries, as they would lie in an etcd's
//! file (`server/storage/mvcc/hash.go` of etcd).

use super::records;
use crate::record::Record;
use crate::snapshot::{Shared, Snapshot};
use crate::tree::Span;
use crate::{Error, Revision};

/// Name of etcd's bucket of keys.
const BUCKET: &[u8] = b"key";
const SEPARATOR: u8 = b'_';
const TOMBSTONE: u8 = b't';

/// What [`Reader::hash_kv`](crate::Reader::hash_kv) found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    pub hash: u32,
    /// The revision up to which it goes.
    pub hash_revision: i64,
    /// The last compaction's revision; -1 before the first.
    pub compact_revision: i64,
    /// The store's revision.
    pub revision: i64,
}

pub(super) fn hash(shared: &Shared, snapshot: &Snapshot, revision: i64) -> Result<HashKv, Error> {
    let &Snapshot { ref tree, compacted, revision: newest, .. } = snapshot;
    if revision > 0 && revision < compacted {
        return Err(Error::Compacted);
    }
    if revision > newest {
        return Err(Error::FutureRevision);
    }
    let upto = if revision == 0 { newest } else { revision };
    // Of what is not newer than the compaction only what is visible at the hash's own revision counts, so that it does not
    // matter how far the compaction has come. etcd leaves that rule out where nothing at all is visible then.
    let bare = tree.count(Span::Range(b"", None), upto) == 0;
    let counts = |at: Revision, record: &Record| {
        if at.main > compacted {
            return true;
        }
        let Some(entry) = tree.get(record.key) else { return false };
        match bare {
            // A tombstone of the compacted revision itself is kept for watchers, and never counts.
            true => entry.keeps(at, compacted) && !(record.is_tombstone() && at.main == compacted),
            false => entry.visible(upto) == Some(at),
        }
    };
    let mut crc = crc32c::crc32c(BUCKET);
    let mut entry = Vec::new();
    records(shared, snapshot, upto, &mut |at, record, _| {
        if counts(at, &record) {
            entry.clear();
            put_key(&mut entry, at, record.is_tombstone());
            put_value(&mut entry, at, &record);
            crc = crc32c::crc32c_append(crc, &entry);
        }
    })?;
    Ok(HashKv { hash: crc, hash_revision: upto, compact_revision: compacted, revision: newest })
}

/// Main revision, separator, sub revision, and a mark behind those of deletions.
fn put_key(out: &mut Vec<u8>, at: Revision, tombstone: bool) {
    out.extend_from_slice(&at.main.to_be_bytes());
    out.push(SEPARATOR);
    out.extend_from_slice(&u64::from(at.sub).to_be_bytes());
    if tombstone {
        out.push(TOMBSTONE);
    }
}

/// The protobuf message `mvccpb.KeyValue`; a deletion's holds the key only.
fn put_value(out: &mut Vec<u8>, at: Revision, record: &Record) {
    blob(out, 1, record.key);
    if !record.is_tombstone() {
        number(out, 2, record.create);
        number(out, 3, at.main);
        number(out, 4, record.version);
        blob(out, 5, record.value);
        number(out, 6, record.lease);
    }
}

/// A field of bytes; an empty one is left out.
fn blob(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        out.push(field << 3 | 2);
        varint(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
}

/// A field of a number; zero is left out.
fn number(out: &mut Vec<u8>, field: u8, value: i64) {
    if value != 0 {
        out.push(field << 3);
        varint(out, value as u64);
    }
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
