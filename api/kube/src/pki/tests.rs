use std::os::unix::fs::PermissionsExt;

use super::*;

fn parse(identity: &Identity) -> (String, Vec<String>, Vec<String>) {
    let der = der(&identity.certificate).unwrap();
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    let (name, groups) = subject_of(&certificate);
    (name, groups, hosts_of(&certificate))
}

#[test]
fn a_directory_is_used_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pki");
    let service: IpAddr = "10.96.0.1".parse().unwrap();
    let first = Authority::open(&path).unwrap();
    let server = first.server(&["example.test", "192.0.2.7"], service).unwrap();
    let admin = first.admin().unwrap();
    let again = Authority::open(&path).unwrap();
    assert_eq!(again.certificate(), first.certificate());
    assert_eq!(again.server(&["192.0.2.7"], service).unwrap(), server);
    assert_eq!(again.admin().unwrap(), admin);
    // Another host, another user, another authority: another certificate.
    assert_ne!(again.server(&["other.test"], service).unwrap(), server);
    assert_ne!(again.client("admin", "somebody", &[]).unwrap(), admin);
    std::fs::remove_file(path.join("ca.key")).unwrap();
    let new = Authority::open(&path).unwrap();
    assert_ne!(new.certificate(), first.certificate());
    assert_ne!(new.admin().unwrap(), admin);
    for key in ["ca.key", "admin.key", "apiserver.key"] {
        let mode = std::fs::metadata(path.join(key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
}

#[test]
fn certificates_say_who_they_are_for() {
    let authority = Authority::ephemeral().unwrap();
    let admin = parse(&authority.admin().unwrap());
    assert_eq!((admin.0.as_str(), admin.1.as_slice()), ("kubernetes-admin", &["system:masters".to_string()][..]));
    let several = parse(&authority.client("x", "u", &["a", "b"]).unwrap());
    assert_eq!(several.1, ["a", "b"]);
    let server = parse(&authority.server(&["192.0.2.7"], "10.96.0.1".parse().unwrap()).unwrap());
    for host in ["localhost", "127.0.0.1", "10.96.0.1", "192.0.2.7", "kubernetes.default.svc.cluster.local"] {
        assert!(server.2.iter().any(|one| one == host), "{host}");
    }
    let kubelet = parse(&authority.kubelet("k", "n1", &["127.0.0.1"]).unwrap());
    assert_eq!((kubelet.0.as_str(), kubelet.2.as_slice()), ("system:node:n1", &["127.0.0.1".to_string()][..]));
}

#[test]
fn an_unreadable_directory_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let error = Authority::open(&file.join("pki")).err().unwrap().to_string();
    assert!(error.contains("file/pki"), "{error}");
    std::fs::write(directory.path().join("ca.crt"), "x").unwrap();
    std::fs::write(directory.path().join("ca.key"), "x").unwrap();
    // Garbage is not fresh, so it is made anew.
    assert!(Authority::open(directory.path()).is_ok());
}
