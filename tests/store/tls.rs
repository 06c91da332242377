//! TLS of the listeners: certificates of both sides, exchanged while the member runs, and generated ones.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::certificates::{Authority, Files};
use super::member::{ANYWHERE, Member, etcdctl, works};
use crate::cluster::peer;
use crate::poll;

const SECURE: &str = "serving client traffic securely";

/// etcdctl's flags for a member at `address`.
fn flags(address: &str, authority: &str, client: Option<&Files>) -> Vec<String> {
    let mut flags = vec!["--endpoints".into(), format!("https://{address}"), "--cacert".into(), authority.to_owned()];
    flags.extend(["--dial-timeout".into(), "5s".into(), "--command-timeout".into(), "5s".into()]);
    if let Some(client) = client {
        flags.extend(["--cert".into(), client.cert(), "--key".into(), client.key()]);
    }
    flags
}

fn refs(flags: &[String]) -> Vec<&str> {
    flags.iter().map(String::as_str).collect()
}

/// Whether a put succeeds.
fn puts(program: &Path, flags: &[String]) -> (bool, String) {
    etcdctl(program, &[&refs(flags)[..], &["put", "a", "b"]].concat())
}

#[test]
fn clients_show_certificates_and_new_files_reach_the_next_connection() {
    let Some(program) = peer("KELSON_TEST_ETCDCTL", "etcdctl over TLS") else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    let (first, second) = (Authority::new("first"), Authority::new("second"));
    let (first_ca, second_ca) = (first.write(&at("first.pem")), second.write(&at("second.pem")));
    let trusted = first.write(&at("trusted.pem"));
    let server = first.identity(&at("server"), "server", &[]);
    let client = first.identity(&at("client"), "alice", &[]);
    let stranger = second.identity(&at("stranger"), "mallory", &[]);
    let (cert, key) = (server.cert(), server.key());
    let urls = ["--listen-client-urls", "https://127.0.0.1:0", "--client-cert-auth", "--trusted-ca-file", &trusted];
    let mut member = Member::ours(&[ANYWHERE, &urls, &["--cert-file", &cert, "--key-file", &key]].concat());
    let address = member.address(SECURE);

    works(&program, &refs(&flags(&address, &first_ca, Some(&client))));
    assert!(!puts(&program, &flags(&address, &first_ca, None)).0, "nobody comes in without a certificate");
    assert!(!puts(&program, &flags(&address, &first_ca, Some(&stranger))).0, "nor with somebody else's");
    member.program.wait_for("rejected connection on client endpoint", 20);

    // What cannot be used changes nothing.
    std::fs::write(&server.cert, "nonsense").expect("written");
    works(&program, &refs(&flags(&address, &first_ca, Some(&client))));
    member.program.wait_for("failed to load changed TLS files; keeping those from before", 20);

    // A new certificate of another authority, and a new authority for clients.
    second.identity(&at("server"), "server", &[]);
    second.write(&at("trusted.pem"));
    poll::until("the new certificate is shown", 30, || {
        match puts(&program, &flags(&address, &second_ca, Some(&stranger))) {
            (true, _) => Ok(()),
            (false, said) => Err(said),
        }
    });
    assert!(!puts(&program, &flags(&address, &first_ca, Some(&client))).0, "the old ones are gone");
}

#[test]
fn only_certificates_for_an_allowed_host_come_in() {
    let Some(program) = peer("KELSON_TEST_ETCDCTL", "etcdctl over TLS") else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    let authority = Authority::new("authority");
    let trusted = authority.write(&at("ca.pem"));
    let server = authority.identity(&at("server"), "server", &[]);
    let allowed = authority.identity(&at("allowed"), "a", &["one.example.com"]);
    let other = authority.identity(&at("other"), "b", &["two.example.com"]);
    let (cert, key) = (server.cert(), server.key());
    let tls = ["--cert-file", &cert, "--key-file", &key, "--trusted-ca-file", &trusted];
    let only = ["--listen-client-urls", "https://127.0.0.1:0", "--client-cert-allowed-hostname", "x,one.example.com"];
    let bounds = ["--tls-max-version", "TLS1.2", "--cipher-suites", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"];
    let mut member = Member::ours(&[ANYWHERE, &tls, &only, &bounds].concat());
    let address = member.address(SECURE);
    works(&program, &refs(&flags(&address, &trusted, Some(&allowed))));
    assert!(!puts(&program, &flags(&address, &trusted, Some(&other))).0);
}

#[test]
fn generated_certificates_are_kept() {
    let Some(program) = peer("KELSON_TEST_ETCDCTL", "etcdctl over TLS") else { return };
    let arguments =
        [ANYWHERE, &["--listen-client-urls", "https://127.0.0.1:0", "--auto-tls", "--data-dir", "data"]].concat();
    let mut member = Member::ours(&arguments);
    let address = member.address(SECURE);
    let endpoint = format!("https://{address}");
    works(&program, &["--endpoints", &endpoint, "--insecure-transport=false", "--insecure-skip-tls-verify"]);
    let fixtures = member.folder.path().join("data/fixtures/client");
    let mode = std::fs::metadata(fixtures.join("key.pem")).expect("a key").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let cert = fixtures.join("cert.pem").display().to_string();
    works(&program, &refs(&flags(&address, &cert, None)));
    let before = std::fs::read(&cert).expect("a certificate");
    let member = Member::in_folder(member.stop(), &arguments);
    assert_eq!(
        std::fs::read(member.folder.path().join("data/fixtures/client/cert.pem")).expect("a certificate"),
        before
    );
}
