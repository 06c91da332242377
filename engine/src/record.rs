//! What the backend keeps under each revision: a put with its value, or a tombstone.
//!
//! `docs/storage.md` gives the layout byte by byte. A record names the revision of the live version that it
//! replaced, so that a watch finds the previous value of any event by one point lookup.

use bytes::Bytes;

use crate::command::KeyValue;
use crate::{Error, Revision};

const PUT: u8 = 1;
const TOMBSTONE: u8 = 2;
const PUT_HEAD: usize = 1 + 3 * 8 + 12 + 4;
const TOMBSTONE_HEAD: usize = 1 + 12 + 4;

/// A decoded record that borrows its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    /// Revision at which the key's present life began; 0 for a tombstone.
    pub create: i64,
    pub version: i64,
    pub lease: i64,
    /// The live version that this write replaced.
    pub previous: Option<Revision>,
    pub key: &'a [u8],
    pub value: &'a [u8],
}

impl<'a> Record<'a> {
    pub fn is_tombstone(&self) -> bool {
        self.create == 0
    }

    pub fn encode(&self) -> Bytes {
        let previous = self.previous.unwrap_or_default().to_bytes();
        let length = (self.key.len() as u32).to_le_bytes();
        let mut out;
        if self.is_tombstone() {
            out = Vec::with_capacity(TOMBSTONE_HEAD + self.key.len());
            out.push(TOMBSTONE);
            out.extend_from_slice(&previous);
            out.extend_from_slice(&length);
            out.extend_from_slice(self.key);
        } else {
            out = Vec::with_capacity(PUT_HEAD + self.key.len() + self.value.len());
            out.push(PUT);
            out.extend_from_slice(&self.create.to_le_bytes());
            out.extend_from_slice(&self.version.to_le_bytes());
            out.extend_from_slice(&self.lease.to_le_bytes());
            out.extend_from_slice(&previous);
            out.extend_from_slice(&length);
            out.extend_from_slice(self.key);
            out.extend_from_slice(self.value);
        }
        out.into()
    }

    pub fn decode(bytes: &'a [u8]) -> Result<Record<'a>, Error> {
        parse(bytes).ok_or_else(|| Error::Storage(format!("damaged record of {} bytes", bytes.len())))
    }
}

fn parse(bytes: &[u8]) -> Option<Record<'_>> {
    let (&kind, mut rest) = bytes.split_first()?;
    let mut number = || -> Option<i64> {
        let (head, tail) = rest.split_first_chunk::<8>()?;
        rest = tail;
        Some(i64::from_le_bytes(*head))
    };
    let (create, version, lease) = match kind {
        PUT => (number()?, number()?, number()?),
        TOMBSTONE => (0, 0, 0),
        _ => return None,
    };
    if kind == PUT && create <= 0 {
        return None;
    }
    let (previous, rest) = rest.split_first_chunk::<{ Revision::BYTES }>()?;
    let previous = Revision::from_bytes(previous).filter(|revision| revision.main != 0);
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (key, value) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    if kind == TOMBSTONE && !value.is_empty() {
        return None;
    }
    Some(Record { create, version, lease, previous, key, value })
}

/// The key and value of the record stored under `at`, as slices of `bytes`: nothing is copied. A tombstone gives
/// the key and its modification revision only, as in etcd's delete events.
pub(crate) fn key_value(at: Revision, bytes: &Bytes) -> Result<KeyValue, Error> {
    let record = Record::decode(bytes)?;
    Ok(KeyValue {
        key: bytes.slice_ref(record.key),
        value: bytes.slice_ref(record.value),
        create_revision: record.create,
        mod_revision: at.main,
        version: record.version,
        lease: record.lease,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put<'a>(key: &'a [u8], value: &'a [u8]) -> Record<'a> {
        let previous = Some(Revision { main: 8, sub: 3 });
        Record { create: 5, version: 2, lease: -7, previous, key, value }
    }

    #[test]
    fn round_trip() {
        let tombstone = Record { create: 0, version: 0, lease: 0, previous: None, key: b"k", value: b"" };
        for record in [put(b"key", b"value"), put(b"", b""), tombstone] {
            assert_eq!(Record::decode(&record.encode()), Ok(record));
        }
    }

    #[test]
    fn every_cut_of_the_head_is_refused() {
        let bytes = put(b"key", b"value").encode();
        for length in 0..PUT_HEAD + 3 {
            assert!(Record::decode(&bytes[..length]).is_err(), "{length}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut bytes = bytes;
            if let Some(kind) = bytes.first_mut() {
                *kind %= 4;
            }
            if let Ok(record) = Record::decode(&bytes) {
                let again = record.encode();
                prop_assert_eq!(Record::decode(&again), Ok(record));
            }
        }
    }
}
