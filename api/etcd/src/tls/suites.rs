//! Cipher suites by the names that Go's library has for them, which are those of etcd's `cipher-suites`.

use rustls::SupportedCipherSuite;
use rustls::crypto::ring::cipher_suite as ring;

use crate::Error;

/// Name and suite; some have two names.
const SUITES: &[(&str, SupportedCipherSuite)] = &[
    ("TLS_AES_128_GCM_SHA256", ring::TLS13_AES_128_GCM_SHA256),
    ("TLS_AES_256_GCM_SHA384", ring::TLS13_AES_256_GCM_SHA384),
    ("TLS_CHACHA20_POLY1305_SHA256", ring::TLS13_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", ring::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", ring::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", ring::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", ring::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", ring::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", ring::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", ring::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", ring::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// The names that `cipher-suites` may hold.
pub fn supported_cipher_suites() -> impl Iterator<Item = &'static str> {
    SUITES.iter().map(|(name, _)| *name)
}

/// The suites to offer where `names` were asked for; all where none were.
///
/// As in Go, the list is about TLS 1.2 alone: the suites of TLS 1.3 are always there.
pub(super) fn select(names: &[String]) -> Result<Vec<SupportedCipherSuite>, Error> {
    if names.is_empty() {
        return Ok(ring_suites());
    }
    let mut chosen: Vec<_> = ring_suites().into_iter().filter(|suite| suite.tls13().is_some()).collect();
    for name in names {
        let Some((_, suite)) = SUITES.iter().find(|(known, _)| known == name) else {
            let known: Vec<_> = supported_cipher_suites().collect();
            return Err(Error::Tls(format!(
                "unexpected TLS cipher suite {name:?}; supported are {}",
                known.join(", ")
            )));
        };
        if !chosen.contains(suite) {
            chosen.push(*suite);
        }
    }
    Ok(chosen)
}

fn ring_suites() -> Vec<SupportedCipherSuite> {
    rustls::crypto::ring::default_provider().cipher_suites
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_bounds_tls_1_2_alone_and_strange_names_are_refused() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let both = names(&["TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"]);
        let chosen = select(&both).unwrap();
        assert_eq!(chosen.iter().filter(|suite| suite.tls13().is_some()).count(), 3);
        assert_eq!(chosen.len(), 4);
        assert_eq!(select(&names(&["TLS_AES_128_GCM_SHA256"])).unwrap().len(), 3);
        assert_eq!(select(&[]).unwrap().len(), 9);
        let refused = select(&names(&["TLS_RSA_WITH_AES_128_CBC_SHA"])).unwrap_err().to_string();
        assert!(refused.contains(r#"unexpected TLS cipher suite "TLS_RSA_WITH_AES_128_CBC_SHA""#), "{refused}");
        assert!(refused.contains("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"), "{refused}");
    }
}
