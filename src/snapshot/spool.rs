//! Keys in the order of a store without its history, put in the order of their revisions: the keys and values wait in
//! a file without a name, and only their places in memory.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};
use kelson_engine::{Revision, Write};
use kelson_wire::pb::mvccpb::KeyValue;

/// See the module's documentation.
pub struct Spool {
    out: BufWriter<File>,
    end: u64,
    /// Modification revision and place; the order of keys breaks ties.
    places: Vec<(i64, u64)>,
}

/// create, version, lease (8 bytes each), length of the key and of the value (4 each).
const HEAD: usize = 32;

impl Spool {
    /// An empty one in `folder`.
    pub fn new(folder: &Path) -> Result<Spool> {
        let file = tempfile::tempfile_in(folder).with_context(|| format!("cannot write in {}", folder.display()))?;
        Ok(Spool { out: BufWriter::with_capacity(1 << 20, file), end: 0, places: Vec::new() })
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Adds a key.
    pub fn push(&mut self, kv: &KeyValue) -> Result<()> {
        let mut head = [0; HEAD];
        head[..8].copy_from_slice(&kv.create_revision.to_le_bytes());
        head[8..16].copy_from_slice(&kv.version.to_le_bytes());
        head[16..24].copy_from_slice(&kv.lease.to_le_bytes());
        head[24..28].copy_from_slice(&u32::try_from(kv.key.len())?.to_le_bytes());
        head[28..].copy_from_slice(&u32::try_from(kv.value.len())?.to_le_bytes());
        for part in [&head[..], &kv.key, &kv.value] {
            self.out.write_all(part).context("cannot write the keys to a temporary file")?;
        }
        self.places.push((kv.mod_revision, self.end));
        self.end += (HEAD + kv.key.len() + kv.value.len()) as u64;
        Ok(())
    }

    /// Visits all in order of revisions; those of one transaction in order of keys.
    pub fn drain(mut self, mut visit: impl FnMut(&Write) -> Result<()>) -> Result<()> {
        self.out.flush().context("cannot write the keys to a temporary file")?;
        let file = self.out.get_ref();
        self.places.sort_unstable();
        let mut at = Revision { main: 0, sub: 0 };
        let mut record = Vec::new();
        for (main, place) in self.places {
            let sub = if main == at.main { at.sub + 1 } else { 0 };
            at = Revision { main, sub };
            let mut head = [0; HEAD];
            file.read_exact_at(&mut head, place)?;
            let (numbers, lengths) = head.split_at(24);
            let number = |index: usize| i64::from_le_bytes(numbers.as_chunks::<8>().0[index]);
            let length = |index: usize| u32::from_le_bytes(lengths.as_chunks::<4>().0[index]) as usize;
            record.resize(length(0) + length(1), 0);
            file.read_exact_at(&mut record, place + HEAD as u64)?;
            let (key, value) = record.split_at(length(0));
            let (create_revision, version, lease) = (number(0), number(1), number(2));
            visit(&Write { at, tombstone: false, key, value, create_revision, version, lease })?;
        }
        Ok(())
    }
}
