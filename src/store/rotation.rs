//! A log file that is put aside when it is full.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use time::macros::format_description;

/// When a file is full, and how many old ones are kept: etcd's `log-rotation-config-json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Rotation {
    /// Megabytes; 0 means 100.
    pub maxsize: u64,
    /// Days after which an old file is removed; 0 keeps them.
    pub maxage: u64,
    /// Old files to keep; 0 keeps all.
    pub maxbackups: usize,
    /// Names old files by local time. Only UTC is done.
    pub localtime: bool,
    /// Compresses old files. Not done.
    pub compress: bool,
}

impl Rotation {
    /// Reads the flag.
    ///
    /// # Errors
    /// A text like etcd's.
    pub fn parse(text: &str) -> Result<Rotation, String> {
        serde_json::from_str(text).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => format!("invalid log rotation config: {error}"),
            _ => format!("improperly formatted log rotation config: {error}"),
        })
    }

    fn bytes(&self) -> u64 {
        let megabytes = if self.maxsize == 0 { 100 } else { self.maxsize };
        megabytes.saturating_mul(1 << 20)
    }
}

/// A file that is appended to.
pub struct RotatingFile {
    path: PathBuf,
    file: File,
    written: u64,
    rotation: Option<Rotation>,
}

impl RotatingFile {
    /// Opens or creates a file, and its folder too where it is rotated.
    ///
    /// # Errors
    /// Of the file system.
    pub fn open(path: &Path, rotation: Option<Rotation>) -> io::Result<RotatingFile> {
        if let (Some(_), Some(parent)) = (&rotation, path.parent()) {
            std::fs::create_dir_all(parent)?;
        }
        let file = append(path)?;
        let written = file.metadata()?.len();
        Ok(RotatingFile { path: path.to_path_buf(), file, written, rotation })
    }

    /// Appends, to a new file where this one would grow too large.
    ///
    /// # Errors
    /// Of the file system.
    pub fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64;
        if let Some(rotation) = &self.rotation
            && self.written > 0
            && self.written + length > rotation.bytes()
        {
            self.rotate()?;
        }
        self.file.write_all(line)?;
        self.written += length;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let format = format_description!("[year]-[month]-[day]T[hour]-[minute]-[second].[subsecond digits:3]");
        let stamp = time::OffsetDateTime::now_utc().format(format).unwrap_or_default();
        let (before, after) = self.around();
        std::fs::rename(&self.path, self.path.with_file_name(format!("{before}{stamp}{after}")))?;
        self.file = append(&self.path)?;
        self.written = 0;
        self.clean();
        Ok(())
    }

    /// What the names of old files have before and after their time: `etcd-` and `.log`.
    fn around(&self) -> (String, String) {
        let part = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
        let extension = part(self.path.extension());
        let dot = if extension.is_empty() { "" } else { "." };
        (format!("{}-", part(self.path.file_stem())), format!("{dot}{extension}"))
    }

    /// Removes old files that are too many or too old. What cannot be removed stays.
    fn clean(&self) {
        let (Some(rotation), Some(folder)) = (&self.rotation, self.path.parent()) else { return };
        let (before, after) = self.around();
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let is_old = |name: &str| {
            let stamp = name.strip_prefix(&before).and_then(|rest| rest.strip_suffix(&after));
            stamp.is_some_and(|stamp| stamp.len() == "2026-11-22T22-53-53.376".len())
        };
        let listed = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut old: Vec<_> = listed
            .map(|entry| entry.path())
            .filter(|path| path.file_name().is_some_and(|name| is_old(&name.to_string_lossy())))
            .collect();
        old.sort();
        let too_many = if rotation.maxbackups == 0 { 0 } else { old.len().saturating_sub(rotation.maxbackups) };
        let limit = Duration::from_secs(rotation.maxage.saturating_mul(24 * 3_600));
        let too_old = |path: &Path| {
            let age = std::fs::metadata(path).and_then(|found| found.modified()).ok();
            let age = age.and_then(|at| SystemTime::now().duration_since(at).ok());
            rotation.maxage > 0 && age.is_some_and(|age| age > limit)
        };
        for (at, path) in old.iter().enumerate() {
            if at < too_many || too_old(path) {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_is_put_aside_and_old_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/etcd.log");
        let rotation = Rotation { maxsize: 1, maxbackups: 2, ..Rotation::default() };
        let mut file = RotatingFile::open(&path, Some(rotation)).unwrap();
        let line = [b'x'; 400_000];
        let files = || std::fs::read_dir(path.parent().unwrap()).unwrap().count();
        file.write(&line).unwrap();
        file.write(&line).unwrap();
        assert_eq!(files(), 1);
        for _ in 0..12 {
            file.write(&line).unwrap();
        }
        // Those put aside within one millisecond have one name.
        assert!((2..=3).contains(&files()), "{}", files());
        assert!(std::fs::metadata(&path).unwrap().len() <= 1 << 20);
    }

    #[test]
    fn the_flag_is_read() {
        let read = Rotation::parse(r#"{"maxsize": 5, "maxage": 1}"#).unwrap();
        assert_eq!((read.maxsize, read.maxage, read.bytes()), (5, 1, 5 << 20));
        assert!(Rotation::parse("x").unwrap_err().starts_with("improperly formatted log rotation config: "));
        assert!(Rotation::parse(r#"{"maxsize": "x"}"#).unwrap_err().starts_with("invalid log rotation config: "));
    }
}
