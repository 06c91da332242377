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

impl DataDir {
    /// Creates the directory when missing and locks it.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let unusable = |what: &str, e: &io::Error| Error::Directory {
            path: path.to_owned(),
            reason: format!("{what}: {}", plain(e)),
        };
        fs::create_dir_all(path).map_err(|e| unusable("cannot create it", &e))?;
        let file = path.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(file);
        let lock = lock.map_err(|e| unusable("cannot write to it", &e))?;
        match lock.try_lock() {
            Ok(()) => Ok(DataDir { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Error::InUse(path.to_owned())),
            Err(TryLockError::Error(e)) => Err(unusable("cannot lock it", &e)),
        }
    }

    /// Where the raft log lies.
    #[cfg(feature = "rocksdb")]
    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Where the state lies.
    #[cfg(feature = "rocksdb")]
    pub(crate) fn state(&self) -> PathBuf {
        self.path.join("state")
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
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
