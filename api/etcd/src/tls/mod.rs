//! TLS for the listeners: from PEM files that are read again when they change, or from their contents.

mod files;
mod identity;
mod suites;
mod verifier;

pub use files::{TlsFiles, TlsOptions, TlsVersion};
pub use identity::PeerCertificates;
pub use suites::supported_cipher_suites;
pub use verifier::Allowed;
pub(crate) use verifier::roots;

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

use crate::Error;

/// Where a listener takes its TLS configuration from. Asked at the beginning of every handshake, so that a change
/// reaches the next connection; must not block for long.
pub trait TlsSource: Send + Sync {
    /// The configuration for one handshake, with the protocols that are to be negotiated.
    fn config(&self) -> Arc<ServerConfig>;
}

/// A configuration that never changes.
pub(crate) struct Fixed(Arc<ServerConfig>);

impl Fixed {
    /// Adds the negotiation of HTTP/2 and HTTP/1.1.
    pub(crate) fn new(config: &ServerConfig) -> Self {
        let mut config = config.clone();
        config.alpn_protocols = protocols();
        Fixed(Arc::new(config))
    }
}

impl TlsSource for Fixed {
    fn config(&self) -> Arc<ServerConfig> {
        self.0.clone()
    }
}

fn protocols() -> Vec<Vec<u8>> {
    vec![b"h2".to_vec(), b"http/1.1".to_vec()]
}

/// A configuration that shows `chain` and asks clients for a certificate that comes from `client_ca`, where given.
///
/// All arguments are PEM.
///
/// # Errors
/// [`Error::Tls`] where something does not parse or does not fit together.
pub fn server_tls(chain: &[u8], key: &[u8], client_ca: Option<&[u8]>) -> Result<Arc<ServerConfig>, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong("protocol versions", &error))?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let roots = verifier::roots("client authority", pem)?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| wrong("client authority", &error))?)
        }
    };
    let (chain, key) = own("server certificate", chain, "server key", key)?;
    let config = builder.with_single_cert(chain, key).map_err(|error| wrong("server certificate", &error))?;
    Ok(Arc::new(config))
}

pub(crate) fn wrong(what: &str, error: &dyn std::fmt::Display) -> Error {
    Error::Tls(format!("{what}: {error}"))
}

/// All certificates of a PEM file's content; none is an error. `what` names the file in errors.
fn certificates(what: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match parsed {
        Ok(found) if found.is_empty() => Err(wrong(what, &"it holds no certificate")),
        Ok(found) => Ok(found),
        Err(error) => Err(wrong(what, &error)),
    }
}

/// A server's chain and key, from their files' contents.
pub(crate) fn own(
    chain_name: &str,
    chain: &[u8],
    key_name: &str,
    key: &[u8],
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    let chain = certificates(chain_name, chain)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| wrong(key_name, &error))?;
    Ok((chain, key))
}
