//! In and out with etcd's own tools: snapshots of ours on a real etcd, its snapshots here, and moving live.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use tempfile::TempDir;

use crate::cluster::{KELSON, START, free_port, peer};
use crate::program::Program;

/// etcd's three programs.
struct Peers {
    etcd: PathBuf,
    etcdctl: PathBuf,
    etcdutl: PathBuf,
}

fn peers() -> Option<Peers> {
    Some(Peers {
        etcd: peer("KELSON_TEST_ETCD", "snapshots to and from a real etcd")?,
        etcdctl: peer("KELSON_TEST_ETCDCTL", "snapshots to and from a real etcd")?,
        etcdutl: peer("KELSON_TEST_ETCDUTL", "snapshots to and from a real etcd")?,
    })
}

/// A store of either kind on its data directory; killed when dropped.
struct Server {
    url: String,
    program: Program,
}

const PEER: &str = "http://127.0.0.1:1";

impl Server {
    /// A real etcd with the name `m`.
    fn etcd(peers: &Peers, data: &Path) -> Server {
        let peer = format!("http://127.0.0.1:{}", free_port());
        Server::start("etcd", &mut Command::new(&peers.etcd), data, &peer)
    }

    /// `kelson store` with the name `m`.
    fn kelson(data: &Path) -> Server {
        Server::start("kelson store", Command::new(KELSON).arg("store"), data, PEER)
    }

    fn start(name: &str, command: &mut Command, data: &Path, peer: &str) -> Server {
        let url = format!("http://127.0.0.1:{}", free_port());
        command.args(["--name", "m", "--data-dir"]).arg(data);
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        if name == "etcd" {
            command.args(["--listen-peer-urls", peer]);
        } else {
            command.args(["--listen-peer-urls", &format!("http://127.0.0.1:{}", free_port())]);
        }
        command.args(["--initial-advertise-peer-urls", peer, "--initial-cluster", &format!("m={peer}")]);
        let mut program = Program::start(name, command);
        program.wait_for("ready to serve client requests", START);
        Server { url, program }
    }

    fn stop(mut self) {
        self.program.signal(libc::SIGTERM);
        self.program.ended(START);
    }
}

#[track_caller]
fn succeeds(output: Output) -> String {
    let text = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned();
    assert!(output.status.success(), "{text}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn fails(output: Output, expected: &str) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains(expected), "{expected:?} is not in: {text}");
}

fn kelson(arguments: &[&str]) -> Output {
    Command::new(KELSON).args(arguments).output().expect("kelson starts")
}

impl Peers {
    #[track_caller]
    fn ctl(&self, server: &Server, arguments: &[&str]) -> String {
        let mut command = Command::new(&self.etcdctl);
        succeeds(command.args(["--endpoints", &server.url]).args(arguments).output().expect("etcdctl starts"))
    }

    #[track_caller]
    fn utl(&self, arguments: &[&str]) -> String {
        succeeds(Command::new(&self.etcdutl).args(arguments).output().expect("etcdutl starts"))
    }

    /// Keys written, overwritten, deleted and written again, in transactions too; a compaction; leases, users, roles.
    fn fill(&self, server: &Server) -> i64 {
        for number in 0..40 {
            self.ctl(server, &["put", &format!("k/{:02}", number % 9), &format!("value {number}")]);
        }
        self.ctl(server, &["del", "k/03"]);
        self.ctl(server, &["put", "k/04", &"long ".repeat(4_000)]);
        self.ctl(server, &["compact", "20"]);
        let granted = self.ctl(server, &["lease", "grant", "5000"]);
        let id = granted.split_whitespace().nth(1).expect("an id").to_owned();
        self.ctl(server, &["put", "--lease", &id, "held", "by a lease"]);
        self.ctl(server, &["put", "k/03", "again"]);
        self.ctl(server, &["role", "add", "reader"]);
        self.ctl(server, &["role", "grant-permission", "reader", "--prefix=true", "read", "k/"]);
        self.ctl(server, &["user", "add", "ann:secret"]);
        self.ctl(server, &["user", "grant-role", "ann", "reader"]);
        self.ctl(server, &["user", "add", "root:top"]);
        self.revision(server)
    }

    fn revision(&self, server: &Server) -> i64 {
        self.json(server, &["get", "none"])["header"]["revision"].as_i64().expect("a revision")
    }

    fn json(&self, server: &Server, arguments: &[&str]) -> Value {
        let printed = self.ctl(server, &[arguments, &["-w", "json"]].concat());
        serde_json::from_str(&printed).expect("JSON")
    }

    /// Everything that a client can see and a snapshot holds: keys at every revision, hash, leases, users, roles.
    fn everything(&self, server: &Server) -> Vec<String> {
        let revision = self.revision(server);
        let mut seen = vec![format!("revision {revision}")];
        for at in (20..=revision).step_by(3).chain([revision]) {
            let kvs = &self.json(server, &["get", "", "--prefix", "--rev", &at.to_string()])["kvs"];
            seen.push(format!("{at}: {kvs}"));
        }
        let hash = &self.json(server, &["endpoint", "hashkv"])[0]["HashKV"];
        seen.push(format!(
            "hash {} of {}, compacted {}",
            hash["hash"], hash["hash_revision"], hash["compact_revision"]
        ));
        let leases = self.ctl(server, &["lease", "list"]);
        let id = leases.lines().nth(1).expect("a lease").to_owned();
        let lease = self.json(server, &["lease", "timetolive", &id, "--keys"]);
        seen.push(format!("{leases}, granted {}, keys {}", lease["granted-ttl"], lease["keys"]));
        for arguments in [&["user", "list"][..], &["role", "list"], &["user", "get", "ann"], &["role", "get", "reader"]]
        {
            seen.push(self.ctl(server, arguments));
        }
        seen
    }
}

fn folder() -> (TempDir, impl Fn(&str) -> String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().to_owned();
    (folder, move |name| path.join(name).display().to_string())
}

#[test]
fn a_snapshot_of_ours_becomes_a_real_etcd() {
    let Some(peers) = peers() else { return };
    let (_folder, at) = folder();
    let ours = Server::kelson(Path::new(&at("ours")));
    peers.fill(&ours);
    let expected = peers.everything(&ours);
    peers.ctl(&ours, &["snapshot", "save", &at("s.db")]);
    succeeds(kelson(&["snapshot", "save", &at("own.db"), "--endpoints", &ours.url]));
    let (theirs, own) = (std::fs::read(at("s.db")).expect("saved"), std::fs::read(at("own.db")).expect("saved"));
    assert!(theirs == own, "etcdctl and kelson save the same file");

    let status = peers.utl(&["snapshot", "status", &at("s.db"), "-w", "json"]);
    assert_eq!(succeeds(kelson(&["snapshot", "status", &at("s.db"), "-o", "json"])), status);
    let peer = format!("http://127.0.0.1:{}", free_port());
    let cluster = format!("m={peer}");
    let restore = ["snapshot", "restore", &at("s.db"), "--name", "m", "--data-dir", &at("etcd")];
    peers.utl(&[&restore[..], &["--initial-cluster", &cluster, "--initial-advertise-peer-urls", &peer]].concat());
    let etcd = Server::start("etcd", &mut Command::new(&peers.etcd), Path::new(&at("etcd")), &peer);
    assert_eq!(peers.everything(&etcd), expected);
    // It is the same password, and the store goes on.
    peers.ctl(&etcd, &["user", "grant-role", "root", "root"]);
    peers.ctl(&etcd, &["auth", "enable"]);
    peers.ctl(&etcd, &["--user", "ann:secret", "get", "k/01"]);
    peers.ctl(&etcd, &["--user", "root:top", "put", "new", "1"]);
}

#[test]
fn a_snapshot_of_a_real_etcd_is_restored_and_moved_live() {
    let Some(peers) = peers() else { return };
    let (_folder, at) = folder();
    let etcd = Server::etcd(&peers, Path::new(&at("etcd")));
    peers.fill(&etcd);
    peers.ctl(&etcd, &["snapshot", "save", &at("s.db")]);
    let status = peers.utl(&["snapshot", "status", &at("s.db"), "-w", "json"]);
    assert_eq!(succeeds(kelson(&["snapshot", "status", &at("s.db"), "-o", "json"])), status);
    succeeds(kelson(&["migrate", "--from", &etcd.url, "--name", "m", "--data-dir", &at("moved")]));
    // From a restored copy, because a running etcd answers HashKV of its own compaction from before it.
    succeeds(kelson(&["snapshot", "restore", &at("s.db"), "--name", "m", "--data-dir", &at("restored")]));
    let expected = peers.everything(&etcd);
    etcd.stop();
    for data in ["restored", "moved"] {
        let ours = Server::kelson(Path::new(&at(data)));
        assert_eq!(peers.everything(&ours), expected, "{data}");
        peers.ctl(&ours, &["put", "new", "1"]);
        ours.stop();
        // And after a restart.
        let ours = Server::kelson(Path::new(&at(data)));
        assert!(peers.ctl(&ours, &["get", "new"]).contains('1'));
    }
    // A plain copy of the file has no checksum; the data directory of an etcd is no place to restore to.
    let file = at("etcd/member/snap/db");
    fails(kelson(&["snapshot", "restore", &file, "--data-dir", &at("x")]), "--skip-hash-check");
    fails(kelson(&["snapshot", "restore", &at("s.db"), "--data-dir", &at("etcd")]), "it is not empty");
    let copied = ["snapshot", "restore", &file, "--skip-hash-check", "--name", "m", "--data-dir", &at("copied")];
    succeeds(kelson(&[&copied[..], &["--bump-revision", "1000", "--mark-compacted"]].concat()));
    let ours = Server::kelson(Path::new(&at("copied")));
    assert!(peers.revision(&ours) > 1000);
    assert!(peers.ctl(&ours, &["get", "k/03"]).contains("again"));
    // One byte of the content wrong.
    let mut bytes = std::fs::read(at("s.db")).expect("saved");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(at("bad.db"), bytes).expect("written");
    fails(kelson(&["snapshot", "restore", &at("bad.db"), "--data-dir", &at("x")]), "does not match its SHA-256");
    assert!(!Path::new(&at("x")).exists());
}

#[test]
fn what_only_root_may_have_is_moved_by_its_keys() {
    let Some(peers) = peers() else { return };
    let (_folder, at) = folder();
    let etcd = Server::etcd(&peers, Path::new(&at("etcd")));
    peers.fill(&etcd);
    let kvs = |server: &Server| peers.json(server, &["get", "", "--prefix"])["kvs"].to_string();
    let expected = (kvs(&etcd), peers.revision(&etcd), peers.ctl(&etcd, &["lease", "list"]));
    peers.ctl(&etcd, &["role", "grant-permission", "reader", "--prefix=true", "read", ""]);
    peers.ctl(&etcd, &["user", "grant-role", "root", "root"]);
    peers.ctl(&etcd, &["auth", "enable"]);
    let migrate = ["migrate", "--from", &etcd.url, "--name", "m", "--data-dir", &at("moved")];
    fails(kelson(&[&migrate[..], &["--user", "ann:wrong"]].concat()), "authentication failed");
    assert!(!Path::new(&at("moved")).exists());
    let printed = succeeds(kelson(&[&migrate[..], &["--user", "ann:secret"]].concat()));
    assert!(printed.contains("NOT moved: history") && printed.contains("users and roles"), "{printed}");
    let ours = Server::kelson(Path::new(&at("moved")));
    assert_eq!((kvs(&ours), peers.revision(&ours), peers.ctl(&ours, &["lease", "list"])), expected);
}

#[test]
fn a_snapshot_taken_under_writes_is_of_one_moment() {
    let Some(peers) = peers() else { return };
    let (_folder, at) = folder();
    let ours = Server::kelson(Path::new(&at("ours")));
    let done = AtomicBool::new(false);
    let (written, saved) = std::thread::scope(|scope| {
        // Each transaction writes a pair; a snapshot with half of one was not of one moment.
        let writer = scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(Ordering::SeqCst) {
                rounds += 1;
                let input = format!("\nput pair/a {rounds}\nput pair/b {rounds}\n\n\n");
                let mut command = Command::new(&peers.etcdctl);
                command.args(["--endpoints", &ours.url, "txn"]).stdin(std::process::Stdio::piped());
                let mut child = command.stdout(std::process::Stdio::null()).spawn().expect("etcdctl starts");
                use std::io::Write;
                child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("etcdctl reads");
                assert!(child.wait().expect("etcdctl ends").success());
            }
            rounds
        });
        let files: Vec<String> = (0..6).map(|number| at(&format!("{number}.db"))).collect();
        for file in &files {
            peers.ctl(&ours, &["snapshot", "save", file]);
        }
        done.store(true, Ordering::SeqCst);
        (writer.join().expect("the writer"), files)
    });
    assert!(written > 0);
    let mut last = 0;
    for (number, file) in saved.iter().enumerate() {
        let data = at(&format!("restored{number}"));
        succeeds(kelson(&["snapshot", "restore", file, "--name", "m", "--data-dir", &data]));
        let restored = Server::kelson(Path::new(&data));
        let revision = peers.revision(&restored);
        assert!(revision >= last, "snapshots go forward");
        last = revision;
        for at in 2..=revision {
            let kvs = peers.json(&restored, &["get", "pair/", "--prefix", "--rev", &at.to_string()])["kvs"].clone();
            assert_eq!((&kvs[0]["value"], kvs.as_array().map(Vec::len)), (&kvs[1]["value"], Some(2)), "at {at}");
        }
    }
}

#[test]
fn a_restore_that_was_killed_is_refused_and_can_be_repeated() {
    let (_folder, at) = folder();
    // Large enough that the kill meets the middle.
    let file = std::fs::File::create_new(at("s.db")).expect("a file");
    let writer = kelson_bolt::Writer::new(file, at("s.db")).expect("begun");
    let mut saver = kelson_bolt::schema::Saver::new(writer, Default::default()).expect("begun");
    for revision in 2..60_000_i64 {
        let key = format!("key{revision}");
        let (main, value) = (revision, [7; 300]);
        let kv = kelson_bolt::schema::KeyValue {
            key: key.as_bytes(),
            create_revision: main,
            mod_revision: main,
            version: 1,
            value: &value,
            lease: 0,
        };
        saver.write(kelson_bolt::schema::At { main, ..Default::default() }, &kv).expect("written");
    }
    saver.finish().expect("finished");
    let data = at("data");
    let arguments = ["snapshot", "restore", &at("s.db"), "--skip-hash-check", "--name", "m", "--data-dir", &data];
    let mut restoring = Program::start("kelson snapshot restore", Command::new(KELSON).args(arguments));
    let marked = || Path::new(&data).join("state/CURRENT").exists().then_some(()).ok_or("not begun");
    crate::poll::until("the restore has begun", START, marked);
    restoring.signal(libc::SIGKILL);
    restoring.ended(START);
    assert!(Path::new(&data).join("unfinished").exists(), "killed in the middle");
    let store = ["store", "--name", "m", "--data-dir", &data, "--listen-client-urls", "http://127.0.0.1:0"];
    let refused = kelson(&[&store[..], &["--advertise-client-urls", "http://127.0.0.1:1"]].concat());
    let text = String::from_utf8_lossy(&[refused.stdout, refused.stderr].concat()).into_owned();
    assert!(!refused.status.success() && text.contains("was not completed"), "{text}");
    let printed = succeeds(kelson(&arguments));
    assert!(printed.contains("revision 59999"), "{printed}");
    let server = Server::kelson(Path::new(&data));
    server.stop();
}
