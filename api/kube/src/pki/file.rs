//! Certificates and keys on disk.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::Identity;
use crate::Error;

/// Makes the directory, for its owner alone.
pub fn create_directory(directory: &Path) -> Result<(), Error> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed(directory))
}

/// Reads `<name>.crt` and `<name>.key`; `None` if either is absent.
pub fn load(directory: &Path, name: &str) -> Result<Option<Identity>, Error> {
    let certificate = read(&directory.join(format!("{name}.crt")))?;
    let key = read(&directory.join(format!("{name}.key")))?;
    Ok(certificate.zip(key).map(|(certificate, key)| Identity { certificate, key }))
}

/// Writes both files, the key first: a certificate is there only with its key.
pub fn store(directory: &Path, name: &str, identity: &Identity) -> Result<(), Error> {
    write(&directory.join(format!("{name}.key")), &identity.key, 0o600)?;
    write(&directory.join(format!("{name}.crt")), &identity.certificate, 0o644)
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(path)(error)),
    }
}

/// Replaces a file as a whole, so that a crash leaves the old one or the new one.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let mut temporary = PathBuf::from(path);
    temporary.as_mut_os_string().push(format!(".{}", std::process::id()));
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    written.map_err(failed(path))
}

fn failed(path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.display().to_string();
    move |source| Error::File { path: path.clone(), source }
}
