//! A snapshot's file: the pages of a backend, and behind them their SHA-256.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use kelson_bolt::Db;
use sha2::{Digest, Sha256};

use crate::progress::Progress;

/// Bytes of the checksum.
pub const SUM: u64 = 32;
/// A file of whole sectors has none behind it.
const SECTOR: u64 = 512;

/// Whether a file of this length ends in a checksum: pages are whole sectors.
pub fn has_sum(length: u64) -> bool {
    length % SECTOR == SUM
}

/// Whether a checksum must be there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sum {
    /// It must, and it must be right.
    Needed,
    /// If it is there it must be right.
    Welcome,
    /// It is not looked at.
    Ignored,
}

/// Opens a snapshot and checks its checksum.
///
/// # Errors
/// If it cannot be read, is damaged or is no snapshot; the text names the file.
pub fn open(path: &Path, sum: Sum) -> Result<Db> {
    let named = || path.display().to_string();
    let file = File::open(path).with_context(|| format!("cannot open {}", named()))?;
    let length = file.metadata().with_context(named)?.len();
    match (has_sum(length), sum) {
        (true, Sum::Needed | Sum::Welcome) => check(&file, length).with_context(named)?,
        (false, Sum::Needed) => bail!(
            "{}: snapshot missing hash but --skip-hash-check=false (set it for a copy of an etcd's member/snap/db)",
            named()
        ),
        _ => {}
    }
    Ok(Db::of(file, path)?)
}

fn check(file: &File, length: u64) -> Result<()> {
    let mut hash = Sha256::new();
    let mut progress = Progress::bytes("checking", length);
    let mut buffer = vec![0; 1 << 20];
    let mut rest = file.take(length - SUM);
    let mut done = 0;
    loop {
        let read = rest.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        done += read as u64;
        progress.set(done);
    }
    progress.finish();
    let mut stored = [0; SUM as usize];
    file.read_exact_at(&mut stored, length - SUM)?;
    if hash.finalize()[..] != stored {
        bail!("its content does not match its SHA-256: it is damaged (--skip-hash-check takes it all the same)");
    }
    Ok(())
}
