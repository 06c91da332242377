//! The one error type of this crate.

use std::io;
use std::path::PathBuf;

/// Why a file could not be read or written. Every text names the file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused: no permission, no space, a failing disk.
    #[error("{what} {}: {source}", .path.display())]
    Io {
        /// "cannot open", "cannot read", "cannot write".
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// Not such a file at all, or one whose beginning is destroyed.
    #[error("{} is no etcd backend file: {reason}", .path.display())]
    Foreign { path: PathBuf, reason: String },
    /// A page that contradicts the format.
    #[error("{} is damaged: page {page}: {reason}", .path.display())]
    Damaged { path: PathBuf, page: u64, reason: String },
    /// A record that reads back but is not what etcd keeps in that bucket.
    #[error("{} is damaged: bucket {bucket}, record {key}: {reason}", .path.display())]
    Record { path: PathBuf, bucket: String, key: String, reason: String },
    /// The caller gave the writer what the format cannot hold: keys out of order, empty or too long, a value too long.
    #[error("cannot write {}: {reason}", .path.display())]
    Input { path: PathBuf, reason: String },
}
