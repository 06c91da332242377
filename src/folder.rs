//! Where a cluster keeps its things on disk.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// A data folder: kept, or gone with the process.
pub enum Folder {
    Kept(PathBuf),
    Temporary(TempDir),
}

impl Folder {
    /// The named folder or the default one, made if missing, for its owner alone.
    ///
    /// # Errors
    /// If it cannot be made or written; the text names it and the flag.
    pub fn kept(named: Option<PathBuf>) -> Result<Folder> {
        let path = named.map_or_else(default, Ok)?;
        private(&path)
            .with_context(|| format!("cannot use data dir {} (change it with --data-dir)", path.display()))?;
        Ok(Folder::Kept(path))
    }

    /// A fresh one that is removed at the end.
    ///
    /// # Errors
    /// If the temporary folder of this machine cannot be written.
    pub fn temporary() -> Result<Folder> {
        let folder = tempfile::Builder::new().prefix("kelson-").tempdir();
        Ok(Folder::Temporary(folder.context("cannot make a temporary folder (change it with TMPDIR)")?))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        match self {
            Folder::Kept(path) => path,
            Folder::Temporary(folder) => folder.path(),
        }
    }
}

/// Makes a folder for its owner alone, and checks that it can be written.
fn private(path: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    tempfile::tempfile_in(path).map(|_| ())
}

/// `$XDG_DATA_HOME/kelson`, or `~/.local/share/kelson`.
pub fn default() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_DATA_HOME").filter(|value| !value.is_empty()) {
        Some(base) => PathBuf::from(base),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set; name a folder with --data-dir")?)
            .join(".local/share"),
    };
    Ok(base.join("kelson"))
}
