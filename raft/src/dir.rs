//! The data directory and the lock that keeps a second process out.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
};

use crate::Error;

/// A directory that belongs to this process until this is dropped.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    /// Holds the lock; the system lets go of it even when the process is killed.
    _lock: File,
}

/// Is there while a directory is being founded.
const UNFINISHED: &str = "unfinished";
const LOCK: &str = "lock";
const LOG: &str = "log";
/// Where a state from another member is put.
#[cfg(feature = "rocksdb")]
pub(crate) const INCOMING: &str = "incoming";
/// Is there once that is whole, until it has taken the old state's place and the log follows it.
#[cfg(feature = "rocksdb")]
const RECEIVED: &str = "received";
const STATE: &str = "state";

impl DataDir {
    /// Creates the directory when missing and locks it.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let dir = DataDir::lock(path)?;
        if dir.is_unfinished() {
            let reason = "a restore or migration into it was not completed: \
                          run it again, or remove the directory to start empty";
            return Err(Error::Mismatch { path: path.to_owned(), reason: reason.to_owned() });
        }
        Ok(dir)
    }

    /// Locks the directory for founding and marks it as unfinished, on stable storage. What an unfinished founding
    /// before has left in it goes.
    pub(crate) fn found(path: &Path) -> Result<Self, Error> {
        let unusable = |what: &str, e: &io::Error| Error::Directory {
            path: path.to_owned(),
            reason: format!("{what}: {}", plain(e)),
        };
        // Before anything is put there: another store's directory is not ours to write in.
        let foreign = |name: &std::ffi::OsStr| name != LOCK && name != "lost+found";
        let unfinished = path.join(UNFINISHED).exists();
        let is_free = match fs::read_dir(path) {
            Ok(mut entries) => unfinished || !entries.any(|entry| entry.is_ok_and(|entry| foreign(&entry.file_name()))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => true,
            Err(e) => return Err(unusable("cannot read it", &e)),
        };
        if !is_free {
            return Err(Error::Directory { path: path.to_owned(), reason: "it is not empty".to_owned() });
        }
        let dir = DataDir::lock(path)?;
        dir.remove_content().map_err(|e| unusable("cannot clear it", &e))?;
        let mark = File::create(path.join(UNFINISHED)).and_then(|mark| mark.sync_all());
        mark.and_then(|()| dir.sync()).map_err(|e| unusable("cannot write to it", &e))?;
        Ok(dir)
    }

    /// Ends the founding: what is in the directory is whole.
    pub(crate) fn founded(self) -> Result<(), Error> {
        let done = self.sync().and_then(|()| fs::remove_file(self.path.join(UNFINISHED))).and_then(|()| self.sync());
        done.map_err(|e| Error::Directory {
            path: self.path.clone(),
            reason: format!("cannot complete it: {}", plain(&e)),
        })
    }

    /// Removes what a founding has put here, as far as that works; the mark goes last.
    pub(crate) fn discard(self) {
        let gone = self.remove_content().and_then(|()| fs::remove_file(self.path.join(UNFINISHED)));
        let gone = gone.and_then(|()| fs::remove_file(self.path.join(LOCK)));
        // A directory that was there before may be a mount point: that it stays is no failure.
        drop(gone.and_then(|()| fs::remove_dir(&self.path)));
    }

    fn is_unfinished(&self) -> bool {
        self.path.join(UNFINISHED).exists()
    }

    fn remove_content(&self) -> io::Result<()> {
        for name in [LOG, STATE] {
            match fs::remove_dir_all(self.path.join(name)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes durable which files there are.
    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()?;
        match self.path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    }

    fn lock(path: &Path) -> Result<Self, Error> {
        let unusable = |what: &str, e: &io::Error| Error::Directory {
            path: path.to_owned(),
            reason: format!("{what}: {}", plain(e)),
        };
        fs::create_dir_all(path).map_err(|e| unusable("cannot create it", &e))?;
        let file = path.join(LOCK);
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(file);
        let lock = lock.map_err(|e| unusable("cannot write to it", &e))?;
        match lock.try_lock() {
            Ok(()) => Ok(DataDir { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Error::InUse(path.to_owned())),
            Err(TryLockError::Error(e)) => Err(unusable("cannot lock it", &e)),
        }
    }

    /// Puts a state that has come whole in the place of the old one. Returns whether the log may have to follow it, which
    /// ends with [`DataDir::settle`]. Whatever happens in between, it begins again at the next start.
    #[cfg(feature = "rocksdb")]
    pub(crate) fn take_received(&self) -> Result<bool, Error> {
        let failed = |e: &io::Error| Error::Directory {
            path: self.path.clone(),
            reason: format!("cannot take a state that has come: {}", plain(e)),
        };
        if !self.path.join(RECEIVED).exists() {
            return Ok(false);
        }
        let incoming = self.path.join(INCOMING);
        if incoming.exists() {
            let taken = match fs::remove_dir_all(self.state()) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
                _ => fs::rename(&incoming, self.state()).and_then(|()| self.sync()),
            };
            taken.map_err(|e| failed(&e))?;
        }
        Ok(true)
    }

    /// The log follows the state: nothing is left to be done for one that has come.
    #[cfg(feature = "rocksdb")]
    pub(crate) fn settle(&self) -> Result<(), Error> {
        let gone = fs::remove_file(self.path.join(RECEIVED)).and_then(|()| self.sync());
        gone.map_err(|e| Error::Directory { path: self.path.clone(), reason: plain(&e) })
    }

    #[cfg(not(feature = "rocksdb"))]
    pub(crate) fn settle(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Where the raft log lies.
    #[cfg(feature = "rocksdb")]
    pub(crate) fn log(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// Where the state lies.
    #[cfg(feature = "rocksdb")]
    pub(crate) fn state(&self) -> PathBuf {
        self.path.join(STATE)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Says that what is in [`INCOMING`] is whole, on stable storage.
#[cfg(feature = "rocksdb")]
pub(crate) fn mark_received(path: &Path) -> io::Result<()> {
    File::create(path.join(RECEIVED))?.sync_all()?;
    File::open(path)?.sync_all()
}

/// An error's text without the number that the standard library appends.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    text[..end].to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_opener_is_told_that_the_directory_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er");
        let held = DataDir::open(&path).unwrap();
        let error = DataDir::open(&path).unwrap_err();
        assert_eq!(error.to_string(), format!("data directory {} is in use by another process", path.display()));
        drop(held);
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn a_path_that_cannot_be_a_directory_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, b"").unwrap();
        let path = file.join("data");
        let error = DataDir::open(&path).unwrap_err().to_string();
        assert_eq!(error, format!("cannot use data directory {}: cannot create it: not a directory", path.display()));
    }
}
