//! The cluster's own certificates: an authority kept in a directory, and what it signs.
//!
//! Keys are ECDSA P-256, in files that only their owner may read. What is there is used again; what is about to
//! expire, was signed by another authority or no longer fits is made anew.

mod file;
mod kubeconfig;
mod tls;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use time::{Duration, OffsetDateTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

pub use kubeconfig::kubeconfig;
pub use tls::ServerTls;
pub(crate) use tls::kubelet_client;

use crate::Error;

/// How long the authority is valid.
const CA_LIFE: Duration = Duration::days(3650);
/// How long what it signs is valid.
const LEAF_LIFE: Duration = Duration::days(365);
/// With less than this left, a certificate is made anew.
const RENEW_BEFORE: Duration = Duration::days(30);
/// Certificates are valid from a little before they are made, for clocks that are behind.
const SKEW: Duration = Duration::hours(1);

/// A certificate with its key, both PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key stays out of logs.
        formatter.debug_struct("Identity").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// The cluster's certificate authority.
pub struct Authority {
    /// `None`: nothing is written to disk.
    directory: Option<PathBuf>,
    certificate: String,
    der: CertificateDer<'static>,
    issuer: Mutex<Issuer<'static, KeyPair>>,
}

/// What a certificate is to say.
struct Wanted<'a> {
    name: &'a str,
    groups: &'a [&'a str],
    hosts: Vec<String>,
    usages: Vec<ExtendedKeyUsagePurpose>,
}

impl Authority {
    /// Opens the authority kept in `directory` (`ca.crt`, `ca.key`), or makes one there.
    ///
    /// # Errors
    /// If the files cannot be read or written, or hold something else.
    pub fn open(directory: &Path) -> Result<Authority, Error> {
        file::create_directory(directory)?;
        let identity = file::load(directory, "ca")?.filter(|identity| is_fresh(&identity.certificate));
        let identity = match identity {
            Some(identity) => identity,
            None => {
                let identity = new_authority()?;
                file::store(directory, "ca", &identity)?;
                identity
            }
        };
        Authority::from_identity(identity, Some(directory.to_path_buf()))
    }

    /// An authority that lives in memory alone, for tests and throw-away clusters.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn ephemeral() -> Result<Authority, Error> {
        Authority::from_identity(new_authority()?, None)
    }

    fn from_identity(identity: Identity, directory: Option<PathBuf>) -> Result<Authority, Error> {
        let key = KeyPair::from_pem(&identity.key).map_err(bad("the authority's key"))?;
        let issuer =
            Issuer::from_ca_cert_pem(&identity.certificate, key).map_err(bad("the authority's certificate"))?;
        let der = der(&identity.certificate)?;
        Ok(Authority { directory, certificate: identity.certificate, der, issuer: Mutex::new(issuer) })
    }

    /// The authority's certificate, PEM: what clients trust.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The gateway's serving certificate. `hosts` (names and addresses) come on top of those that every cluster uses;
    /// `service_ip` is the first Service address.
    ///
    /// # Errors
    /// If it cannot be signed or written.
    pub fn server(&self, hosts: &[&str], service_ip: IpAddr) -> Result<Identity, Error> {
        let mut all: Vec<String> = [
            "localhost",
            "127.0.0.1",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ]
        .map(String::from)
        .to_vec();
        all.push(service_ip.to_string());
        all.extend(hosts.iter().filter(|host| !host.is_empty()).map(|host| (*host).to_string()));
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.identity("apiserver", Wanted { name: "kube-apiserver", groups: &[], hosts: all, usages })
    }

    /// A client certificate: `name` is the user, `groups` (at most two) are its groups. `file` names it in the directory.
    ///
    /// # Errors
    /// If it cannot be signed or written.
    pub fn client(&self, file: &str, name: &str, groups: &[&str]) -> Result<Identity, Error> {
        let usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.identity(file, Wanted { name, groups, hosts: Vec::new(), usages })
    }

    /// The administrator's client certificate.
    ///
    /// # Errors
    /// If it cannot be signed or written.
    pub fn admin(&self) -> Result<Identity, Error> {
        self.client("admin", "kubernetes-admin", &["system:masters"])
    }

    /// A kubelet's serving certificate, for the addresses at which it is reached.
    ///
    /// # Errors
    /// If it cannot be signed or written.
    pub fn kubelet(&self, file: &str, node: &str, hosts: &[&str]) -> Result<Identity, Error> {
        let hosts = hosts.iter().map(|host| (*host).to_string()).collect();
        let name = format!("system:node:{node}");
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.identity(file, Wanted { name: &name, groups: &["system:nodes"], hosts, usages })
    }

    fn identity(&self, file: &str, wanted: Wanted<'_>) -> Result<Identity, Error> {
        if let Some(directory) = &self.directory
            && let Some(identity) = file::load(directory, file)?
            && self.still_fits(&identity, &wanted)
        {
            return Ok(identity);
        }
        let identity = self.sign(&wanted)?;
        if let Some(directory) = &self.directory {
            file::store(directory, file, &identity)?;
        }
        Ok(identity)
    }

    fn sign(&self, wanted: &Wanted<'_>) -> Result<Identity, Error> {
        let mut params = CertificateParams::new(wanted.hosts.clone()).map_err(bad("a host name"))?;
        params.distinguished_name = subject(wanted.name, wanted.groups)?;
        params.not_before = OffsetDateTime::now_utc() - SKEW;
        params.not_after = OffsetDateTime::now_utc() + LEAF_LIFE;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = wanted.usages.clone();
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(bad("a key"))?;
        let certificate = params.signed_by(&key, &*self.issuer.lock()).map_err(bad("a certificate"))?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Whether a certificate from an earlier start says what is wanted now.
    fn still_fits(&self, identity: &Identity, wanted: &Wanted<'_>) -> bool {
        let Ok(text) = der(&identity.certificate) else { return false };
        let Ok((_, certificate)) = X509Certificate::from_der(&text) else { return false };
        let Ok((_, authority)) = X509Certificate::from_der(&self.der) else { return false };
        let signed = certificate.verify_signature(Some(authority.public_key())).is_ok();
        let (name, groups) = subject_of(&certificate);
        let hosts = hosts_of(&certificate);
        let key_matches = KeyPair::from_pem(&identity.key)
            .is_ok_and(|key| key.public_key_raw() == certificate.public_key().subject_public_key.data.as_ref());
        signed
            && key_matches
            && is_fresh(&identity.certificate)
            && name == wanted.name
            && groups == wanted.groups
            && wanted.hosts.iter().all(|host| hosts.contains(host))
    }
}

fn new_authority() -> Result<Identity, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject("kelson-ca", &[])?;
    params.not_before = OffsetDateTime::now_utc() - SKEW;
    params.not_after = OffsetDateTime::now_utc() + CA_LIFE;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate().map_err(bad("a key"))?;
    let certificate = params.self_signed(&key).map_err(bad("the authority's certificate"))?;
    Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// The subject of a user. The generator keeps one value for each attribute type; a second organisation fits under the
/// same identifier spelled out.
fn subject(name: &str, groups: &[&str]) -> Result<DistinguishedName, Error> {
    let mut subject = DistinguishedName::new();
    let types = [DnType::OrganizationName, DnType::CustomDnType(vec![2, 5, 4, 10])];
    if groups.len() > types.len() {
        return Err(Error::Certificate(format!("a certificate can name at most {} groups", types.len())));
    }
    for (kind, group) in types.into_iter().zip(groups) {
        subject.push(kind, *group);
    }
    subject.push(DnType::CommonName, name);
    Ok(subject)
}

/// Common name and organisations: user and groups.
pub(crate) fn subject_of(certificate: &X509Certificate<'_>) -> (String, Vec<String>) {
    let subject = certificate.subject();
    let name = subject.iter_common_name().next().and_then(|name| name.as_str().ok()).unwrap_or("").to_string();
    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok()).map(String::from).collect();
    (name, groups)
}

fn hosts_of(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let names = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_string()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
            _ => None,
        },
        _ => None,
    });
    names.collect()
}

fn is_fresh(certificate: &str) -> bool {
    let Ok(text) = der(certificate) else { return false };
    let Ok((_, certificate)) = X509Certificate::from_der(&text) else { return false };
    certificate.validity().not_after.to_datetime() - OffsetDateTime::now_utc() > RENEW_BEFORE
}

fn der(pem: &str) -> Result<CertificateDer<'static>, Error> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(bad("a certificate"))
}

fn bad<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> Error {
    move |error| Error::Certificate(format!("{what} is of no use: {error}"))
}

#[cfg(test)]
mod tests;
