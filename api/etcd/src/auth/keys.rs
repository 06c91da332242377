//! Keys from PEM files, for the methods that sign with a pair of them.

use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, SubjectPublicKeyInfoDer};
use rustls::sign::SigningKey;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::SubjectPublicKeyInfo;

/// Reads a private key: PKCS#8, PKCS#1 (RSA) or SEC1 (EC).
pub(super) fn private(pem: &[u8], scheme: SignatureScheme) -> Result<Arc<dyn SigningKey>, String> {
    let der = PrivateKeyDer::from_pem_slice(pem).map_err(|error| format!("private key: {error}"))?;
    let key = rustls::crypto::ring::sign::any_supported_type(&der).map_err(|error| format!("private key: {error}"))?;
    match key.choose_scheme(&[scheme]) {
        Some(_) => Ok(key),
        None => Err("private key: it is not of the kind that the method signs with".into()),
    }
}

/// The public half of a private key, as [`public`] gives it.
pub(super) fn public_half(key: &dyn SigningKey) -> Result<Vec<u8>, String> {
    let der = key.public_key().ok_or("private key: its public half is not known")?;
    bits(&der)
}

/// Reads a public key, alone or in a certificate, in the form that signatures are verified with: RSA's two numbers,
/// or the point on the curve.
pub(super) fn public(pem: &[u8], scheme: SignatureScheme) -> Result<Vec<u8>, String> {
    let key = match SubjectPublicKeyInfoDer::from_pem_slice(pem) {
        Ok(key) => key.as_ref().to_vec(),
        Err(alone) => {
            let certificate = CertificateDer::from_pem_slice(pem).map_err(|_| format!("public key: {alone}"))?;
            let parsed = X509Certificate::from_der(&certificate);
            let (_, parsed) = parsed.map_err(|error| format!("public key: {error}"))?;
            parsed.public_key().raw.to_vec()
        }
    };
    let key = SubjectPublicKeyInfoDer::from(key);
    fits(&key, scheme)?;
    bits(&key)
}

fn parsed<'a>(key: &'a SubjectPublicKeyInfoDer) -> Result<SubjectPublicKeyInfo<'a>, String> {
    let (_, parsed) = SubjectPublicKeyInfo::from_der(key).map_err(|error| format!("public key: {error}"))?;
    Ok(parsed)
}

fn bits(key: &SubjectPublicKeyInfoDer) -> Result<Vec<u8>, String> {
    Ok(parsed(key)?.subject_public_key.data.to_vec())
}

/// A key of another kind would never verify anything, which is better known at the start.
fn fits(key: &SubjectPublicKeyInfoDer, scheme: SignatureScheme) -> Result<(), String> {
    const EC: &str = "1.2.840.10045.2.1";
    let key = parsed(key)?;
    let (kind, length) = match scheme {
        // A point without compression: one byte and two numbers.
        SignatureScheme::ECDSA_NISTP256_SHA256 => (EC, Some(65)),
        SignatureScheme::ECDSA_NISTP384_SHA384 => (EC, Some(97)),
        SignatureScheme::ED25519 => ("1.3.101.112", Some(32)),
        _ => ("1.2.840.113549.1.1.1", None),
    };
    let fits = key.algorithm.algorithm.to_id_string() == kind
        && length.is_none_or(|length| key.subject_public_key.data.len() == length);
    if fits { Ok(()) } else { Err("public key: it is not of the kind that the method verifies with".into()) }
}

/// An ECDSA signature as JWT has it, two numbers of `half` bytes each, from its DER form.
pub(super) fn fixed(der: &[u8], half: usize) -> Option<Vec<u8>> {
    fn tagged(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
        let (&[found, length], rest) = bytes.split_first_chunk()?;
        // Signatures up to 384 bits are shorter than what needs a longer length.
        if found != tag || length >= 0x80 {
            return None;
        }
        rest.split_at_checked(length.into())
    }
    let (body, rest) = tagged(der, 0x30)?;
    let (first, body) = tagged(body, 2)?;
    let (second, body) = tagged(body, 2)?;
    if !rest.is_empty() || !body.is_empty() {
        return None;
    }
    let mut out = vec![0; 2 * half];
    for (number, place) in [first, second].into_iter().zip(out.chunks_mut(half)) {
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        let number = &number[zeros..];
        place.get_mut(half.checked_sub(number.len())?..)?.copy_from_slice(number);
    }
    Some(out)
}
