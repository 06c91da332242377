//! `kelson snapshot save`, and the fetching that it shares with `kelson migrate`.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kelson_wire::remote::{SnapshotStream, TransferError};
use sha2::{Digest, Sha256};

use super::Save;
use super::file::SUM;
use crate::progress::Progress;

/// A file that is removed unless it gets its real name.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        // Gone already where it was renamed.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Fetches into FILE.part, checks, syncs, renames.
pub async fn run(options: Save) -> Result<()> {
    if options.endpoints.contains(',') {
        bail!("--endpoints {}: a snapshot is one member's, name one endpoint", options.endpoints);
    }
    let (transfer, _) = super::connect(&[options.endpoints], &options.door, "--endpoints").await?;
    let stream = transfer.snapshot().await?;
    let name = options.file.file_name().with_context(|| format!("{} names no file", options.file.display()))?;
    let mut part_name = name.to_owned();
    part_name.push(".part");
    let part = Part(options.file.with_file_name(part_name));
    let failed = || format!("cannot write {}", part.0.display());
    let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part.0);
    let file = opened.with_context(failed)?;
    let fetched = fetch(stream, &file, &part.0).await?;
    file.sync_all().with_context(failed)?;
    std::fs::rename(&part.0, &options.file)
        .with_context(|| format!("cannot rename {} to {}", part.0.display(), options.file.display()))?;
    let folder = options.file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .with_context(|| format!("cannot sync {}", folder.display()))?;
    println!("Snapshot saved at {}", options.file.display());
    if !fetched.version.is_empty() {
        println!("Server version {}", fetched.version);
    }
    Ok(())
}

/// What was fetched.
pub struct Fetched {
    pub version: String,
}

/// Why nothing came.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Transfer(#[from] TransferError),
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

/// Writes a snapshot with its checksum behind it, and checks that against what came.
pub async fn fetch(mut stream: SnapshotStream, file: &File, path: &Path) -> Result<Fetched, FetchError> {
    let failed = || format!("cannot write {}", path.display());
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let mut hash = Sha256::new();
    let mut held: Vec<u8> = Vec::new();
    let mut version = String::new();
    let mut progress: Option<Progress> = None;
    let mut done = 0;
    while let Some(piece) = stream.next().await? {
        version = piece.version;
        let whole = done + piece.blob.len() as u64 + piece.remaining_bytes;
        done += piece.blob.len() as u64;
        progress.get_or_insert_with(|| Progress::bytes("fetching", whole)).set(done);
        // The last bytes of all are the checksum, however they are cut into pieces.
        held.extend_from_slice(&piece.blob);
        let ready = held.len().saturating_sub(SUM as usize);
        hash.update(&held[..ready]);
        out.write_all(&held[..ready]).with_context(failed)?;
        held.drain(..ready);
    }
    if let Some(progress) = progress {
        progress.finish();
    }
    let written = done.saturating_sub(SUM);
    if written == 0 || held.len() as u64 != SUM || written % 512 != 0 {
        return Err(
            anyhow::anyhow!("sha256 checksum not found [bytes: {done}]: the snapshot broke off, try again").into()
        );
    }
    if hash.finalize()[..] != held[..] {
        return Err(
            anyhow::anyhow!("the snapshot does not match its SHA-256: it was damaged on its way, try again").into()
        );
    }
    out.write_all(&held).and_then(|()| out.flush()).with_context(failed)?;
    Ok(Fetched { version })
}
