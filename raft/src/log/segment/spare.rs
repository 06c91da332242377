//! The next file of the log, made while the present one is being filled, so that no write waits for it.
//!
//! Its blocks are written with zeros beforehand, or come from a file whose entries are purged: writing over blocks that
//! are there already changes nothing of the file system's own, and a sync then has only the data to write.

use rustix::fs::FallocateFlags;
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    thread::JoinHandle,
};

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

pub(super) fn file_name(number: u64) -> String {
    format!("{number:016x}.log")
}

/// The number of the file with this name, if it is one of the log's.
pub(super) fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log").filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

/// A purged file that waits to be used again.
pub(super) const SPARE: &str = "spare";
const UNFINISHED: &str = "unfinished";

/// Makes durable which files there are.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Creates an empty file of the log. One that was prepared and is not wanted is emptied.
pub(super) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)
}

pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// A file being made on a thread of its own.
pub(super) struct Preparation(JoinHandle<io::Result<File>>);

impl Preparation {
    /// Begins to make file `number`, of `size` bytes unless a spare one is there. `None` where threads cannot be had.
    pub(super) fn begin(dir: PathBuf, number: u64, size: u64) -> Option<Preparation> {
        let work = move || prepare(&dir, number, size);
        let thread = std::thread::Builder::new().name("kelson-log-next".to_owned()).spawn(work);
        thread.ok().map(Preparation)
    }

    /// Waits for it. `None` where it could not be made: then the file is made when it is needed, and grows as it is
    /// written, and whatever is wrong with the disk is told then.
    pub(super) fn end(self) -> Option<File> {
        self.0.join().ok()?.ok()
    }
}

fn prepare(dir: &Path, number: u64, size: u64) -> io::Result<File> {
    let path = dir.join(file_name(number));
    let spare = dir.join(SPARE);
    if fs::rename(&spare, &path).is_ok() {
        sync_dir(dir)?;
        return open(&path);
    }
    let unfinished = dir.join(UNFINISHED);
    let made = fill(&unfinished, size).and_then(|file| {
        fs::rename(&unfinished, &path)?;
        sync_dir(dir)?;
        Ok(file)
    });
    if made.is_err() {
        // Its blocks may be just those that somebody else needs now.
        let _ = fs::remove_file(&unfinished);
        let _ = fs::remove_file(&path);
    }
    made
}

fn fill(path: &Path, size: u64) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size) {
        // All of it or nothing: a disk that is nearly full is not filled up with zeros, even for a moment.
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
        Err(error) => return Err(error.into()),
    }
    let mut at = 0;
    while at < size {
        let piece = ZEROS.len().min((size - at) as usize);
        file.write_all_at(&ZEROS[..piece], at)?;
        at += piece as u64;
    }
    file.sync_all()?;
    // What is written over them goes past the page cache, where they would only be in the way.
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    Ok(file)
}

/// Removes what an interrupted preparation has left.
pub(super) fn clean(dir: &Path) {
    // There is hardly ever one.
    let _ = fs::remove_file(dir.join(UNFINISHED));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_made_of_zeros_or_of_the_spare_one_and_failing_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let begin = |number, size| Preparation::begin(dir.path().to_owned(), number, size).unwrap().end();
        assert_eq!(begin(3, 100_000).unwrap().metadata().unwrap().len(), 100_000);
        assert!(fs::read(dir.path().join(file_name(3))).unwrap().iter().all(|byte| *byte == 0));
        fs::write(dir.path().join(SPARE), b"used before").unwrap();
        assert_eq!(begin(4, 100_000).unwrap().metadata().unwrap().len(), 11);
        assert!(!dir.path().join(SPARE).exists());
        fs::create_dir(dir.path().join(file_name(5))).unwrap();
        assert!(begin(5, 10).is_none() && !dir.path().join(UNFINISHED).exists());
    }

    #[test]
    fn names_are_numbers() {
        assert_eq!(number_of(&file_name(77)), Some(77));
        for name in ["77.log", "000012.log", "spare", "zzzzzzzzzzzzzzzz.log"] {
            assert_eq!(number_of(name), None);
        }
    }
}
