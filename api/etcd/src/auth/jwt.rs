//! Tokens that carry their user, signed: JSON Web Tokens (RFC 7519) with etcd's claims `username` and `revision`.
//!
//! The store need not remember them. They grow old with every change of users and roles: what they then ask for is
//! refused, and their client authenticates again.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use rustls::SignatureScheme as Scheme;
use rustls::sign::SigningKey;
use serde_json::{Value, json};

use super::keys;

/// How a token is signed.
enum Method {
    Pair {
        scheme: Scheme,
        verify: &'static dyn VerificationAlgorithm,
        /// Bytes of each of the two numbers of an ECDSA signature.
        half: Option<usize>,
    },
    Hmac(hmac::Algorithm),
}

const METHODS: &str = "RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA, HS256, HS384, HS512";

fn method(name: &str) -> Option<(&'static str, Method)> {
    let pair = |scheme, verify, half| Method::Pair { scheme, verify, half };
    Some(match name {
        "RS256" => ("RS256", pair(Scheme::RSA_PKCS1_SHA256, &signature::RSA_PKCS1_2048_8192_SHA256, None)),
        "RS384" => ("RS384", pair(Scheme::RSA_PKCS1_SHA384, &signature::RSA_PKCS1_2048_8192_SHA384, None)),
        "RS512" => ("RS512", pair(Scheme::RSA_PKCS1_SHA512, &signature::RSA_PKCS1_2048_8192_SHA512, None)),
        "PS256" => ("PS256", pair(Scheme::RSA_PSS_SHA256, &signature::RSA_PSS_2048_8192_SHA256, None)),
        "PS384" => ("PS384", pair(Scheme::RSA_PSS_SHA384, &signature::RSA_PSS_2048_8192_SHA384, None)),
        "PS512" => ("PS512", pair(Scheme::RSA_PSS_SHA512, &signature::RSA_PSS_2048_8192_SHA512, None)),
        "ES256" => ("ES256", pair(Scheme::ECDSA_NISTP256_SHA256, &signature::ECDSA_P256_SHA256_FIXED, Some(32))),
        "ES384" => ("ES384", pair(Scheme::ECDSA_NISTP384_SHA384, &signature::ECDSA_P384_SHA384_FIXED, Some(48))),
        "EdDSA" => ("EdDSA", pair(Scheme::ED25519, &signature::ED25519, None)),
        "HS256" => ("HS256", Method::Hmac(hmac::HMAC_SHA256)),
        "HS384" => ("HS384", Method::Hmac(hmac::HMAC_SHA384)),
        "HS512" => ("HS512", Method::Hmac(hmac::HMAC_SHA512)),
        _ => return None,
    })
}

enum Key {
    Pair {
        scheme: Scheme,
        half: Option<usize>,
        /// Without it tokens are checked and none are made.
        private: Option<Arc<dyn SigningKey>>,
        public: UnparsedPublicKey<Vec<u8>>,
    },
    Hmac(hmac::Key),
}

/// Makes and checks tokens.
pub struct Jwt {
    method: &'static str,
    key: Key,
    ttl: Duration,
}

impl std::fmt::Debug for Jwt {
    /// Without the keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jwt").field("method", &self.method).field("ttl", &self.ttl).finish_non_exhaustive()
    }
}

/// Why a token cannot be made.
const VERIFY_ONLY: &str = "auth: token signing attempted with verify-only key";

impl Jwt {
    /// Keys are the contents of their files.
    pub(super) fn new(
        name: &str,
        public: Option<&[u8]>,
        private: Option<&[u8]>,
        ttl: Duration,
    ) -> Result<Self, String> {
        let (name, method) = method(name).ok_or_else(|| format!("sign-method {name:?} is not one of {METHODS}"))?;
        let given = |pem: &Option<&[u8]>| pem.is_some_and(|pem| !pem.is_empty());
        let (public, private) = (public.filter(|_| given(&public)), private.filter(|_| given(&private)));
        let key = match method {
            Method::Hmac(algorithm) => Key::Hmac(hmac::Key::new(algorithm, private.ok_or("missing key data")?)),
            Method::Pair { scheme, verify, half } => {
                let private = private.map(|pem| keys::private(pem, scheme)).transpose()?;
                let of_private = private.as_deref().map(keys::public_half).transpose()?;
                let given = public.map(|pem| keys::public(pem, scheme)).transpose()?;
                let public = match (of_private, given) {
                    (None, None) => return Err("missing key data".into()),
                    (Some(one), Some(other)) if one != other => {
                        return Err("public and private keys don't match".into());
                    }
                    (Some(key), _) | (None, Some(key)) => key,
                };
                Key::Pair { scheme, half, private, public: UnparsedPublicKey::new(verify, public) }
            }
        };
        Ok(Self { method: name, key, ttl })
    }

    /// A token for a user as known at a revision of the auth state.
    pub(super) fn sign(&self, user: &str, revision: u64, now: SystemTime) -> Result<String, String> {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let expiry = seconds(now.checked_add(self.ttl).unwrap_or(now));
        let head = part(&json!({"alg": self.method, "typ": "JWT"}));
        let claims = part(&json!({"username": user, "revision": revision, "exp": expiry}));
        let signed = format!("{head}.{claims}");
        let signature = match &self.key {
            Key::Hmac(key) => hmac::sign(key, signed.as_bytes()).as_ref().to_vec(),
            Key::Pair { scheme, half, private, .. } => {
                let private = private.as_ref().ok_or(VERIFY_ONLY)?;
                let signer = private.choose_scheme(&[*scheme]).ok_or("the key does not fit the method")?;
                let signature = signer.sign(signed.as_bytes()).map_err(|error| error.to_string())?;
                match half {
                    Some(half) => keys::fixed(&signature, *half).ok_or("the signature is malformed")?,
                    None => signature,
                }
            }
        };
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The user and the revision that a token tells, if it is good now.
    pub(super) fn verify(&self, token: &str, now: SystemTime) -> Option<(String, u64)> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (head, claims) = signed.split_once('.').filter(|(_, claims)| !claims.contains('.'))?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let head: Value = parse(head)?;
        // The token does not choose how it is checked.
        if head.get("alg")?.as_str()? != self.method {
            return None;
        }
        match &self.key {
            Key::Hmac(key) => hmac::verify(key, signed.as_bytes(), &signature).ok()?,
            Key::Pair { public, .. } => public.verify(signed.as_bytes(), &signature).ok()?,
        }
        let claims: Value = parse(claims)?;
        let now = seconds(now) as f64;
        // As etcd's library has it: a time that is absent or 0 bounds nothing.
        let time = |name: &str| match claims.get(name) {
            None => Some(None),
            Some(time) => Some(Some(time.as_f64()?).filter(|time| *time != 0.0)),
        };
        if time("exp")?.is_some_and(|expiry| now >= expiry) || time("nbf")?.is_some_and(|start| now < start) {
            return None;
        }
        let revision = claims.get("revision")?.as_f64()?;
        Some((claims.get("username")?.as_str()?.to_owned(), revision as u64))
    }
}

fn parse(part: &str) -> Option<Value> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(300);

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// Keys of every kind; those of RSA are read from a file, because making them takes long.
    fn pair(method: &str) -> (Vec<u8>, Vec<u8>) {
        let algorithm = match method {
            "ES256" => &rcgen::PKCS_ECDSA_P256_SHA256,
            "ES384" => &rcgen::PKCS_ECDSA_P384_SHA384,
            "EdDSA" => &rcgen::PKCS_ED25519,
            _ => return (RSA_PRIVATE.to_vec(), RSA_PUBLIC.to_vec()),
        };
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        (key.serialize_pem().into_bytes(), key.public_key_pem().into_bytes())
    }

    const RSA_PRIVATE: &[u8] = include_bytes!("testdata/rsa.txt");
    const RSA_PUBLIC: &[u8] = include_bytes!("testdata/rsa.pub.txt");

    #[test]
    fn every_method_signs_and_verifies() {
        for name in METHODS.split(", ").filter(|name| !name.starts_with("HS")) {
            let (private, public) = pair(name);
            let both = Jwt::new(name, Some(&public), Some(&private), TTL).unwrap();
            let public_only = Jwt::new(name, Some(&public), None, TTL).unwrap();
            let private_only = Jwt::new(name, None, Some(&private), TTL).unwrap();
            for _ in 0..8 {
                let token = both.sign("alice", 7, at(1_000)).unwrap();
                for jwt in [&both, &public_only, &private_only] {
                    assert_eq!(jwt.verify(&token, at(1_299)), Some(("alice".into(), 7)), "{name}");
                    assert_eq!(jwt.verify(&token, at(1_300)), None, "{name} has run out");
                }
            }
            assert_eq!(public_only.sign("alice", 7, at(0)), Err(VERIFY_ONLY.into()));
        }
        for name in ["HS256", "HS384", "HS512"] {
            let jwt = Jwt::new(name, None, Some(b"secret"), TTL).unwrap();
            let token = jwt.sign("alice", 7, at(1_000)).unwrap();
            assert_eq!(jwt.verify(&token, at(1_000)), Some(("alice".into(), 7)));
            let other = Jwt::new(name, None, Some(b"Secret"), TTL).unwrap();
            assert_eq!(other.verify(&token, at(1_000)), None);
        }
    }

    #[test]
    fn what_was_changed_or_signed_otherwise_is_refused() {
        let (private, public) = pair("ES256");
        let jwt = Jwt::new("ES256", None, Some(&private), TTL).unwrap();
        let token = jwt.sign("alice", 7, at(1_000)).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let claims = URL_SAFE_NO_PAD.encode(json!({"username": "root", "revision": 7}).to_string());
        let none = URL_SAFE_NO_PAD.encode(json!({"alg": "none"}).to_string());
        let head = URL_SAFE_NO_PAD.encode(json!({"alg": "HS256"}).to_string());
        // The public key taken for a shared secret: a well-known way in.
        let shared = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &public), format!("{head}.{claims}").as_bytes());
        let shared = URL_SAFE_NO_PAD.encode(shared);
        for forged in [
            format!("{}.{claims}.{}", parts[0], parts[2]),
            format!("{none}.{claims}."),
            format!("{none}.{claims}"),
            format!("{head}.{claims}.{shared}"),
            format!("{}.{}.", parts[0], parts[1]),
            format!("{}.{}.{}=", parts[0], parts[1], parts[2]),
            format!("{token}.x"),
            String::new(),
            "...".into(),
        ] {
            assert_eq!(jwt.verify(&forged, at(1_000)), None, "{forged}");
        }
        let (_, other) = pair("ES256");
        assert_eq!(Jwt::new("ES256", Some(&other), None, TTL).unwrap().verify(&token, at(1_000)), None);
    }

    #[test]
    fn claims_are_etcds() {
        let jwt = Jwt::new("HS256", None, Some(b"secret"), TTL).unwrap();
        let sign = |claims: Value| {
            let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
            let signed = format!("{}.{}", part(json!({"alg": "HS256"})), part(claims));
            let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b"secret"), signed.as_bytes());
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
        };
        for (claims, good) in [
            (json!({"username": "a", "revision": 1}), true),
            (json!({"username": "a", "revision": 1.0, "exp": 0}), true),
            (json!({"username": "a", "revision": 1, "exp": 11}), true),
            (json!({"username": "a", "revision": 1, "exp": 10}), false),
            (json!({"username": "a", "revision": 1, "exp": "11"}), false),
            (json!({"username": "a", "revision": 1, "nbf": 10}), true),
            (json!({"username": "a", "revision": 1, "nbf": 11}), false),
            (json!({"username": "a", "revision": "1"}), false),
            (json!({"username": 1, "revision": 1}), false),
            (json!({"username": "a"}), false),
        ] {
            assert_eq!(jwt.verify(&sign(claims.clone()), at(10)).is_some(), good, "{claims}");
        }
    }

    #[test]
    fn keys_must_fit_the_method_and_each_other() {
        let (ec, ec_public) = pair("ES256");
        let (_, other) = pair("ES256");
        type Pem<'a> = Option<&'a [u8]>;
        let cases: [(&str, Pem<'_>, Pem<'_>, &str); 8] = [
            ("ES256", None, None, "missing key data"),
            ("ES256", Some(b""), Some(b""), "missing key data"),
            ("ES256", Some(&other), Some(&ec), "public and private keys don't match"),
            ("ES384", None, Some(&ec), "private key: it is not of the kind"),
            ("ES384", Some(&ec_public), None, "public key: it is not of the kind"),
            ("RS256", Some(&ec_public), None, "public key: it is not of the kind"),
            ("RS256", None, Some(b"no PEM"), "private key: "),
            ("ES512", None, Some(&ec), "sign-method \"ES512\" is not one of"),
        ];
        for (name, public, private, why) in cases {
            let error = Jwt::new(name, public, private, TTL).unwrap_err();
            assert!(error.contains(why), "{name}: {error}");
        }
    }

    #[test]
    fn a_certificate_is_a_public_key_too() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        let jwt = Jwt::new("ES256", None, Some(key.serialize_pem().as_bytes()), TTL).unwrap();
        let token = jwt.sign("alice", 1, at(0)).unwrap();
        let checks = Jwt::new("ES256", Some(certificate.pem().as_bytes()), None, TTL).unwrap();
        assert!(checks.verify(&token, at(0)).is_some());
    }

    #[test]
    fn short_numbers_of_a_signature_are_filled_up() {
        let der = [0x30, 7, 2, 1, 5, 2, 2, 0, 0xff];
        assert_eq!(keys::fixed(&der, 4), Some(vec![0, 0, 0, 5, 0, 0, 0, 0xff]));
        for wrong in [&der[..8], &[0x30, 0], &[0x31, 7, 2, 1, 5, 2, 2, 0, 0xff], &[0x30, 6, 2, 1, 5, 2, 1], &[]] {
            assert_eq!(keys::fixed(wrong, 4), None);
        }
        assert_eq!(keys::fixed(&[0x30, 9, 2, 5, 1, 2, 3, 4, 5, 2, 0], 4), None, "too long");
    }
}
