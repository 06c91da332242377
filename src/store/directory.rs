//! The data directory before anything is opened in it: made for its owner alone, and nobody else's.

use std::fs::{DirBuilder, Metadata};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use serde_json::Value as Json;

use super::log;
use super::settings::Settings;
use super::sockets::plain;

/// What this program keeps in a data directory, or a volume has at its top.
const OURS: &[&str] =
    &["log", "state", "lock", "unfinished", "incoming", "received", "fixtures", "pki", "kubeconfig", "lost+found"];

/// How a data directory was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Not there, or with nothing of ours.
    Empty,
    /// With a member's data.
    Member,
}

/// Looks at the data directory, and makes it where it is missing.
///
/// # Errors
/// Where it cannot be used, or belongs to an etcd.
pub fn prepare(settings: &Settings) -> Result<Found, String> {
    let path = settings.data_path();
    if path.join("member").exists() {
        return Err(format!(
            "{} holds an etcd's data (member/); `kelson migrate` makes a data directory of it that can be served here",
            path.display()
        ));
    }
    for name in names(&path)?.iter().filter(|name| !OURS.contains(&name.as_str())) {
        let fields = [("filename", Json::from(name.as_str())), ("data-dir", settings.data_dir.as_str().into())];
        log::warn("found invalid file under data directory", &fields);
    }
    let failed = |what: &str, why: String| format!("cannot access data directory: {what} {}: {why}", path.display());
    match std::fs::metadata(&path) {
        Ok(found) => check(&path, &found),
        Err(_) => DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(|error| failed("mkdir", plain(&error)))?,
    }
    let touched = tempfile::tempfile_in(&path);
    touched.map_err(|error| failed("open", plain(&error)))?;
    // Where the log is, there is a member: the state alone can be made anew from nothing.
    let log = if settings.wal_dir.is_empty() { path.join("log") } else { settings.wal_dir.clone().into() };
    Ok(if kelson_raft::has_log(&log) || path.join("state").join("CURRENT").exists() {
        Found::Member
    } else {
        Found::Empty
    })
}

fn names(path: &Path) -> Result<Vec<String>, String> {
    let listed = match std::fs::read_dir(path) {
        Ok(listed) => listed,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(format!("failed to list data directory: open {}: {}", path.display(), plain(&error)));
        }
    };
    let mut names: Vec<_> = listed.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

/// A directory that others can look into is worth a warning, no more: a volume's permissions may not be ours to choose.
fn check(path: &Path, found: &Metadata) {
    let mode = found.permissions().mode();
    if mode & 0o777 != 0o700 {
        let error = format!(
            "directory {:?} exist, but the permission is \"{}\". The recommended permission is \"-rwx------\" to \
             prevent possible unprivileged access to the data",
            path.display().to_string(),
            shown(mode)
        );
        log::warn("check file permission", &[("error", error.into())]);
    }
}

/// `drwxr-xr-x`
fn shown(mode: u32) -> String {
    let bits = (0..9).rev().zip("rwxrwxrwx".chars());
    let bits = bits.map(|(bit, letter)| if mode >> bit & 1 == 1 { letter } else { '-' });
    std::iter::once('d').chain(bits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &Path) -> Settings {
        Settings { data_dir: path.display().to_string(), ..Settings::default() }
    }

    #[test]
    fn it_is_made_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new");
        assert_eq!(prepare(&at(&path)), Ok(Found::Empty));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::create_dir(path.join("log")).unwrap();
        std::fs::write(path.join("log/0000000000000001.log"), "x").unwrap();
        assert_eq!(prepare(&at(&path)), Ok(Found::Member));
        assert_eq!(shown(0o40755), "drwxr-xr-x");
    }

    #[test]
    fn an_etcds_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("member")).unwrap();
        assert!(prepare(&at(folder.path())).unwrap_err().contains("kelson migrate"));
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let refused = prepare(&at(&file.join("x"))).unwrap_err();
        assert!(refused.contains("directory"), "{refused}");
    }
}
