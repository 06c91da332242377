//! Certificates for tests, as files.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};

/// An authority.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// The files of an identity.
pub struct Files {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Files {
    pub fn cert(&self) -> String {
        self.cert.display().to_string()
    }

    pub fn key(&self) -> String {
        self.key.display().to_string()
    }
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut wanted = CertificateParams::new(Vec::<String>::new()).expect("parameters");
        wanted.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        wanted.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        Authority { issuer: CertifiedIssuer::self_signed(wanted, key).expect("a certificate") }
    }

    /// Writes the authority's certificate.
    pub fn write(&self, path: &Path) -> String {
        std::fs::write(path, self.issuer.pem()).expect("written");
        path.display().to_string()
    }

    /// Writes a certificate for `localhost`, 127.0.0.1 and `names` with a common name, good for servers and clients.
    pub fn identity(&self, folder: &Path, common_name: &str, names: &[&str]) -> Files {
        let hosts = ["localhost", "127.0.0.1"].iter().chain(names).map(ToString::to_string);
        let mut wanted = CertificateParams::new(hosts.collect::<Vec<_>>()).expect("parameters");
        wanted.distinguished_name.push(DnType::CommonName, common_name);
        wanted.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let signed = wanted.signed_by(&key, &*self.issuer).expect("a certificate");
        std::fs::create_dir_all(folder).expect("a folder");
        let files = Files { cert: folder.join("cert.pem"), key: folder.join("key.pem") };
        std::fs::write(&files.cert, signed.pem()).expect("written");
        std::fs::write(&files.key, key.serialize_pem()).expect("written");
        files
    }
}
