//! TLS from files, read again when they change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use rustls::{ServerConfig, SupportedProtocolVersion, version};

use super::{Allowed, TlsSource, own, protocols, suites, verifier, wrong};
use crate::Error;

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

/// What a listener's TLS is made of.
#[derive(Clone, Debug)]
pub struct TlsOptions {
    /// The server's certificate and what leads from it to its authority, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Clients must show a certificate that comes from an authority in this PEM file; `None` asks for no certificate.
    pub client_authority: Option<PathBuf>,
    /// A revocation list, DER or PEM: certificates with a serial number in it are refused.
    pub revocations: Option<PathBuf>,
    /// Whose certificates are accepted.
    pub allowed: Allowed,
    /// Go's names of the suites for TLS 1.2; empty means all that are supported.
    pub cipher_suites: Vec<String>,
    pub min_version: TlsVersion,
    pub max_version: TlsVersion,
}

impl TlsOptions {
    /// With these files, no client certificates, and everything that is supported.
    pub fn new(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        TlsOptions {
            certificate: certificate.into(),
            key: key.into(),
            client_authority: None,
            revocations: None,
            allowed: Allowed::All,
            cipher_suites: Vec::new(),
            min_version: TlsVersion::Tls12,
            max_version: TlsVersion::Tls13,
        }
    }

    fn paths(&self) -> impl Iterator<Item = &Path> {
        [Some(&self.certificate), Some(&self.key), self.client_authority.as_ref(), self.revocations.as_ref()]
            .into_iter()
            .flatten()
            .map(PathBuf::as_path)
    }

    fn load(&self) -> Result<ServerConfig, Error> {
        let (certificate, key) = (read(&self.certificate)?, read(&self.key)?);
        let name = |path: &Path| path.display().to_string();
        let (chain, key) = own(&name(&self.certificate), &certificate, &name(&self.key), &key)?;
        let mut provider = rustls::crypto::ring::default_provider();
        provider.cipher_suites = suites::select(&self.cipher_suites)?;
        let only_13 = provider.cipher_suites.iter().all(|suite| suite.tls13().is_some());
        let mut versions: Vec<&'static SupportedProtocolVersion> = Vec::new();
        if self.max_version >= TlsVersion::Tls13 {
            versions.push(&version::TLS13);
        }
        if self.min_version <= TlsVersion::Tls12 && !only_13 {
            versions.push(&version::TLS12);
        }
        let provider = Arc::new(provider);
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&versions)
            .map_err(|error| wrong("protocol versions", &error))?;
        let builder = match &self.client_authority {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let roots = verifier::roots(&name(path), &read(path)?)?;
                let revoked = match &self.revocations {
                    None => Default::default(),
                    Some(path) => verifier::revoked(&name(path), &read(path)?)?,
                };
                builder.with_client_cert_verifier(verifier::new(roots, provider, revoked, self.allowed.clone())?)
            }
        };
        let fits = builder.with_single_cert(chain, key);
        let mut config = fits.map_err(|error| wrong(&name(&self.certificate), &error))?;
        config.alpn_protocols = protocols();
        Ok(config)
    }

    /// What tells whether a file was written again: time, size and number of each. A file that is away has none.
    fn stamps(&self) -> Vec<Option<Stamp>> {
        use std::os::unix::fs::MetadataExt;
        let stamp = |path: &Path| {
            let found = std::fs::metadata(path).ok()?;
            Some((found.modified().ok()?, found.len(), found.ino()))
        };
        self.paths().map(stamp).collect()
    }
}

type Stamp = (SystemTime, u64, u64);

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|error| {
        let text = error.to_string();
        let end = text.find(" (os error").unwrap_or(text.len());
        Error::Tls(format!("open {}: {}", path.display(), text[..end].to_lowercase()))
    })
}

/// TLS from files. A handshake that finds one of them changed has all read again: certificates are replaced without a
/// restart. Where the new ones cannot be used the old ones stay, and a warning says why, once per change.
pub struct TlsFiles {
    options: TlsOptions,
    loaded: Mutex<Loaded>,
}

struct Loaded {
    config: Arc<ServerConfig>,
    /// Of the files when they were last read, with whatever result.
    stamps: Vec<Option<Stamp>>,
}

impl TlsFiles {
    /// Reads the files.
    ///
    /// # Errors
    /// [`Error::Tls`] where one cannot be read or used, or a cipher suite is unknown.
    pub fn load(options: TlsOptions) -> Result<Self, Error> {
        // Taken before the files are read: what changes in between is read once more.
        let stamps = options.stamps();
        let config = Arc::new(options.load()?);
        Ok(TlsFiles { options, loaded: Mutex::new(Loaded { config, stamps }) })
    }
}

impl TlsSource for TlsFiles {
    fn config(&self) -> Arc<ServerConfig> {
        let stamps = self.options.stamps();
        let mut loaded = self.loaded.lock();
        if loaded.stamps != stamps {
            loaded.stamps = stamps;
            match self.options.load() {
                Ok(config) => loaded.config = Arc::new(config),
                Err(error) => tracing::warn!(
                    "cert-file" = %self.options.certificate.display(),
                    "key-file" = %self.options.key.display(),
                    %error,
                    "failed to load changed TLS files; keeping those from before"
                ),
            }
        }
        loaded.config.clone()
    }
}
