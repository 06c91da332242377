//! Opening the log: all that was acknowledged is found again, or it is said what is not.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

use bytes::Bytes;

use super::{
    FIRST, LogFile, Shared,
    frame::{self, DATA, Found, HEAD, SECTOR},
    record::{self, Index, Place, Read},
    spare,
};

/// A log as it was found, and where to go on in its last file.
pub(super) struct Recovered {
    pub(super) shared: Shared,
    pub(super) end: u64,
    pub(super) room: u64,
    pub(super) next: u64,
}

/// Whether there is a log in the directory, of this version or an earlier one.
#[cfg(feature = "rocksdb")]
pub fn has_log(dir: &Path) -> bool {
    dir.join("CURRENT").exists() || numbers(dir).is_ok_and(|numbers| !numbers.is_empty())
}

fn numbers(dir: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for file in fs::read_dir(dir)? {
        found.extend(file?.file_name().to_str().and_then(spare::number_of));
    }
    found.sort_unstable();
    Ok(found)
}

pub(super) fn open(dir: &Path) -> io::Result<Recovered> {
    fs::create_dir_all(dir)?;
    if dir.join("CURRENT").exists() {
        let text = "it is of an earlier version, which kept it in a RocksDB: let that version save a snapshot, and \
                    restore it with this one";
        return Err(corrupt(dir, text));
    }
    spare::clean(dir);
    let mut numbers = numbers(dir)?;
    if numbers.is_empty() {
        spare::create(&dir.join(spare::file_name(1)))?;
        spare::sync_dir(dir)?;
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            spare::sync_dir(parent)?;
        }
        numbers.push(1);
    }
    // Files go from the front; one that came back after those behind it had gone, too, is none of the log any more. That
    // nothing is missing is known from the entries.
    let gap = numbers.array_windows().rposition(|[one, next]| one + 1 != *next).map_or(0, |at| at + 1);
    let mut found = Walk { index: Index::default(), next: 1 };
    let mut files = VecDeque::new();
    let mut active: Option<(u64, usize, usize, usize)> = None;
    for (at, &number) in numbers[gap..].iter().enumerate() {
        let path = dir.join(spare::file_name(number));
        let raw = fs::read(&path)?;
        if at == 0 && number > 1 {
            // Whole before anything of an earlier file went.
            found.next = frame::first_number(&raw).ok_or_else(|| corrupt(&path, "its first frame is damaged"))?;
        }
        let (end, torn) = found.file(number, &raw, &path)?;
        if end == 0 && at > 0 {
            // Prepared, and not begun, or no further than a crash let it.
            fs::remove_file(&path)?;
            continue;
        }
        if let Some((before, ..)) = active.filter(|(before, ..)| before + 1 != number) {
            return Err(corrupt(&dir.join(spare::file_name(before + 1)), "it is empty and later ones are not"));
        }
        let file = spare::open(&path)?;
        active = Some((number, end, torn, raw.len()));
        files.push_back(LogFile { number, file: Arc::new(file) });
    }
    let Some((end, torn, length)) = active.map(|(_, end, torn, length)| (end, torn, length)) else {
        return Err(corrupt(dir, "it has no file"));
    };
    if let (1.., Some(LogFile { file, .. })) = (torn, files.back()) {
        wipe(file, end, torn, length)?;
    } else if let Some(LogFile { file, .. }) = files.back() {
        // A process that was killed between a write and its sync has left what reads well and is not on the disk yet:
        // whoever goes on from it must not lose it any more.
        file.sync_data()?;
    }
    for number in &numbers[..gap] {
        fs::remove_file(dir.join(spare::file_name(*number)))?;
    }
    let room = (length as u64).max(FIRST);
    Ok(Recovered { shared: Shared { index: found.index, files }, end: end as u64, room, next: found.next })
}

/// Removes what a crash has left of a frame, so that nothing of it can be taken for a part of the one that comes there.
fn wipe(file: &File, end: usize, torn: usize, length: usize) -> io::Result<()> {
    let until = (end + torn) / SECTOR * SECTOR;
    file.write_all_at(&vec![0; until.saturating_sub(end)], end as u64)?;
    file.set_len((length / SECTOR * SECTOR) as u64)?;
    file.sync_all()
}

/// What the frames read so far make of the log.
struct Walk {
    index: Index,
    /// Number of the frame that follows.
    next: u64,
}

impl Walk {
    /// Takes in all frames of one file; returns where they end and how much of a torn one is there.
    fn file(&mut self, number: u64, raw: &[u8], path: &Path) -> io::Result<(usize, usize)> {
        let mut at = 0;
        loop {
            let damaged = |what: String| corrupt(path, &format!("at byte {at}: {what}"));
            match frame::next(&raw[at..], self.next).map_err(damaged)? {
                Found::End { torn } => return Ok((at, torn)),
                Found::Frame { body, size } => {
                    let start = (at / SECTOR * DATA + HEAD) as u64;
                    self.frame(number, start, &body).map_err(damaged)?;
                    self.next += 1;
                    at += size;
                }
            }
        }
    }

    fn frame(&mut self, file: u64, start: u64, body: &[u8]) -> Result<(), String> {
        let mut outcome = Ok(());
        record::decode(body, &mut |change| match change {
            Read::Put { index, at, length } => {
                let place = Place { file, at: start + at as u64, length: length as u32 };
                if outcome.is_ok() {
                    outcome = self.index.put(index, place);
                }
            }
            Read::Truncate { from } => self.index.truncate(from),
            Read::Purge { upto } => self.index.purge(upto),
            Read::Meta { name, record } => self.index.set(name, Bytes::copy_from_slice(record)),
        })?;
        outcome
    }
}

fn corrupt(path: &Path, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("log {} is corrupted: {what}", path.display()))
}
