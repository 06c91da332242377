//! Who is at the other end of a connection, as its certificate says.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The verified certificates of a connection's client. Every request of a TLS connection whose client showed one has
/// it among its extensions; requests of other connections have none.
#[derive(Clone, Debug)]
pub struct PeerCertificates {
    found: Arc<Found>,
}

#[derive(Debug)]
struct Found {
    chain: Vec<CertificateDer<'static>>,
    common_name: Option<String>,
}

impl PeerCertificates {
    /// Of a chain that was verified, the client's own certificate first. Parsed once per connection.
    pub(crate) fn new(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let chain: Vec<_> = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        let common_name = common_name(chain.first()?);
        Some(PeerCertificates { found: Arc::new(Found { chain, common_name }) })
    }

    /// The chain in DER, the client's own certificate first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.found.chain
    }

    /// The common name of the client's certificate; `None` where it has none or an empty one.
    pub fn common_name(&self) -> Option<&str> {
        self.found.common_name.as_deref()
    }
}

/// The last common name of a certificate's subject: of several, Go's library takes the last one too.
pub(super) fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let name = parsed.subject().iter_common_name().last()?.as_str().ok()?;
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(names: &[&str]) -> CertificateDer<'static> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut wanted = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        wanted.distinguished_name = rcgen::DistinguishedName::new();
        for name in names {
            wanted.distinguished_name.push(rcgen::DnType::CommonName, *name);
        }
        wanted.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn the_common_name_is_the_clients_own() {
        let peer = PeerCertificates::new(&[certificate(&["alice"]), certificate(&["authority"])]).unwrap();
        assert_eq!((peer.common_name(), peer.chain().len()), (Some("alice"), 2));
        assert_eq!(PeerCertificates::new(&[certificate(&[])]).unwrap().common_name(), None);
        assert!(PeerCertificates::new(&[]).is_none());
    }
}
