//! A log that lives as long as its process, and, in tests, a disk that can lose what was not synced.

use std::{collections::BTreeMap, io, ops::Range};

use bytes::Bytes;
use parking_lot::RwLock;

use super::disk::{Change, Disk, Meta};

/// Records in a map.
#[derive(Debug, Default)]
pub(crate) struct MemoryDisk {
    content: RwLock<Content>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    entries: BTreeMap<u64, Bytes>,
    metas: BTreeMap<Meta, Bytes>,
    bytes: u64,
}

impl Content {
    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::Put { index, record } => {
                self.bytes += record.len() as u64;
                if let Some(old) = self.entries.insert(*index, record.to_bytes()) {
                    self.bytes -= old.len() as u64;
                }
            }
            Change::Truncate { from } => self.forget(|entries| entries.split_off(from)),
            Change::Purge { upto } => self.forget(|entries| {
                let kept = entries.split_off(&(upto + 1));
                std::mem::replace(entries, kept)
            }),
            Change::Meta { name, record } => {
                self.metas.insert(*name, Bytes::copy_from_slice(record));
            }
        }
    }

    #[cfg(feature = "sim")]
    pub(crate) fn entry(&self, index: u64) -> Option<&Bytes> {
        self.entries.get(&index)
    }

    #[cfg(feature = "sim")]
    pub(crate) fn meta(&self, name: Meta) -> Option<&Bytes> {
        self.metas.get(&name)
    }

    fn forget(&mut self, split: impl FnOnce(&mut BTreeMap<u64, Bytes>) -> BTreeMap<u64, Bytes>) {
        let gone = split(&mut self.entries);
        self.bytes -= gone.values().map(|record| record.len() as u64).sum::<u64>();
    }
}

impl MemoryDisk {
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn with_content(content: Content) -> Self {
        MemoryDisk { content: RwLock::new(content) }
    }

    /// Everything that was written.
    #[cfg(feature = "sim")]
    pub(crate) fn content(&self) -> Content {
        self.content.read().clone()
    }

    #[cfg(test)]
    pub(crate) fn corrupt(&self, index: u64) {
        let mut content = self.content.write();
        let record = content.entries.get_mut(&index).expect("an entry to corrupt");
        let mut bytes = record.to_vec();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        *record = bytes.into();
    }
}

impl Disk for MemoryDisk {
    fn write(&self, changes: &[Change], _sync: bool) -> io::Result<()> {
        let mut content = self.content.write();
        changes.iter().for_each(|change| content.apply(change));
        Ok(())
    }

    fn meta(&self, name: Meta) -> io::Result<Option<Bytes>> {
        Ok(self.content.read().metas.get(&name).cloned())
    }

    fn bounds(&self) -> io::Result<Option<(u64, u64)>> {
        let content = self.content.read();
        let ends = (content.entries.first_key_value(), content.entries.last_key_value());
        Ok(if let (Some((first, _)), Some((last, _))) = ends { Some((*first, *last)) } else { None })
    }

    fn read(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<(u64, Bytes)>> {
        let content = self.content.read();
        let mut bytes = 0;
        let fits = |record: &Bytes| {
            let first = bytes == 0;
            bytes += record.len();
            first || bytes <= max_bytes
        };
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let mut fits = fits;
        Ok(content
            .entries
            .range(range)
            .take_while(|(_, record)| fits(record))
            .map(|(index, record)| (*index, record.clone()))
            .collect())
    }

    fn size(&self) -> u64 {
        self.content.read().bytes
    }

    fn place(&self) -> String {
        "the log in memory".to_owned()
    }
}
