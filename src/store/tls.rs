//! TLS of the listeners, as the flags say; certificates that are generated where none are given.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kelson_etcd::{Allowed, PeerTls, TlsFiles, TlsOptions, TlsSource, TlsVersion};
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};
use serde_json::Value as Json;

use super::log;
use super::settings::{Settings, Tls};
use super::url::Url;

/// Where a Linux system keeps the authorities that it trusts.
const SYSTEM_AUTHORITIES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Whose TLS it is: the word in flags, logs and folders.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Client,
    Peer,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Side::Client => "client",
            Side::Peer => "peer",
        }
    }
}

/// Fills in generated certificates where `auto-tls` asks for them and none are given.
///
/// # Errors
/// Where they cannot be generated or kept.
pub fn generate(settings: &mut Settings, side: Side) -> Result<(), String> {
    let (tls, hosts) = match side {
        Side::Client => {
            (&settings.client_tls, [&settings.listen_client_urls[..], &settings.listen_client_http_urls].concat())
        }
        Side::Peer => (&settings.peer_tls, settings.listen_peer_urls.clone()),
    };
    if !tls.auto {
        return Ok(());
    }
    let name = side.name();
    if !tls.is_empty() {
        log::warn(&format!("ignoring {name} auto TLS since certs given"), &[]);
        return Ok(());
    }
    let folder = settings.data_path().join("fixtures").join(name);
    let failed = |why: String| format!("failed to get {name} self-signed certs: {why}");
    let (cert, key) = self_signed(&folder, &hosts, settings.self_signed_validity).map_err(failed)?;
    let text = |path: PathBuf| path.display().to_string();
    // As in etcd, what is generated takes the place of all else that was said about TLS here.
    let generated = Tls { cert_file: text(cert), key_file: text(key), auto: true, ..Tls::default() };
    match side {
        Side::Client => settings.client_tls = generated,
        Side::Peer => settings.peer_tls = generated,
    }
    Ok(())
}

/// Certificate and key in `folder`: those of an earlier start, or new ones for the hosts of `urls`.
fn self_signed(folder: &Path, urls: &[Url], years: u64) -> Result<(PathBuf, PathBuf), String> {
    if years == 0 {
        return Err("selfSignedCertValidity is invalid,it should be greater than 0".into());
    }
    let failed = |path: &Path, error: &io::Error| format!("{}: {}", path.display(), super::sockets::plain(error));
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| failed(folder, &error))?;
    let folder = folder.canonicalize().map_err(|error| failed(folder, &error))?;
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    if cert.exists() && key.exists() {
        return Ok((cert, key));
    }
    let pair = KeyPair::generate().map_err(|error| error.to_string())?;
    let wanted = parameters(urls, years)?;
    let until = wanted.not_after.to_string();
    log::warn("automatically generate certificates", &[("certificate-validity-bound-not-after", until.into())]);
    let signed = wanted.self_signed(&pair).map_err(|error| error.to_string())?;
    for (path, text, mode) in [(&key, pair.serialize_pem(), 0o600), (&cert, signed.pem(), 0o644)] {
        write(path, &text, mode).map_err(|error| failed(path, &error))?;
    }
    let shown = |path: &Path| Json::from(path.display().to_string());
    log::info("created cert file", &[("path", shown(&cert))]);
    log::info("created key file", &[("path", shown(&key))]);
    Ok((cert, key))
}

fn parameters(urls: &[Url], years: u64) -> Result<CertificateParams, String> {
    let mut hosts: Vec<_> =
        urls.iter().filter_map(|url| url.host_port().ok()).map(|(host, _)| host.to_owned()).collect();
    hosts.dedup();
    let mut wanted = CertificateParams::new(hosts).map_err(|error| error.to_string())?;
    wanted.distinguished_name = DistinguishedName::new();
    wanted.distinguished_name.push(DnType::OrganizationName, "etcd");
    wanted.not_before = time::OffsetDateTime::now_utc();
    let days = i64::try_from(years).unwrap_or(i64::MAX).saturating_mul(365);
    // Nothing can be valid beyond the year 9999.
    let end = wanted.not_before.checked_add(time::Duration::days(days.min(365 * 1_000)));
    wanted.not_after = end.unwrap_or(wanted.not_before);
    wanted.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    wanted.key_usages =
        vec![KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
    wanted.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(wanted)
}

fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let unfinished = path.with_extension("unfinished");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&unfinished)?;
    file.write_all(text.as_bytes())?;
    std::fs::rename(unfinished, path)
}

/// The source of one side's TLS; `None` where it has no certificate.
///
/// # Errors
/// The text for `failed to …`: files that cannot be read or used, suites that are not supported.
pub fn source(settings: &Settings, side: Side) -> Result<Option<Arc<dyn TlsSource>>, String> {
    let tls = match side {
        Side::Client => &settings.client_tls,
        Side::Peer => &settings.peer_tls,
    };
    if tls.is_empty() {
        return Ok(None);
    }
    let (cert, key) = (&tls.cert_file, &tls.key_file);
    if cert.is_empty() || key.is_empty() {
        return Err(format!("KeyFile and CertFile must both be present[key: {key}, cert: {cert}]"));
    }
    if !tls.allowed_cn.is_empty() && !tls.allowed_hostname.is_empty() {
        let (names, hosts) = (&tls.allowed_cn, &tls.allowed_hostname);
        return Err(format!(
            "AllowedCNs and AllowedHostnames are mutually exclusive (cns={names:?}, hostnames={hosts:?})"
        ));
    }
    let mut options = TlsOptions::new(cert, key);
    options.client_authority = match (tls.trusted_ca_file.as_str(), tls.client_cert_auth) {
        ("", false) => None,
        ("", true) => Some(system_authorities()?),
        (file, _) => Some(file.into()),
    };
    options.revocations = Some(PathBuf::from(&tls.crl_file)).filter(|path| !path.as_os_str().is_empty());
    options.allowed = match (&tls.allowed_cn, &tls.allowed_hostname) {
        (names, _) if !names.is_empty() => Allowed::CommonNames(names.clone()),
        (_, hosts) if !hosts.is_empty() => Allowed::Hostnames(hosts.clone()),
        _ => Allowed::All,
    };
    options.cipher_suites = settings.cipher_suites.clone();
    if settings.tls_min_version == "TLS1.3" {
        options.min_version = TlsVersion::Tls13;
    }
    if settings.tls_max_version == "TLS1.2" {
        options.max_version = TlsVersion::Tls12;
    }
    // Its own prefix would only repeat what the entry in the log says.
    let loaded = TlsFiles::load(options).map_err(|error| error.to_string().trim_start_matches("TLS: ").to_owned())?;
    Ok(Some(Arc::new(loaded)))
}

/// TLS towards other members; `None` where there is none.
pub fn dialing(settings: &Settings) -> Option<PeerTls> {
    let tls = &settings.peer_tls;
    let path = |text: &String| Some(PathBuf::from(text)).filter(|path| !path.as_os_str().is_empty());
    let (authority, identity) = (path(&tls.trusted_ca_file), path(&tls.cert_file).zip(path(&tls.key_file)));
    if authority.is_none() && identity.is_none() {
        return None;
    }
    // Generated certificates come from nobody; all others come from an authority that is named, or the system's. Where there
    // is none, no member is reached: to take whoever answers would be worse.
    let authority = match authority {
        None if !tls.auto => Some(system_authorities().ok()?),
        named => named,
    };
    Some(PeerTls { identity, authority })
}

fn system_authorities() -> Result<PathBuf, String> {
    let found = SYSTEM_AUTHORITIES.iter().map(PathBuf::from).find(|path| path.exists());
    found.ok_or_else(|| "--client-cert-auth needs --trusted-ca-file: this system has no authorities of its own".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn other_members_are_trusted_blindly_only_with_generated_certificates() {
        let mut settings = Settings::default();
        assert_eq!(dialing(&settings), None);
        (settings.peer_tls.cert_file, settings.peer_tls.key_file) = ("cert".into(), "key".into());
        assert!(dialing(&settings).is_none_or(|tls| tls.authority.is_some()), "without authorities nobody is reached");
        settings.peer_tls.trusted_ca_file = "ca".into();
        assert_eq!(dialing(&settings).unwrap().authority, Some("ca".into()));
        settings.peer_tls.trusted_ca_file.clear();
        settings.peer_tls.auto = true;
        assert_eq!(dialing(&settings).unwrap().authority, None);
    }

    #[test]
    fn certificates_are_generated_once_with_a_private_key() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings =
            Settings { data_dir: folder.path().join("data").display().to_string(), ..Settings::default() };
        settings.listen_client_urls = Url::parse_list("https://127.0.0.1:1,https://localhost:1").unwrap();
        settings.client_tls.auto = true;
        settings.client_tls.client_cert_auth = true;
        let before = settings.clone();
        generate(&mut settings, Side::Client).unwrap();
        let key = Path::new(&settings.client_tls.key_file);
        assert!(key.ends_with("fixtures/client/key.pem"));
        assert_eq!(std::fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!settings.client_tls.client_cert_auth && source(&settings, Side::Client).unwrap().is_some());
        let first = std::fs::read(key).unwrap();
        let mut again = before;
        generate(&mut again, Side::Client).unwrap();
        assert_eq!(std::fs::read(&again.client_tls.key_file).unwrap(), first);
        let mut never = Settings { self_signed_validity: 0, ..Settings::default() };
        never.peer_tls.auto = true;
        assert!(generate(&mut never, Side::Peer).unwrap_err().contains("selfSignedCertValidity is invalid"));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let with = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            settings.client_tls.cert_file = "/nonexistent/c".into();
            settings.client_tls.key_file = "/nonexistent/k".into();
            change(&mut settings);
            source(&settings, Side::Client).err().unwrap_or_default()
        };
        assert_eq!(with(|_| {}), "open /nonexistent/c: no such file or directory");
        assert!(with(|s| s.client_tls.key_file.clear()).starts_with("KeyFile and CertFile must both be present"));
        let both = with(|s| {
            s.client_tls.allowed_cn = vec!["a".into()];
            s.client_tls.allowed_hostname = vec!["b".into()];
        });
        assert!(both.contains("mutually exclusive"), "{both}");
        assert!(source(&Settings::default(), Side::Peer).unwrap().is_none());
    }
}
