//! The backend on disk: RocksDB, one column family per keyspace.
//!
//! Written without RocksDB's own log, because the raft log is the log. Flushes are atomic over the column families,
//! so the disk always holds the state after some batch. RocksDB checks a checksum on every block that it reads.

use std::cell::{RefCell, RefMut};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rocksdb::{
    BlockBasedOptions, BottommostLevelCompaction, Cache, ColumnFamily, ColumnFamilyDescriptor, CompactOptions, DB,
    DBCompressionType, DBRawIterator, FlushOptions, LogLevel, Options, ReadOptions, WriteBatch, WriteOptions,
};

use crate::backend::{Backend, Batch, READ_CACHE, Space, SpaceKey, Visit};
use crate::{Error, backend};

/// Memory for writes that are not yet on disk: this much being filled and as much again being written out.
const WRITE_BUFFER: usize = 16 << 20;
const WRITE_BUFFERS: i32 = 3;
/// What a memtable grows by; small, so that the size of a small store is told rightly.
const ARENA_BLOCK: usize = 64 << 10;
const BLOCK: usize = 16 << 10;
const BACKGROUND_JOBS: i32 = 2;
const OPEN_FILES: i32 = 512;
/// Most bytes a second that a state which is written beside a running one is flushed with, the time in microseconds over
/// which they are spread, and the bytes of one write. All at once, each memtable would keep disk and cores from client
/// requests for as long as that takes.
const ASIDE_RATE: i64 = 48 << 20;
const ASIDE_SPREAD: i64 = 10_000;
const ASIDE_WRITE: u64 = 128 << 10;
/// One in so many grants of that rate is a compaction's before a flush's: RocksDB's own default.
const ASIDE_FAIRNESS: i32 = 10;
/// Bytes that are asked for ahead, at most, and those that come at a time.
const FETCH_BEHIND: usize = 2 << 10;
const LINE: usize = 64;
/// Bytes read at once by who reads everything.
const READ_AHEAD: usize = 2 << 20;

/// See the module's documentation.
pub struct RocksBackend {
    db: DB,
    path: PathBuf,
    without_log: WriteOptions,
}

impl RocksBackend {
    /// Opens or creates the database in the directory `path`, and its parents where they are missing.
    ///
    /// # Errors
    /// [`Error::Storage`] that names the directory: no permission, in use by another process, damaged.
    pub fn open(path: impl AsRef<Path>) -> Result<RocksBackend, Error> {
        RocksBackend::open_with(path.as_ref(), database_options())
    }

    /// The same for a state that is received while another one in this process, or on this disk, serves requests: it is
    /// written no faster than 48 MiB a second, in small pieces.
    ///
    /// # Errors
    /// As [`RocksBackend::open`].
    pub fn open_aside(path: impl AsRef<Path>) -> Result<RocksBackend, Error> {
        let mut options = database_options();
        options.set_ratelimiter(ASIDE_RATE, ASIDE_SPREAD, ASIDE_FAIRNESS);
        options.set_writable_file_max_buffer_size(ASIDE_WRITE);
        RocksBackend::open_with(path.as_ref(), options)
    }

    fn open_with(path: &Path, mut options: Options) -> Result<RocksBackend, Error> {
        let cannot = |why: String| Error::Storage(format!("cannot open the store in {}: {why}", path.display()));
        std::fs::create_dir_all(path).map_err(|error| cannot(error.to_string()))?;
        crate::check_tails(path).map_err(cannot)?;
        let families = Space::ALL.map(|space| ColumnFamilyDescriptor::new(space.name(), family_options(space)));
        // What is flushed is seldom read soon: copying it into the page cache costs more CPU than all else of a flush.
        options.set_use_direct_io_for_flush_and_compaction(takes_direct_writes(path));
        let db = DB::open_cf_descriptors(&options, path, families).map_err(|error| {
            let text = error.into_string();
            match text.contains("LOCK") || text.contains("lock") {
                true => cannot(format!("another process is using it ({text})")),
                false => cannot(text),
            }
        })?;
        let mut without_log = WriteOptions::default();
        without_log.disable_wal(true);
        Ok(RocksBackend { db, path: path.to_path_buf(), without_log })
    }

    fn family(&self, space: Space) -> Result<&ColumnFamily, Error> {
        self.db.cf_handle(space.name()).ok_or_else(|| self.failed(format!("no column family {}", space.name())))
    }

    fn read_on(&self, space: Space, start: &[u8], end: Option<&[u8]>, again: bool, visit: Visit) -> Result<(), Error> {
        let mut options = ReadOptions::default();
        options.fill_cache(again);
        if let Some(end) = end {
            options.set_iterate_upper_bound(end);
        }
        let mut iterator = self.db.raw_iterator_cf_opt(self.family(space)?, options);
        iterator.seek(start);
        while let Some((key, value)) = iterator.item() {
            if again {
                fetch_behind(value);
            }
            if !visit(key, value)? {
                return Ok(());
            }
            iterator.next();
        }
        iterator.status().map_err(|error| self.failed(error))
    }

    /// All of them, in the order of [`Space::ALL`].
    fn families(&self) -> Result<[&ColumnFamily; Space::ALL.len()], Error> {
        Ok([self.family(Space::Meta)?, self.family(Space::Revisions)?, self.family(Space::Leases)?])
    }

    /// The sum of integer properties over all keyspaces.
    fn sum(&self, properties: [&str; 2]) -> u64 {
        let of = |space: Space| {
            let family = self.db.cf_handle(space.name())?;
            let each = properties.iter().filter_map(|name| self.db.property_int_value_cf(family, *name).ok().flatten());
            Some(each.sum::<u64>())
        };
        Space::ALL.into_iter().filter_map(of).sum()
    }

    fn failed(&self, why: impl std::fmt::Display) -> Error {
        Error::Storage(format!("{}: {why}", self.path.display()))
    }
}

/// Asks for as much memory behind a value as it takes itself, about: the next one of its block lies there, and would have to be
/// waited for.
#[cfg(all(target_arch = "x86_64", not(miri)))]
fn fetch_behind(value: &[u8]) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    let behind = value.as_ptr_range().end;
    for offset in (0..value.len().min(FETCH_BEHIND)).step_by(LINE) {
        // SAFETY: a hint, which may be given of any address, also of one where there is nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(behind.wrapping_add(offset).cast()) };
    }
}

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
fn fetch_behind(_: &[u8]) {}

/// Whether the file system lets files be written past the page cache; not all do.
fn takes_direct_writes(path: &Path) -> bool {
    let probe = path.join("direct.probe");
    let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    let opened = std::fs::OpenOptions::new().write(true).create(true).truncate(true).custom_flags(flags).open(&probe);
    // Whatever keeps it from being removed is met again, and told, by the database.
    let _ = std::fs::remove_file(&probe);
    opened.is_ok()
}

fn database_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_atomic_flush(true);
    options.set_paranoid_checks(true);
    options.set_max_background_jobs(BACKGROUND_JOBS);
    options.set_max_open_files(OPEN_FILES);
    options.set_bytes_per_sync(1 << 20);
    options.set_keep_log_file_num(3);
    options.set_max_log_file_size(4 << 20);
    options.set_log_level(LogLevel::Warn);
    options.set_stats_dump_period_sec(0);
    options
}

fn family_options(space: Space) -> Options {
    let mut blocks = BlockBasedOptions::default();
    let mut options = Options::default();
    match space {
        Space::Revisions => {
            // Without a lock, and with room for a block a little larger than its size.
            blocks.set_block_cache(&Cache::new_hyper_clock_cache(READ_CACHE, BLOCK));
            options.set_write_buffer_size(WRITE_BUFFER);
        }
        // These share the small default cache: meta is one block, leases are read once.
        Space::Meta | Space::Leases => options.set_write_buffer_size(WRITE_BUFFER / 4),
    }
    blocks.set_block_size(BLOCK);
    blocks.set_format_version(5);
    // Every revision that is asked for exists: a filter would cost memory and refuse nothing.
    blocks.set_cache_index_and_filter_blocks(false);
    options.set_block_based_table_factory(&blocks);
    options.set_arena_block_size(ARENA_BLOCK);
    options.set_max_write_buffer_number(WRITE_BUFFERS);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_level_compaction_dynamic_level_bytes(true);
    options
}

impl Backend for RocksBackend {
    fn write(&self, batch: Batch) -> Result<(), Error> {
        let families = self.families()?;
        let mut writes = WriteBatch::default();
        for change in &batch.changes {
            let family = families[change.space as usize];
            match &change.value {
                Some(value) => writes.put_cf(family, &change.key, value),
                None => writes.delete_cf(family, &change.key),
            }
        }
        self.db.write_opt(writes, &self.without_log).map_err(|error| self.failed(error))
    }

    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let found = self.db.get_pinned_cf(self.family(space)?, key).map_err(|error| self.failed(error))?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn multi_get(&self, space: Space, keys: &[SpaceKey]) -> Result<Vec<Option<Bytes>>, Error> {
        let sorted = keys.is_sorted();
        let found = self.db.batched_multi_get_cf(self.family(space)?, keys.iter().map(|key| &key[..]), sorted);
        let found = found.into_iter().map(|value| match value {
            Ok(value) => Ok(value.map(|value| Bytes::copy_from_slice(&value))),
            Err(error) => Err(self.failed(error)),
        });
        found.collect()
    }

    fn scan(&self, space: Space, start: &[u8], end: Option<&[u8]>, visit: Visit) -> Result<(), Error> {
        // Each block is read once: it must not push out what others keep coming back to.
        self.read_on(space, start, end, false, visit)
    }

    fn scan_again(&self, space: Space, start: &[u8], end: Option<&[u8]>, visit: Visit) -> Result<(), Error> {
        self.read_on(space, start, end, true, visit)
    }

    fn flush(&self) -> Result<(), Error> {
        let families = self.families()?;
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db.flush_cfs_opt(&families, &options).map_err(|error| self.failed(error))
    }

    fn size_bytes(&self) -> u64 {
        self.sum(["rocksdb.total-sst-files-size", "rocksdb.cur-size-all-mem-tables"])
    }

    fn in_use_bytes(&self) -> u64 {
        self.sum(["rocksdb.estimate-live-data-size", "rocksdb.cur-size-all-mem-tables"])
    }

    fn compact(&self, space: Space, end: Option<&[u8]>, whole: bool) -> Result<(), Error> {
        // What is only in memory is not looked at otherwise.
        self.flush()?;
        let mut options = CompactOptions::default();
        if whole {
            // Files that the run itself made need no second rewriting.
            options.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
        }
        options.set_exclusive_manual_compaction(false);
        let family = self.family(space)?;
        let failures = || self.db.property_int_value_cf(family, "rocksdb.background-errors").ok().flatten();
        let before = failures();
        self.db.compact_range_cf_opt(family, None::<&[u8]>, end, &options);
        match failures() == before {
            true => Ok(()),
            false => Err(self.failed("a compaction failed; the LOG file there says why")),
        }
    }

    fn interrupt(&self) {
        self.db.cancel_all_background_work(false);
    }

    fn pinned(&self, read: &mut dyn FnMut(&dyn backend::View) -> Result<(), Error>) -> Result<(), Error> {
        read(&self.moment()?)
    }
}

/// The database as it was at one moment: an iterator for each keyspace. What they see lies in files and memtables that they
/// hold, so the snapshot that they all began at is not kept: every file that was compacted while one is would be compacted
/// once more afterwards.
struct Moment<'a> {
    backend: &'a RocksBackend,
    iterators: [RefCell<DBRawIterator<'a>>; Space::ALL.len()],
}

impl RocksBackend {
    fn moment(&self) -> Result<Moment<'_>, Error> {
        let families = self.families()?;
        let snapshot = self.db.snapshot();
        let iterators = families.map(|family| {
            let mut options = ReadOptions::default();
            options.set_snapshot(&snapshot);
            options.fill_cache(false);
            // All of it is read, once and in order.
            options.set_readahead_size(READ_AHEAD);
            RefCell::new(self.db.raw_iterator_cf_opt(family, options))
        });
        Ok(Moment { backend: self, iterators })
    }
}

impl<'a> Moment<'a> {
    fn at(&self, space: Space, start: &[u8]) -> Result<RefMut<'_, DBRawIterator<'a>>, Error> {
        let iterator = self.iterators[space as usize].try_borrow_mut();
        let mut iterator = iterator.map_err(|_| self.backend.failed("a keyspace is read while it is being scanned"))?;
        iterator.seek(start);
        Ok(iterator)
    }
}

impl backend::View for Moment<'_> {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let iterator = self.at(space, key)?;
        let found = iterator.item().filter(|(at, _)| *at == key).map(|(_, value)| Bytes::copy_from_slice(value));
        iterator.status().map_err(|error| self.backend.failed(error))?;
        Ok(found)
    }

    fn scan(&self, space: Space, start: &[u8], end: Option<&[u8]>, visit: Visit) -> Result<(), Error> {
        let mut iterator = self.at(space, start)?;
        while let Some((key, value)) = iterator.item().filter(|(key, _)| end.is_none_or(|end| *key < end)) {
            if !visit(key, value)? {
                return Ok(());
            }
            iterator.next();
        }
        iterator.status().map_err(|error| self.backend.failed(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(pairs: &[(Space, &str, Option<&str>)]) -> Batch {
        let mut batch = Batch::default();
        for &(space, key, value) in pairs {
            match value {
                Some(value) => batch.put(space, key.as_bytes(), Bytes::copy_from_slice(value.as_bytes())),
                None => batch.delete(space, key.as_bytes()),
            }
        }
        batch
    }

    #[test]
    fn what_is_written_is_read_and_survives_when_flushed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/state");
        {
            let backend = RocksBackend::open(&path).unwrap();
            let first = [(Space::Meta, "m", Some("1")), (Space::Revisions, "a", Some("2"))];
            backend.write(batch(&first)).unwrap();
            backend.flush().unwrap();
            backend.write(batch(&[(Space::Revisions, "b", Some("3")), (Space::Meta, "m", None)])).unwrap();
            assert_eq!(backend.get(Space::Meta, b"m").unwrap(), None);
            let keys = ["b", "x", "a"].map(|key| SpaceKey::from_slice(key.as_bytes()));
            let found = backend.multi_get(Space::Revisions, &keys).unwrap();
            assert_eq!(found, [Some("3".into()), None, Some("2".into())]);
            backend.flush().unwrap();
            assert!(backend.size_bytes() > 0);
        }
        let backend = RocksBackend::open(&path).unwrap();
        let scan = |start: &[u8], end| {
            let mut seen = Vec::new();
            let visit = &mut |key: &[u8], _: &[u8]| {
                seen.push(key.to_vec());
                Ok(true)
            };
            backend.scan(Space::Revisions, start, end, visit).unwrap();
            seen
        };
        assert_eq!(scan(b"", None), [b"a", b"b"]);
        assert_eq!(scan(b"a", Some(b"b")), [b"a"]);
        assert_eq!(scan(b"aa", None), [b"b"]);
    }

    #[test]
    fn a_moment_stays_as_it_was_and_no_compaction_waits_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let backend = RocksBackend::open(dir.path()).unwrap();
        let all = |view: &dyn backend::View, space| {
            let mut seen = Vec::new();
            let visit = &mut |key: &[u8], value: &[u8]| {
                seen.push((String::from_utf8_lossy(key).into_owned(), String::from_utf8_lossy(value).into_owned()));
                Ok(true)
            };
            view.scan(space, b"", None, visit).unwrap();
            seen
        };
        let old =
            [(Space::Revisions, "a", Some("1")), (Space::Revisions, "b", Some("1")), (Space::Leases, "l", Some("1"))];
        let new = [(Space::Revisions, "a", None), (Space::Revisions, "c", Some("2")), (Space::Leases, "l", Some("2"))];
        for flushed in [false, true] {
            backend.write(batch(&old)).unwrap();
            backend.write(batch(&[(Space::Revisions, "c", None)])).unwrap();
            if flushed {
                backend.flush().unwrap();
            }
            let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
            let mut read = |view: &dyn backend::View| {
                backend.write(batch(&new)).unwrap();
                Space::ALL.into_iter().try_for_each(|space| backend.compact(space, None, true)).unwrap();
                assert_eq!(backend.db.property_int_value("rocksdb.num-snapshots"), Ok(Some(0)));
                for _ in 0..2 {
                    assert_eq!(all(view, Space::Revisions), [pair("a", "1"), pair("b", "1")]);
                    assert_eq!(all(view, Space::Leases), [pair("l", "1")]);
                }
                assert_eq!(view.get(Space::Revisions, b"b").unwrap(), Some("1".into()));
                assert_eq!(view.get(Space::Revisions, b"aa").unwrap(), None);
                let mut seen = 0;
                let visit = &mut |_: &[u8], _: &[u8]| {
                    seen += 1;
                    assert!(matches!(view.get(Space::Revisions, b"a"), Err(Error::Storage(_))));
                    Ok(true)
                };
                view.scan(Space::Revisions, b"", Some(b"b"), visit)?;
                assert_eq!(seen, 1);
                Ok(())
            };
            backend.pinned(&mut read).unwrap();
            assert_eq!(all(&backend, Space::Revisions), [pair("b", "1"), pair("c", "2")]);
        }
    }

    #[test]
    fn a_directory_in_use_or_unusable_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let _open = RocksBackend::open(dir.path()).unwrap();
        let Err(Error::Storage(text)) = RocksBackend::open(dir.path()) else { panic!("opened twice") };
        assert!(text.contains(&dir.path().display().to_string()) && text.contains("another process"), "{text}");
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let Err(Error::Storage(text)) = RocksBackend::open(&file) else { panic!("opened a file") };
        assert!(text.contains(&file.display().to_string()), "{text}");
    }

    #[test]
    fn an_engine_is_the_same_after_reopening() {
        use crate::{Applied, Command, Engine, command::Put};
        use std::sync::Arc;
        let dir = tempfile::tempdir().unwrap();
        let open = || Engine::open(Arc::new(RocksBackend::open(dir.path()).unwrap())).unwrap();
        let mut engine = open();
        let mut position = Applied { term: 1, node: 1, index: 0 };
        let mut apply = |engine: &mut Engine, command| {
            position.index += 1;
            engine.apply(position, &[command], &[]).unwrap().remove(0).unwrap();
        };
        apply(&mut engine, Command::LeaseGrant { id: 5, ttl: 60 });
        for number in 0..2000 {
            let key = format!("key/{:03}", number % 500).into();
            let lease = if number % 2 == 0 { 5 } else { 0 };
            apply(&mut engine, Command::Put(Put { key, value: vec![7; 300].into(), lease, ..Put::default() }));
        }
        assert_eq!(engine.flush().unwrap(), engine.applied());
        apply(&mut engine, Command::Compact { revision: 1500 });
        apply(&mut engine, Command::Put(Put { key: "last".into(), ..Put::default() }));
        let (hash, applied) = (engine.state_hash().unwrap(), engine.applied());
        drop(engine);
        let mut engine = open();
        assert_eq!((engine.state_hash().unwrap(), engine.applied()), (hash, applied));
        while engine.compaction_step().unwrap() {}
        assert_eq!((engine.state_hash().unwrap(), engine.reader().key_count()), (hash, 501));
        assert_eq!(engine.reader().lease(5).unwrap().keys.len(), 250);
    }
}
