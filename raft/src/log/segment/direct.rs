//! Writes past the page cache.
//!
//! A frame is written once, synced at once and hardly ever read: in the page cache it would be one more copy, and one more
//! pass over its pages at the sync. Not every file system takes such writes, nor of whole sectors of 512 bytes; the page cache
//! does.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

/// What memory has to be a multiple of to be written from.
pub(super) const ALIGNMENT: usize = 4096;

/// The way to the file that is being filled.
#[derive(Debug, Default)]
pub(super) struct Direct {
    file: Option<(u64, File)>,
    /// They are not taken here.
    refused: bool,
}

impl Direct {
    /// One that goes to this file, or is refused without one.
    #[cfg(test)]
    pub(super) fn of(file: Option<(u64, File)>) -> Self {
        Direct { refused: file.is_none(), file }
    }

    /// Writes `raw` at a place of file `number`, which `path` names. `false` where such writes are not taken: it is to be
    /// written otherwise then.
    ///
    /// # Errors
    /// What else went wrong: what is there now is unknown.
    pub(super) fn write(&mut self, number: u64, path: &Path, raw: &[u8], at: u64) -> io::Result<bool> {
        if self.refused {
            return Ok(false);
        }
        let written = self.open(number, path).and_then(|file| file.write_all_at(raw, at));
        match written {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                (self.file, self.refused) = (None, true);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn open(&mut self, number: u64, path: &Path) -> io::Result<&File> {
        if self.file.as_ref().is_none_or(|(open, _)| *open != number) {
            let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
            self.file = Some((number, OpenOptions::new().write(true).custom_flags(flags).open(path)?));
        }
        self.file.as_ref().map(|(_, file)| file).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

#[cfg(test)]
mod tests {
    use aligned_vec::{AVec, ConstAlign};

    use super::*;

    #[test]
    fn what_is_written_is_there_and_what_is_not_taken_is_left_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, [1; 2048]).unwrap();
        let mut raw: AVec<u8, ConstAlign<ALIGNMENT>> = AVec::new(ALIGNMENT);
        raw.resize(1024, 7);
        let mut direct = Direct::default();
        let before = std::fs::read(&path).unwrap();
        let taken = direct.write(1, &path, &raw, 512).unwrap();
        let expected = if taken { [vec![1; 512], vec![7; 1024], vec![1; 512]].concat() } else { before };
        assert_eq!(std::fs::read(&path).unwrap(), expected);
        // A file system in memory takes pieces of any length, a disk does not; and who was refused once does not ask again.
        if !direct.write(1, &path, &raw[..100], 512).unwrap() {
            assert!(!direct.write(1, &path, &raw, 512).unwrap());
        }
        assert!(!Direct::of(None).write(1, &path, &raw, 512).unwrap());
        let missing = Direct::default().write(2, &dir.path().join("missing"), &raw, 0);
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
