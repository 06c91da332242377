//! TLS for the server, from PEM files' contents.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::Error;

/// A configuration that shows `chain` and asks clients for a certificate that comes from `client_ca`, where given.
///
/// All arguments are PEM.
///
/// # Errors
/// [`Error::Tls`] where something does not parse or does not fit together.
pub fn server_tls(chain: &[u8], key: &[u8], client_ca: Option<&[u8]>) -> Result<Arc<ServerConfig>, Error> {
    let wrong = |what: &str, error: &dyn std::fmt::Display| Error::Tls(format!("{what}: {error}"));
    let certificates = |what: &str, pem: &[u8]| {
        let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        match parsed {
            Ok(found) if found.is_empty() => Err(wrong(what, &"it holds no certificate")),
            Ok(found) => Ok(found),
            Err(error) => Err(wrong(what, &error)),
        }
    };
    let chain = certificates("server certificate", chain)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| wrong("server key", &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong("protocol versions", &error))?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates("client authority", pem)? {
                roots.add(certificate).map_err(|error| wrong("client authority", &error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| wrong("client authority", &error))?)
        }
    };
    let config = builder.with_single_cert(chain, key).map_err(|error| wrong("server certificate", &error))?;
    Ok(Arc::new(config))
}
