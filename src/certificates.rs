//! The cluster's certificates, and the kubeconfigs made of them.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use kelson_kube::KubeletClient;
use kelson_kube::pki::{Authority, ServerTls, kubeconfig};

/// Components that reach the API server over HTTPS when they run as processes of their own.
const COMPONENTS: &[(&str, &str, &[&str])] = &[
    ("controllers", "system:kube-controller-manager", &[]),
    ("scheduler", "system:kube-scheduler", &[]),
    ("nodesim", "system:nodes", &["system:nodes"]),
];

/// The authority of one cluster, and where its API server is.
pub struct Certificates {
    authority: Authority,
    folder: PathBuf,
    /// Where the API server listens.
    address: SocketAddr,
    /// The first Service address.
    service_ip: Ipv4Addr,
}

impl Certificates {
    /// Opens the authority in `folder`, or makes one there, for an API server at `address`.
    ///
    /// # Errors
    /// If the folder cannot be used or holds something else.
    pub fn open(folder: &Path, address: SocketAddr) -> Result<Certificates> {
        let authority = Authority::open(folder).context("certificates")?;
        let service_ip = kelson_kube::Config::default().first_service_ip();
        Ok(Certificates { authority, folder: folder.to_path_buf(), address, service_ip })
    }

    /// Opens the authority that an API server has made in `folder`.
    ///
    /// # Errors
    /// If there is none.
    pub fn existing(folder: &Path) -> Result<Certificates> {
        let found = folder.join("ca.crt").exists();
        ensure!(found, "{}: no ca.crt; name the API server's certificate dir", folder.display());
        Certificates::open(folder, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    /// The authority's certificate.
    pub fn ca_pem(&self) -> &str {
        self.authority.certificate()
    }

    /// What the API server serves with.
    pub fn server_tls(&self) -> Result<ServerTls> {
        let host = self.address.ip().to_string();
        let identity = self.authority.server(&[&host], IpAddr::V4(self.service_ip))?;
        Ok(self.authority.server_tls(&identity)?)
    }

    /// How the API server calls kubelets.
    pub fn kubelet_client(&self) -> Result<KubeletClient> {
        let identity =
            self.authority.client("apiserver-kubelet-client", "kube-apiserver-kubelet-client", &["system:masters"])?;
        Ok(KubeletClient { identity, authority: self.ca_pem().into() })
    }

    /// Certificate and key with which the simulated kubelets serve at `address`.
    pub fn kubelet_server(&self, address: IpAddr) -> Result<(Vec<u8>, Vec<u8>)> {
        let identity = self.authority.kubelet("kubelet", "simulated", &[&address.to_string()])?;
        Ok((identity.certificate.into(), identity.key.into()))
    }

    /// Writes the administrator's kubeconfig, readable by its owner alone.
    ///
    /// # Errors
    /// If it cannot be written; the text names `flag`.
    pub fn write_admin(&self, file: &Path, flag: &str) -> Result<()> {
        let text = kubeconfig(&self.server(), self.ca_pem(), &self.authority.admin()?);
        write_secret(file, &text).with_context(|| format!("cannot write {} (change it with {flag})", file.display()))
    }

    /// Writes `<component>.kubeconfig` for each component into the certificate folder.
    pub fn write_components(&self) -> Result<()> {
        for (component, user, groups) in COMPONENTS {
            let identity = self.authority.client(component, user, groups)?;
            let file = self.folder.join(format!("{component}.kubeconfig"));
            write_secret(&file, &kubeconfig(&self.server(), self.ca_pem(), &identity))
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(())
    }

    /// URL of the API server; one that listens everywhere is reached at the loopback address.
    fn server(&self) -> String {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        format!("https://{address}")
    }
}

/// Writes a file that holds a key, at once or not at all.
fn write_secret(file: &Path, text: &str) -> std::io::Result<()> {
    let unfinished = file.with_extension("unfinished");
    let mut output =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    output.write_all(text.as_bytes())?;
    std::fs::rename(unfinished, file)
}
