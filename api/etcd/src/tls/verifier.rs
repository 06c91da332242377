//! Which client certificates are let in: those of the authority, not revoked, and with an allowed name.

use std::collections::HashSet;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use super::{certificates, identity, wrong};
use crate::Error;

/// Whose certificates are accepted, beyond those of the authority.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Allowed {
    /// Everybody's.
    #[default]
    All,
    /// Certificates with one of these common names.
    CommonNames(Vec<String>),
    /// Certificates for one of these host names or addresses.
    Hostnames(Vec<String>),
}

impl Allowed {
    fn accepts(&self, certificate: &CertificateDer<'_>) -> bool {
        match self {
            Allowed::All => true,
            Allowed::CommonNames(names) => identity::common_name(certificate).is_some_and(|name| names.contains(&name)),
            Allowed::Hostnames(hosts) => {
                let Ok(parsed) = ParsedCertificate::try_from(certificate) else { return false };
                let is_for = |host: &String| {
                    ServerName::try_from(host.as_str()).is_ok_and(|name| verify_server_name(&parsed, &name).is_ok())
                };
                hosts.iter().any(is_for)
            }
        }
    }
}

/// The authorities of a PEM file's content.
pub(crate) fn roots(what: &str, pem: &[u8]) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(what, pem)? {
        roots.add(certificate).map_err(|error| wrong(what, &error))?;
    }
    Ok(roots)
}

/// The serial numbers that a revocation list names. Like etcd, any certificate with such a number is refused, whoever
/// issued it. `content` is DER, or PEM.
pub(super) fn revoked(what: &str, content: &[u8]) -> Result<HashSet<Vec<u8>>, Error> {
    let unwrapped;
    let der = if content.starts_with(b"-----BEGIN") {
        unwrapped = x509_parser::pem::parse_x509_pem(content).map_err(|error| wrong(what, &error))?.1;
        unwrapped.contents.as_slice()
    } else {
        content
    };
    let (_, list) = CertificateRevocationList::from_der(der).map_err(|error| wrong(what, &error))?;
    Ok(list.iter_revoked_certificates().map(|revoked| revoked.serial().to_bytes_be()).collect())
}

/// Lets in the certificates of `roots` that are neither `revoked` nor outside of `allowed`.
pub(super) fn new(
    roots: RootCertStore,
    provider: Arc<rustls::crypto::CryptoProvider>,
    revoked: HashSet<Vec<u8>>,
    allowed: Allowed,
) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| wrong("client authority", &error))?;
    Ok(Arc::new(Verifier { inner, revoked, allowed }))
}

#[derive(Debug)]
struct Verifier {
    inner: Arc<dyn ClientCertVerifier>,
    revoked: HashSet<Vec<u8>>,
    allowed: Allowed,
}

impl Verifier {
    fn is_revoked(&self, certificate: &CertificateDer<'_>) -> bool {
        if self.revoked.is_empty() {
            return false;
        }
        // What does not parse cannot be shown to be on no list.
        X509Certificate::from_der(certificate)
            .map_or(true, |(_, parsed)| self.revoked.contains(&parsed.tbs_certificate.serial.to_bytes_be()))
    }
}

impl ClientCertVerifier for Verifier {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        if std::iter::once(end_entity).chain(intermediates).any(|certificate| self.is_revoked(certificate)) {
            return Err(CertificateError::Revoked.into());
        }
        if !self.allowed.accepts(end_entity) {
            return Err(rustls::Error::General("client certificate authentication failed".into()));
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
