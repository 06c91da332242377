//! A member's place in its surroundings: ids, directories, signals, the service manager, and how others start an etcd.

use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use super::certificates::Authority;
use super::member::{ANYWHERE, Member, READY, command, etcdctl, get, link, works};
use crate::cluster::{START, free_port, peer};
use crate::program::Program;

/// The ids that a member tells.
fn ids(etcdctl_program: &Path, mut member: Member) -> (u64, u64) {
    let endpoint = member.client();
    let (done, text) = etcdctl(etcdctl_program, &["--endpoints", &endpoint, "member", "list", "-w", "json"]);
    assert!(done, "{text}");
    let list: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let number = |value: &serde_json::Value| value.as_u64().expect("an id");
    (number(&list["header"]["cluster_id"]), number(&list["members"][0]["ID"]))
}

#[test]
fn ids_are_those_of_an_etcd_with_the_same_flags() {
    let Some(etcd) = peer("KELSON_TEST_ETCD", "ids of a real etcd") else { return };
    let Some(etcdctl) = peer("KELSON_TEST_ETCDCTL", "ids of a real etcd") else { return };
    for flags in [
        &[][..],
        &["--name", "a", "--initial-cluster-token", "other"],
        &[
            "--name",
            "b",
            "--initial-advertise-peer-urls",
            "http://127.0.0.1:7,http://127.0.0.1:17",
            "--initial-cluster",
            "b=http://127.0.0.1:7,b=http://127.0.0.1:17",
        ],
    ] {
        let arguments = [ANYWHERE, flags].concat();
        let real = Member::run(&etcd, tempfile::tempdir().expect("a temporary folder"), &arguments);
        assert_eq!(ids(&etcdctl, Member::ours(&arguments)), ids(&etcdctl, real), "{flags:?}");
    }
}

#[test]
fn a_signal_closes_everything_and_then_ends_the_process() {
    let arguments = [ANYWHERE, &["--data-dir", "data", "--wal-dir", "wal"]].concat();
    let mut folder = tempfile::tempdir().expect("a temporary folder");
    for (life, signal) in [libc::SIGTERM, libc::SIGINT].into_iter().enumerate() {
        let mut member = Member::in_folder(folder, &arguments);
        let initialized = member.program.output().contains("server has already been initialized");
        assert_eq!(initialized, life > 0);
        if let Some(program) = peer("KELSON_TEST_ETCDCTL", "keys across a restart") {
            let endpoint = member.client();
            if life == 0 {
                works(&program, &["--endpoints", &endpoint]);
            }
            let (done, text) = etcdctl(&program, &["--endpoints", &endpoint, "get", "key"]);
            assert!(done && text == "key\nvalue\n", "{text}");
        }
        member.program.signal(signal);
        let ended = member.program.ended(START);
        assert_eq!(ended.signal(), Some(signal), "{ended}");
        member.program.wait_for("closed etcd server", 20);
        folder = member.folder;
    }
    let mut logs = std::fs::read_dir(folder.path().join("wal")).expect("the folder of the log");
    assert!(logs.next().is_some() && !folder.path().join("data/log").exists());
}

#[test]
fn a_service_manager_hears_when_clients_are_served() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager.set_read_timeout(Some(Duration::from_secs(START))).expect("a timeout");
    let ours = link(folder.path());
    let mut start = command(&ours, folder.path(), ANYWHERE);
    let _program = Program::start("etcd", start.env("NOTIFY_SOCKET", &path));
    let mut heard = [0; 64];
    let length = manager.recv(&mut heard).expect("a word of the member");
    assert_eq!(&heard[..length], b"READY=1");
}

#[test]
fn an_etcds_directory_is_left_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir_all(folder.path().join("data/member/wal")).expect("a folder");
    let ours = link(folder.path());
    let arguments = [ANYWHERE, &["--data-dir", "data"]].concat();
    let output = command(&ours, folder.path(), &arguments).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("kelson migrate"), "{said}");
    assert!(!folder.path().join("data/lock").exists());
}

#[test]
fn logs_are_written_where_and_how_they_are_asked_for() {
    let more = ["--log-outputs", "stdout,logs.txt", "--log-format", "console", "--log-level", "warn"];
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ours = link(folder.path());
    let mut program = Program::start("etcd", &mut command(&ours, folder.path(), &[ANYWHERE, &more].concat()));
    program.wait_for("it isn't recommended to use default name", START);
    let file = std::fs::read_to_string(folder.path().join("logs.txt")).expect("a log");
    let line = file.lines().find(|line| line.contains("it isn't recommended")).expect("the warning");
    assert_eq!(line.split('\t').nth(1), Some("warn"), "{line}");
    assert!(!file.contains(READY) && !file.starts_with('{'), "{file}");
}

/// A file of tests/data/etcd with its places filled in.
fn fixture(name: &str, places: &[(&str, &str)]) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/etcd").join(name);
    let mut text = std::fs::read_to_string(path).expect("a fixture");
    for (place, value) in places {
        text = text.replace(place, value);
    }
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
}

#[test]
fn the_flags_of_a_kubeadm_manifest_start_a_member() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pki = folder.path().join("pki");
    let authority = Authority::new("etcd-ca");
    let server = authority.identity(&pki.join("server"), "node", &[]);
    authority.identity(&pki.join("peer"), "node", &[]);
    let ca = authority.write(&pki.join("ca.crt"));
    let (client, peers, metrics) = (free_port().to_string(), free_port().to_string(), free_port().to_string());
    let arguments = fixture(
        "kubeadm.txt",
        &[
            ("{client}", &client),
            ("{peer}", &peers),
            ("{metrics}", &metrics),
            ("{pki}", &pki.display().to_string()),
            ("{data}", &folder.path().join("data").display().to_string()),
        ],
    );
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let mut member = Member::in_folder(folder, &arguments);
    member.address("serving client traffic securely");
    assert_eq!(get(&format!("127.0.0.1:{metrics}"), "/health").0, 200);
    assert_eq!(get(&format!("127.0.0.1:{metrics}"), "/readyz").0, 200);
    if let Some(program) = peer("KELSON_TEST_ETCDCTL", "etcdctl on kubeadm's etcd") {
        let endpoint = format!("https://127.0.0.1:{client}");
        let (cert, key) = (server.cert(), server.key());
        works(&program, &["--endpoints", &endpoint, "--cacert", &ca, "--cert", &cert, "--key", &key]);
    }
}

#[test]
fn the_environment_of_a_chart_starts_a_member() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (client, peers) = (free_port().to_string(), free_port().to_string());
    let data = folder.path().join("data").display().to_string();
    let variables = fixture("chart.txt", &[("{client}", &client), ("{peer}", &peers), ("{data}", &data)]);
    let ours = link(folder.path());
    let mut start = command(&ours, folder.path(), &[]);
    start.envs(variables.iter().filter_map(|line| line.split_once('=')));
    let mut program = Program::start("etcd", &mut start);
    program.wait_for(READY, START);
    assert_eq!(get(&format!("127.0.0.1:{client}"), "/health").0, 200);
    assert!(!program.output().contains("not-for-logs"), "{}", program.output());
}
