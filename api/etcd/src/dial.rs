//! Streams to other members: TCP, with or without TLS.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use kelson_raft::{Connection, Dial, Dialing};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::Error;
use crate::tls::{own, roots, wrong};

/// What TLS towards other members is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerTls {
    /// The certificate that this member shows, and its key, both PEM; `None` shows none.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The authorities of other members' certificates, PEM. `None` takes any certificate, as etcd does with generated
    /// ones: what is sent is encrypted, and nothing is known of who reads it.
    pub authority: Option<PathBuf>,
}

/// Dials `http` and `https` URLs.
pub struct PeerDial {
    tls: Option<PeerTls>,
}

impl PeerDial {
    /// With `tls` for `https` URLs, whose files are read anew for each stream, so that replaced ones are used; without it
    /// only `http` URLs can be reached.
    ///
    /// # Errors
    /// [`Error::Tls`] where a file cannot be read or used.
    pub fn new(tls: Option<PeerTls>) -> Result<Self, Error> {
        tls.as_ref().map(PeerTls::config).transpose()?;
        Ok(PeerDial { tls })
    }

    async fn open(&self, url: &str) -> io::Result<Box<dyn Connection>> {
        let wrong = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why.to_owned());
        let (scheme, address) = url.split_once("://").ok_or_else(|| wrong("not a URL"))?;
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        match (scheme, &self.tls) {
            ("http", _) => Ok(Box::new(stream)),
            ("https", Some(tls)) => {
                let config = tls.config().map_err(io::Error::other)?;
                let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                let name = ServerName::try_from(host).map_err(|_| wrong("the host is no name and no address"))?;
                Ok(Box::new(TlsConnector::from(Arc::new(config)).connect(name, stream).await?))
            }
            ("https", None) => Err(wrong("no TLS for other members is set up here")),
            _ => Err(wrong("members are reached by http or https")),
        }
    }
}

impl Dial for PeerDial {
    fn dial<'a>(&'a self, url: &'a str) -> Dialing<'a> {
        Box::pin(self.open(url))
    }
}

impl PeerTls {
    fn config(&self) -> Result<ClientConfig, Error> {
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|error| Error::Tls(format!("open {}: {error}", path.display())))
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| wrong("protocol versions", &error))?.dangerous();
        let verifier: Arc<dyn ServerCertVerifier> = match &self.authority {
            None => Arc::new(Anybody(provider)),
            Some(path) => {
                let roots = Arc::new(roots(&path.display().to_string(), &read(path)?)?);
                let built = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
                built.map_err(|error| wrong(&path.display().to_string(), &error))?
            }
        };
        let builder = builder.with_custom_certificate_verifier(verifier);
        let Some((certificate, key)) = &self.identity else { return Ok(builder.with_no_client_auth()) };
        let name = |path: &PathBuf| path.display().to_string();
        let (chain, parsed) = own(&name(certificate), &read(certificate)?, &name(key), &read(key)?)?;
        builder.with_client_auth_cert(chain, parsed).map_err(|error| wrong(&name(certificate), &error))
    }
}

/// Checks signatures, not whose they are.
#[derive(Debug)]
struct Anybody(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
