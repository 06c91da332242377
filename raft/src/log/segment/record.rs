//! Changes as bytes in the body of a frame, and what they make of the log.
//!
//! `kind (1)`, then: `1 | index (8) | length (4) | record` an entry, `2 | from (8)` a truncation, `3 | upto (8)` a purge,
//! `4 | which (1) | length (4) | record` a small record. Little endian.

use bytes::Bytes;
use std::collections::VecDeque;

use super::super::disk::{Change, Meta};

const PUT: u8 = 1;
const TRUNCATE: u8 = 2;
const PURGE: u8 = 3;
const META: u8 = 4;

/// Bytes of an entry's change in front of its record.
pub(super) const PUT_HEAD: usize = 13;

pub(super) const METAS: [Meta; 4] = [Meta::Identity, Meta::Vote, Meta::Committed, Meta::Purged];

/// What comes before the record of a change, or all of it where there is none.
#[derive(Debug, Default)]
pub(super) struct Start {
    bytes: [u8; PUT_HEAD],
    length: usize,
}

impl Start {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.length..][..bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// A change in parts that follow each other, the first of which is not its record. `None` for a record whose length cannot
/// be written down.
pub(super) fn encode(change: &Change) -> Option<(Start, [&[u8]; 2])> {
    let mut start = Start::default();
    let parts: [&[u8]; 2] = match change {
        Change::Put { index, record } => {
            start.push(&[PUT]);
            start.push(&index.to_le_bytes());
            [&record.head, &record.payload]
        }
        Change::Truncate { from } => {
            start.push(&[TRUNCATE]);
            start.push(&from.to_le_bytes());
            return Some((start, [&[], &[]]));
        }
        Change::Purge { upto } => {
            start.push(&[PURGE]);
            start.push(&upto.to_le_bytes());
            return Some((start, [&[], &[]]));
        }
        Change::Meta { name, record } => {
            start.push(&[META, *name as u8]);
            [record, &[]]
        }
    };
    start.push(&u32::try_from(parts[0].len() + parts[1].len()).ok()?.to_le_bytes());
    Some((start, parts))
}

/// One change of a body that is being read. Records of entries stay where they are: `at` is the first byte of one,
/// counted from the start of the body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read<'a> {
    Put { index: u64, at: usize, length: usize },
    Truncate { from: u64 },
    Purge { upto: u64 },
    Meta { name: Meta, record: &'a [u8] },
}

/// Calls `each` with every change of a body.
pub(super) fn decode<'a>(body: &'a [u8], each: &mut dyn FnMut(Read<'a>)) -> Result<(), String> {
    let mut left = body;
    fn take<'a>(left: &mut &'a [u8], length: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = left.split_at_checked(length).ok_or("a change ends early")?;
        *left = rest;
        Ok(taken)
    }
    fn number(left: &mut &[u8], bytes: usize) -> Result<u64, String> {
        Ok(take(left, bytes)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }
    while !left.is_empty() {
        each(match number(&mut left, 1)? as u8 {
            PUT => {
                let (index, length) = (number(&mut left, 8)?, number(&mut left, 4)? as usize);
                let at = body.len() - left.len();
                take(&mut left, length)?;
                Read::Put { index, at, length }
            }
            TRUNCATE => Read::Truncate { from: number(&mut left, 8)? },
            PURGE => Read::Purge { upto: number(&mut left, 8)? },
            META => {
                let (name, length) = (number(&mut left, 1)? as usize, number(&mut left, 4)? as usize);
                let name = *METAS.get(name).ok_or_else(|| format!("unknown small record {name}"))?;
                Read::Meta { name, record: take(&mut left, length)? }
            }
            kind => return Err(format!("unknown kind of change {kind}")),
        });
    }
    Ok(())
}

/// Where an entry's record lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Number of the file.
    pub(super) file: u64,
    /// First byte in it, tags not counted.
    pub(super) at: u64,
    pub(super) length: u32,
}

/// What there is in the log, and where.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Index of the first entry that is there.
    first: u64,
    places: VecDeque<Place>,
    metas: [Option<Bytes>; METAS.len()],
    /// Every entry up to here is purged.
    purged: Option<u64>,
}

impl Index {
    /// # Errors
    /// An entry that leaves a hole.
    pub(super) fn put(&mut self, index: u64, place: Place) -> Result<(), String> {
        if self.places.is_empty() {
            self.first = index;
        }
        let next = self.first + self.places.len() as u64;
        if index < self.first || index > next {
            return Err(format!("entry {index} does not follow {}", next.saturating_sub(1)));
        }
        // As a key that is put again.
        self.places.truncate((index - self.first) as usize);
        self.places.push_back(place);
        Ok(())
    }

    pub(super) fn truncate(&mut self, from: u64) {
        self.places.truncate(usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX));
    }

    pub(super) fn purge(&mut self, upto: u64) {
        self.purged = self.purged.max(Some(upto));
        while !self.places.is_empty() && self.first <= upto {
            self.places.pop_front();
            self.first += 1;
        }
    }

    pub(super) fn set(&mut self, name: Meta, record: Bytes) {
        self.metas[name as usize] = Some(record);
    }

    pub(super) fn meta(&self, name: Meta) -> Option<Bytes> {
        self.metas[name as usize].clone()
    }

    pub(super) fn bounds(&self) -> Option<(u64, u64)> {
        Some((self.first, self.first + (self.places.len() as u64).checked_sub(1)?))
    }

    pub(super) fn place(&self, index: u64) -> Option<Place> {
        self.places.get(usize::try_from(index.checked_sub(self.first)?).ok()?).copied()
    }

    /// The oldest file that an entry lies in; `None` when there is no entry.
    pub(super) fn oldest_file(&self) -> Option<u64> {
        self.places.front().map(|place| place.file)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::disk::Record;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn changes_survive_the_round_trip() {
        let record = vec![7; 300];
        let changes = [
            Change::Put { index: 9, record: Record { head: vec![7; 30], payload: vec![7; 270].into() } },
            Change::Truncate { from: u64::MAX },
            Change::Purge { upto: 0 },
            Change::Meta { name: Meta::Purged, record: vec![1, 2] },
        ];
        let mut body = Vec::new();
        for change in &changes {
            let (start, parts) = encode(change).unwrap();
            body.extend_from_slice(start.bytes());
            parts.iter().for_each(|part| body.extend_from_slice(part));
        }
        let mut read = Vec::new();
        decode(&body, &mut |change| read.push(change)).unwrap();
        let expected = [
            Read::Put { index: 9, at: PUT_HEAD, length: 300 },
            Read::Truncate { from: u64::MAX },
            Read::Purge { upto: 0 },
            Read::Meta { name: Meta::Purged, record: &[1, 2] },
        ];
        assert_eq!(read, expected);
        assert_eq!(&body[PUT_HEAD..][..300], record);
        for length in [1, 5, 12, 300, body.len() - 1] {
            assert!(decode(&body[..length], &mut |_| ()).is_err(), "{length}");
        }
        assert!(METAS.iter().enumerate().all(|(at, name)| *name as usize == at));
    }

    #[test]
    fn an_index_knows_its_entries_and_refuses_holes() {
        let place = |at| Place { file: at / 3, at, length: 1 };
        let mut index = Index::default();
        (5..12).for_each(|at| index.put(at, place(at)).unwrap());
        assert!(index.put(13, place(13)).is_err());
        index.truncate(10);
        index.put(10, place(100)).unwrap();
        index.purge(6);
        assert_eq!((index.bounds(), index.oldest_file()), (Some((7, 10)), Some(2)));
        assert_eq!((index.place(10).unwrap().at, index.place(6).is_none()), (100, true));
        index.purge(50);
        assert_eq!((index.bounds(), index.oldest_file()), (None, None));
        index.put(51, place(51)).unwrap();
        assert_eq!(index.bounds(), Some((51, 51)));
    }

    proptest! {
        #[test]
        fn any_body_is_read_or_refused(body in prop::collection::vec(0..6_u8, 0..100)) {
            let _ = decode(&body, &mut |_| ());
        }
    }
}
