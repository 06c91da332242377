//! Who asks, as far as a request says.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use tonic::Request;

use crate::tls::PeerCertificates;

/// Where a token is sent: by gRPC clients, and by those of the JSON gateway.
const TOKEN: &str = "token";
const AUTHORIZATION: &str = "authorization";
/// On requests that came through a JSON gateway: their connection is the gateway's, and says nothing of who asks.
const GATEWAY: &str = "grpcgateway-accept";

/// Who asks: the bearer of a token, or else the owner of a certificate, or else nobody. Not yet looked up, because
/// that is done when the request is otherwise known to be right, and anew for every request of a stream.
///
/// [`Caller::default`] is nobody.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caller {
    pub(super) token: Option<Arc<str>>,
    pub(super) peer: Option<PeerCertificates>,
}

impl Caller {
    pub(crate) fn of<T>(request: &Request<T>) -> Self {
        let headers: &HeaderMap = request.metadata().as_ref();
        let peer = request.extensions().get::<PeerCertificates>().filter(|_| !headers.contains_key(GATEWAY));
        Self::new(headers.get(TOKEN).or_else(|| headers.get(AUTHORIZATION)), peer)
    }

    /// The bearer of the token in a header, or else the owner of a certificate.
    pub(crate) fn new(given: Option<&HeaderValue>, peer: Option<&PeerCertificates>) -> Self {
        Self { token: given.map(token), peer: peer.cloned() }
    }
}

fn token(given: &HeaderValue) -> Arc<str> {
    // What is not ASCII is no token of ours, but it is one: the request must not pass for one without.
    let given = given.to_str().unwrap_or("?");
    given.strip_prefix("Bearer ").unwrap_or(given).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(metadata: &[(&'static str, &str)], peer: Option<PeerCertificates>) -> (Option<String>, Option<String>) {
        let mut request = Request::new(());
        for (name, value) in metadata {
            request.metadata_mut().append(*name, value.parse().unwrap());
        }
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        let Caller { token, peer } = Caller::of(&request);
        (token.map(|token| token.to_string()), peer.map(|peer| peer.common_name().unwrap_or_default().to_owned()))
    }

    fn named(name: &str) -> Option<PeerCertificates> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::default();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        PeerCertificates::new(&[parameters.self_signed(&key).unwrap().der().clone()])
    }

    #[test]
    fn tokens_come_in_two_fields() {
        assert_eq!(asked(&[], None), (None, None));
        assert_eq!(asked(&[("token", "a.1")], None).0.as_deref(), Some("a.1"));
        assert_eq!(asked(&[("token", "a.1"), ("authorization", "b.2")], None).0.as_deref(), Some("a.1"));
        assert_eq!(asked(&[("authorization", "Bearer b.2")], None).0.as_deref(), Some("b.2"));
    }

    #[test]
    fn a_certificate_names_its_owner_but_not_through_a_gateway() {
        assert_eq!(asked(&[], named("alice")).1.as_deref(), Some("alice"));
        assert_eq!(asked(&[("grpcgateway-accept", "*/*")], named("alice")).1, None);
    }
}
