//! The log on disk: files of our own, written ahead with zeros, filled from front to back and used again.
//!
//! Every write of the log thread is one frame ([`frame`]): one `pwrite` past the page cache ([`direct`]) and one
//! `fdatasync`, on blocks that are there already. A file begins with all small records, so that those before it can go once
//! their entries are purged; one of these becomes the next file. Only one frame is ever under way: what need not be on disk
//! at once waits for the next one.

mod direct;
mod frame;
mod record;
mod recovery;
mod spare;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    fs::{self, File},
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::disk::{Change, Disk};
use crate::log::disk::Meta;
use direct::Direct;
use frame::{DATA, Frame, SECTOR};
use record::{Index, METAS, PUT_HEAD, Place};
use spare::{Preparation, SPARE};

#[cfg(feature = "rocksdb")]
pub use recovery::has_log;

/// Bytes of the first file; each is twice as large as the one before it, so that a small log takes little.
const FIRST: u64 = if cfg!(test) { 16 << 10 } else { 128 << 10 };
/// Bytes of a file, unless a single frame is larger. Small under test, so that files are used again soon.
const LARGEST: u64 = if cfg!(test) { 256 << 10 } else { 16 << 20 };
/// Entries that are rewritten to give back the space of the file that they are in; more stay where they are.
const REWRITTEN: usize = 4 << 20;

pub(crate) struct SegmentDisk {
    dir: PathBuf,
    /// Whether a write that is to be synced really is.
    fsync: bool,
    writer: Mutex<Writer>,
    shared: RwLock<Shared>,
}

/// What readers need.
struct Shared {
    index: Index,
    /// Oldest first; the last one is being filled.
    files: VecDeque<LogFile>,
}

struct LogFile {
    number: u64,
    file: Arc<File>,
}

struct Writer {
    file: Arc<File>,
    direct: Direct,
    /// Number of the file.
    number: u64,
    /// Bytes of the file that are in use.
    end: u64,
    /// Bytes that it is meant to hold.
    room: u64,
    /// Number of the next frame.
    next: u64,
    frame: Frame,
    /// What waits for the next frame; each supersedes what was here of its kind.
    pending: Vec<Change>,
    preparation: Option<Preparation>,
    /// Whether a write has failed. What reached the disk is unknown then.
    failed: bool,
}

impl SegmentDisk {
    /// Opens or creates the log in a directory, which is made where it is missing.
    ///
    /// # Errors
    /// A text that names the directory or file, and what of it does not read back.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let named = |e: io::Error| io::Error::new(e.kind(), format!("log {}: {e}", dir.display()));
        let recovered = recovery::open(dir).map_err(|e| match e.kind() {
            // These name their file.
            io::ErrorKind::InvalidData => e,
            _ => named(e),
        })?;
        let recovery::Recovered { shared, end, room, next } = recovered;
        let Some(LogFile { number, file }) = shared.files.back() else {
            return Err(named(io::Error::other("it has no file")));
        };
        let writer = Writer {
            file: file.clone(),
            direct: Direct::default(),
            number: *number,
            end,
            room,
            next,
            frame: Frame::default(),
            pending: Vec::new(),
            preparation: None,
            failed: false,
        };
        Ok(SegmentDisk { dir: dir.to_owned(), fsync: true, writer: Mutex::new(writer), shared: RwLock::new(shared) })
    }

    /// The same; without `fsync` no write waits for the disk.
    pub(crate) fn with_fsync(mut self, fsync: bool) -> Self {
        self.fsync = fsync;
        self
    }

    /// Writes one frame, in a new file where there is no room left for it in the present one, or where `fresh` asks
    /// for that; and lets go of files that nothing needs any more.
    fn store(&self, writer: &mut Writer, changes: &[Change], fresh: bool) -> io::Result<()> {
        if writer.failed {
            return Err(self.failed(writer.number, &io::Error::other("a write has failed before")));
        }
        // Whatever leaves this function early leaves it unknown what is on disk.
        writer.failed = true;
        let pending = std::mem::take(&mut writer.pending);
        let all = || pending.iter().chain(changes);
        writer.frame.begin(writer.next);
        let bytes: usize = all().map(weight).sum();
        let files = if fresh || writer.end > 0 && writer.end + writer.frame.size_with(bytes) as u64 > writer.room {
            let file = self.turn(writer, fresh).map_err(|e| self.failed(writer.number + 1, &e))?;
            let shared = self.shared.read();
            for name in METAS {
                if let Some(record) = shared.index.meta(name) {
                    push(&mut writer.frame, &Change::Meta { name, record: record.to_vec() })?;
                }
            }
            Some(file)
        } else {
            None
        };
        let mut places = Vec::with_capacity(changes.len());
        let start = writer.end / SECTOR as u64 * DATA as u64;
        for change in all() {
            if let Change::Put { index, record } = change {
                let at = start + (writer.frame.position() + PUT_HEAD) as u64;
                // Longer records than this do not get into a frame.
                places.push((*index, Place { file: writer.number, at, length: record.len() as u32 }));
            }
            push(&mut writer.frame, change)?;
        }
        let raw = writer.frame.finish().ok_or_else(too_long)?;
        let path = self.dir.join(spare::file_name(writer.number));
        let size = raw.len() as u64;
        // Without a sync the page cache is where it is to end up.
        let taken = if self.fsync { writer.direct.write(writer.number, &path, raw, writer.end) } else { Ok(false) };
        let written = taken.and_then(|taken| if taken { Ok(()) } else { writer.file.write_all_at(raw, writer.end) });
        let synced = written.and_then(|()| if self.fsync { writer.file.sync_data() } else { Ok(()) });
        synced.map_err(|e| self.failed(writer.number, &e))?;
        writer.end += size;
        writer.next += 1;
        let gone = {
            let mut shared = self.shared.write();
            shared.files.extend(files);
            let mut places = places.into_iter();
            for change in all() {
                shared.apply(change, &mut places).map_err(|e| self.failed(writer.number, &io::Error::other(e)))?;
            }
            shared.unneeded()
        };
        writer.failed = false;
        self.recycle(writer, gone);
        if writer.preparation.is_none() && writer.end > writer.room / 2 {
            writer.preparation = Preparation::begin(self.dir.clone(), writer.number + 1, next_size(writer.room));
        }
        Ok(())
    }

    /// Goes on to the next file.
    fn turn(&self, writer: &mut Writer, small: bool) -> io::Result<LogFile> {
        let number = writer.number + 1;
        let prepared = writer.preparation.take().and_then(Preparation::end);
        let (file, room) = match prepared {
            Some(file) if !small => {
                let room = file.metadata()?.len().max(FIRST);
                (file, room)
            }
            // An empty file grows as it is written.
            _ => {
                let file = spare::create(&self.dir.join(spare::file_name(number)))?;
                spare::sync_dir(&self.dir)?;
                (file, if small { FIRST } else { next_size(writer.room) })
            }
        };
        writer.file = Arc::new(file);
        (writer.number, writer.end, writer.room) = (number, 0, room);
        Ok(LogFile { number, file: writer.file.clone() })
    }

    /// One of the files becomes the next one, unless somebody still reads it or it is of no good size.
    fn recycle(&self, writer: &Writer, gone: Vec<LogFile>) {
        for LogFile { number, file } in gone {
            let path = self.dir.join(spare::file_name(number));
            let size = file.metadata().map_or(0, |meta| meta.len());
            let fits = (next_size(writer.room)..=2 * LARGEST).contains(&size);
            let done = match Arc::try_unwrap(file) {
                Ok(_) if fits => fs::rename(&path, self.dir.join(SPARE)),
                _ => fs::remove_file(&path),
            };
            if let Err(error) = done {
                // It stays, and the next start passes over it.
                tracing::warn!("log {}: {error}", path.display());
            }
        }
    }

    fn failed(&self, number: u64, error: &io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("log {}: {error}", self.dir.join(spare::file_name(number)).display()))
    }
}

impl Shared {
    /// What a change makes of the index; `places` says where entries lie.
    fn apply(&mut self, change: &Change, places: &mut impl Iterator<Item = (u64, Place)>) -> Result<(), String> {
        match change {
            Change::Put { .. } => {
                let Some((index, place)) = places.next() else { return Err("an entry has no place".to_owned()) };
                self.index.put(index, place)?;
            }
            Change::Truncate { from } => self.index.truncate(*from),
            Change::Purge { upto } => self.index.purge(*upto),
            Change::Meta { name, record } => self.index.set(*name, Bytes::copy_from_slice(record)),
        }
        Ok(())
    }

    /// Takes out the files in front of the first that holds an entry, never the one that is being filled.
    fn unneeded(&mut self) -> Vec<LogFile> {
        let oldest = self.index.oldest_file().unwrap_or(u64::MAX);
        let count = self.files.iter().take_while(|file| file.number < oldest).count();
        self.files.drain(..count.min(self.files.len().saturating_sub(1))).collect()
    }
}

fn next_size(room: u64) -> u64 {
    (room * 2).clamp(FIRST, LARGEST)
}

/// No change takes more bytes in a frame.
fn weight(change: &Change) -> usize {
    PUT_HEAD
        + match change {
            Change::Put { record, .. } => record.len(),
            Change::Meta { record, .. } => record.len(),
            Change::Truncate { .. } | Change::Purge { .. } => 0,
        }
}

fn push(frame: &mut Frame, change: &Change) -> io::Result<()> {
    let (start, parts) = record::encode(change).ok_or_else(too_long)?;
    frame.push(start.bytes());
    parts.into_iter().for_each(|part| frame.push(part));
    Ok(())
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "a record of 4 GiB or more does not fit into the log")
}

fn supersedes(new: &Change, old: &Change) -> bool {
    match (new, old) {
        (Change::Purge { upto }, Change::Purge { upto: before }) => upto >= before,
        (Change::Meta { name, .. }, Change::Meta { name: before, .. }) => name == before,
        _ => false,
    }
}

impl Disk for SegmentDisk {
    fn write(&self, changes: &[Change], sync: bool) -> io::Result<()> {
        let writer = &mut *self.writer.lock();
        let may_wait = |change: &Change| matches!(change, Change::Purge { .. } | Change::Meta { .. });
        if sync || !changes.iter().all(may_wait) {
            return self.store(writer, changes, false);
        }
        let mut shared = self.shared.write();
        for change in changes {
            shared.apply(change, &mut std::iter::empty()).map_err(io::Error::other)?;
            writer.pending.retain(|old| !supersedes(change, old));
            writer.pending.push(change.clone());
        }
        Ok(())
    }

    fn meta(&self, name: Meta) -> io::Result<Option<Bytes>> {
        Ok(self.shared.read().index.meta(name))
    }

    fn bounds(&self) -> io::Result<Option<(u64, u64)>> {
        Ok(self.shared.read().index.bounds())
    }

    fn read(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<(u64, Bytes)>> {
        let mut places = Vec::new();
        {
            let shared = self.shared.read();
            let Some((first, last)) = shared.index.bounds() else { return Ok(Vec::new()) };
            let mut bytes = 0;
            for index in range.start.max(first)..range.end.min(last + 1) {
                let Some(place) = shared.index.place(index) else { break };
                bytes += place.length as usize;
                if bytes > max_bytes && !places.is_empty() {
                    break;
                }
                let Some(file) = shared.files.iter().rfind(|file| file.number == place.file) else { break };
                places.push((index, place, file.file.clone()));
            }
        }
        let read = |(index, place, file): (u64, Place, Arc<File>)| {
            let (from, length) = ((place.at % DATA as u64) as usize, place.length as usize);
            let start = frame::offset(place.at - from as u64);
            let mut raw = vec![0; (from + length).div_ceil(DATA) * SECTOR];
            file.read_exact_at(&mut raw, start).map_err(|e| self.failed(place.file, &e))?;
            let record = frame::data(&raw, from, length).unwrap_or_default();
            Ok((index, Bytes::from(record)))
        };
        places.into_iter().map(read).collect()
    }

    fn compact(&self) -> io::Result<()> {
        let writer = &mut *self.writer.lock();
        let bounds = self.shared.read().index.bounds();
        let mut kept = Vec::new();
        if let Some((first, last)) = bounds {
            let entries = self.read(first..last + 1, REWRITTEN)?;
            if entries.len() as u64 == last - first + 1 {
                kept.extend(entries.into_iter().map(|(index, record)| Change::Put { index, record: record.into() }));
            }
        }
        self.store(writer, &kept, true)?;
        match fs::remove_file(self.dir.join(SPARE)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.failed(writer.number, &e)),
            _ => Ok(()),
        }
    }

    fn size(&self) -> u64 {
        let files = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        files.map(|file| file.metadata().map_or(0, |meta| meta.len())).sum()
    }

    fn place(&self) -> String {
        format!("log {}", self.dir.display())
    }
}

impl Drop for SegmentDisk {
    fn drop(&mut self) {
        // Nobody else may be at work in the directory afterwards.
        drop(self.writer.get_mut().preparation.take().and_then(Preparation::end));
    }
}
