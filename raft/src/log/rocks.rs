//! The log in a RocksDB of its own.
//!
//! Every write of the log thread is one RocksDB batch: one record of its write-ahead log and, when asked for, one
//! `fdatasync`. Entries lie under `e` + index (big endian), the small records under `m` + name.

use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use rocksdb::{
    DB, DBCompressionType, DBRecoveryMode, Direction, IteratorMode, LogLevel, Options, ReadOptions, WriteBatch,
    WriteOptions,
};

use super::disk::{Change, Disk, Meta};

/// Memtable size. With the default thresholds most entries are purged before they would leave the memtable.
const WRITE_BUFFER: usize = 32 << 20;

pub(crate) struct RocksDisk {
    db: DB,
    path: PathBuf,
    /// Whether a write that is to be synced really is.
    fsync: bool,
}

impl RocksDisk {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let damaged = |e| io::Error::new(io::ErrorKind::InvalidData, format!("log {e}"));
        kelson_engine::check_tails(path).map_err(damaged)?;
        let db = DB::open(&options(), path).map_err(|e| failed(path, &e))?;
        Ok(RocksDisk { db, path: path.to_owned(), fsync: true })
    }

    /// The same; without `fsync` no write waits for the disk.
    pub(crate) fn with_fsync(self, fsync: bool) -> Self {
        RocksDisk { fsync, ..self }
    }
}

fn options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    // A torn record at the very end is a write that nobody was told about. Anything else that does not read back would
    // be an acknowledged write: refuse to open rather than drop it.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_write_buffer_size(WRITE_BUFFER);
    options.set_max_write_buffer_number(2);
    options.set_arena_block_size(1 << 20);
    options.set_max_background_jobs(2);
    // One writer: none of the machinery for several is needed.
    options.set_allow_concurrent_memtable_write(false);
    options.set_enable_write_thread_adaptive_yield(false);
    // Entries are written once, read rarely and then dropped: compressing them would be work for nothing.
    options.set_compression_type(DBCompressionType::None);
    options.set_target_file_size_base(WRITE_BUFFER as u64);
    options.set_max_open_files(64);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options.set_log_level(LogLevel::Warn);
    options
}

fn failed(path: &Path, error: &rocksdb::Error) -> io::Error {
    let kind =
        if error.kind() == rocksdb::ErrorKind::Corruption { io::ErrorKind::InvalidData } else { io::ErrorKind::Other };
    io::Error::new(kind, format!("log {}: {error}", path.display()))
}

fn entry_key(index: u64) -> [u8; 9] {
    let mut key = [b'e'; 9];
    key[1..].copy_from_slice(&index.to_be_bytes());
    key
}

fn meta_key(name: Meta) -> Vec<u8> {
    let mut key = vec![b'm'];
    key.extend_from_slice(name.name().as_bytes());
    key
}

/// After every entry, before every small record.
const END: [u8; 1] = [b'f'];

impl Disk for RocksDisk {
    fn write(&self, changes: &[Change], sync: bool) -> io::Result<()> {
        let mut batch = WriteBatch::default();
        let mut purged = None;
        for change in changes {
            match change {
                Change::Put { index, record } => batch.put(entry_key(*index), record),
                Change::Truncate { from } => batch.delete_range(entry_key(*from).as_slice(), END.as_slice()),
                Change::Purge { upto } => {
                    batch.delete_range(entry_key(0), entry_key(upto.saturating_add(1)));
                    purged = Some(*upto);
                }
                Change::Meta { name, record } => batch.put(meta_key(*name), record),
            }
        }
        let mut how = WriteOptions::default();
        how.set_sync(sync && self.fsync);
        self.db.write_opt(batch, &how).map_err(|e| failed(&self.path, &e))?;
        if let Some(upto) = purged {
            // Whole files of purged entries go at once instead of through compaction.
            self.db.delete_file_in_range(entry_key(0), entry_key(upto)).map_err(|e| failed(&self.path, &e))?;
        }
        Ok(())
    }

    fn meta(&self, name: Meta) -> io::Result<Option<Bytes>> {
        let found = self.db.get(meta_key(name)).map_err(|e| failed(&self.path, &e))?;
        Ok(found.map(Bytes::from))
    }

    fn bounds(&self) -> io::Result<Option<(u64, u64)>> {
        let end = |mode| match self.db.iterator_opt(mode, entries()).next() {
            None => Ok(None),
            Some(Err(e)) => Err(failed(&self.path, &e)),
            Some(Ok((key, _))) => self.index(&key).map(Some),
        };
        let first = end(IteratorMode::Start)?;
        let last = end(IteratorMode::End)?;
        Ok(first.zip(last))
    }

    fn read(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<(u64, Bytes)>> {
        let mut found = Vec::new();
        let mut bytes = 0;
        if range.is_empty() {
            return Ok(found);
        }
        let from = entry_key(range.start);
        for item in self.db.iterator_opt(IteratorMode::From(&from, Direction::Forward), entries()) {
            let (key, record) = item.map_err(|e| failed(&self.path, &e))?;
            let index = self.index(&key)?;
            bytes += record.len();
            if index >= range.end || (bytes > max_bytes && !found.is_empty()) {
                break;
            }
            found.push((index, Bytes::from(record)));
        }
        Ok(found)
    }

    fn compact(&self) -> io::Result<()> {
        // With the memtable goes the write-ahead log that it was kept for.
        self.db.flush().map_err(|e| failed(&self.path, &e))?;
        self.db.compact_range(None::<&[u8]>, None::<&[u8]>);
        Ok(())
    }

    fn interrupt(&self) {
        self.db.cancel_all_background_work(false);
    }

    fn size(&self) -> u64 {
        let mut bytes = 0;
        if let Ok(files) = std::fs::read_dir(&self.path) {
            for file in files.flatten() {
                bytes += file.metadata().map_or(0, |meta| meta.len());
            }
        }
        bytes
    }

    fn place(&self) -> String {
        format!("log {}", self.path.display())
    }
}

impl RocksDisk {
    fn index(&self, key: &[u8]) -> io::Result<u64> {
        let raw = key.strip_prefix(b"e").and_then(|raw| raw.try_into().ok()).map(u64::from_be_bytes);
        raw.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("log {}: a key that no entry has", self.path.display()))
        })
    }
}

/// Reads of entries only, without filling the block cache with what is read once.
fn entries() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(b"e".to_vec());
    options.set_iterate_upper_bound(END.to_vec());
    options.fill_cache(false);
    options
}
