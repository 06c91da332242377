//! TLS on both sides: what the gateway serves with, and how it calls kubelets.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Authority, Identity, subject_of};
use crate::{Error, User};

/// The one implementation of cryptography that is linked.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// What the gateway serves with.
#[derive(Clone)]
pub struct ServerTls {
    pub(crate) config: Arc<ServerConfig>,
    clients: Arc<dyn ClientCertVerifier>,
}

impl Authority {
    /// Serves with `identity`, and takes client certificates of this authority as proof of who calls.
    ///
    /// # Errors
    /// If certificate and key do not go together.
    pub fn server_tls(&self, identity: &Identity) -> Result<ServerTls, Error> {
        let roots = Arc::new(roots(&self.certificate)?);
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
            .build()
            .map_err(|error| Error::Certificate(error.to_string()))?;
        let lenient = Arc::new(Lenient { hints: roots.subjects(), provider: provider() });
        let (chain, key) = parts(identity)?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(lenient)
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(ServerTls { config: Arc::new(config), clients })
    }
}

impl ServerTls {
    /// Whom a connection speaks for: nobody without a certificate, or with one that this cluster did not sign.
    pub(crate) fn user(&self, certificates: Option<&[CertificateDer<'_>]>) -> User {
        let Some([end_entity, intermediates @ ..]) = certificates else { return User::anonymous() };
        if self.clients.verify_client_cert(end_entity, intermediates, UnixTime::now()).is_err() {
            return User::anonymous();
        }
        let Ok((_, certificate)) = X509Certificate::from_der(end_entity) else { return User::anonymous() };
        let (name, mut groups) = subject_of(&certificate);
        if name.is_empty() {
            return User::anonymous();
        }
        groups.retain(|group| group != "system:unauthenticated");
        groups.push("system:authenticated".into());
        User { name, groups }
    }
}

fn roots(authority: &str) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        let certificate = certificate.map_err(|error| Error::Certificate(error.to_string()))?;
        roots.add(certificate)?;
    }
    Ok(roots)
}

fn parts(identity: &Identity) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    let bad = |error: rustls_pki_types::pem::Error| Error::Certificate(error.to_string());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).collect();
    Ok((chain.map_err(bad)?, PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(bad)?))
}

/// Lets every client certificate through the handshake: a stranger is to be told 401 by HTTP, as kube-apiserver does,
/// not to see a broken connection. Who the client is, is decided afterwards. That it holds the key is proven here.
#[derive(Debug)]
struct Lenient {
    hints: Vec<DistinguishedName>,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for Lenient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// How the gateway calls the kubelet of `node`: as `identity`, trusting certificates of `authority` for the address
/// called or for the node's name.
///
/// # Errors
/// If the identity is of no use.
pub(crate) fn kubelet_client(identity: &Identity, authority: &str, node: &str) -> Result<ClientConfig, Error> {
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(authority)?), provider())
        .build()
        .map_err(|error| Error::Certificate(error.to_string()))?;
    let verifier = Arc::new(NodeVerifier { inner, subject: format!("system:node:{node}") });
    let (chain, key) = parts(identity)?;
    Ok(ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(chain, key)?)
}

/// Takes a certificate of the cluster's authority that names the address, or the node itself.
#[derive(Debug)]
struct NodeVerifier {
    inner: Arc<WebPkiServerVerifier>,
    subject: String,
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // The name is looked at last: the chain of trust holds.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.names_node(end_entity) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
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

impl NodeVerifier {
    fn names_node(&self, certificate: &CertificateDer<'_>) -> bool {
        X509Certificate::from_der(certificate).is_ok_and(|(_, certificate)| subject_of(&certificate).0 == self.subject)
    }
}
