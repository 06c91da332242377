//! Client libraries of four ecosystems, unmodified: scripted sessions that print what they see, against our store and a
//! real etcd. What each must print was written by the real one (`KELSON_UPDATE_SCENARIOS=1`): `tests/data/sessions`.
//!
//! The programs are under `tests/peers`; `.ci/peers` builds and installs what they need where `KELSON_TEST_PEERS` says.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::poll;
use crate::program::Program;
use crate::server::{Kind, Server};

/// Longest session, in seconds.
const SESSION: u64 = 150;

/// Said by a session that wants the server to be restarted, and waits for a line.
const RESTART: &str = "RESTART";

struct Library {
    name: &'static str,
    /// The program among the peers, and what it is given before the endpoint.
    program: &'static str,
    script: Option<&'static str>,
    parts: &'static [&'static str],
}

fn peers() -> Option<PathBuf> {
    crate::cluster::peer("KELSON_TEST_PEERS", "client libraries against the store")
}

/// Runs a session to its end and returns what it printed.
fn session(library: &Library, peers: &Path, kind: &Kind) -> Option<String> {
    // Node itself is the machine's; only its library is among the peers.
    let node = library.program == "node";
    let program = if node { library.program.into() } else { peers.join(library.program) };
    let installed = if node { peers.join("node/node_modules/etcd3") } else { program.clone() };
    let mut command = Command::new(&program);
    let script = library.script.map(|script| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(script));
    if !installed.exists() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: the {} client library (make peers installs it)", library.name);
        return None;
    }
    let mut server = Server::start(kind);
    command.args(script).arg(server.url()).args(library.parts);
    command.env("NODE_PATH", peers.join("node/node_modules")).env("PYTHONWARNINGS", "ignore");
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    let (mut session, mut input) = Program::start_with_input(&format!("the {} session", library.name), &mut command);
    let mut restarted = false;
    let status = poll::until(&format!("{} session on {}", library.name, kind.name()), SESSION, || {
        if !restarted && session.output().lines().any(|line| line == RESTART) {
            restarted = true;
            server.restart();
            writeln!(input, "go on").expect("the session reads");
        }
        session.try_ended().ok_or_else(|| session.output())
    });
    let printed = session.output();
    assert!(status.success(), "{} on {}: {status}\n{printed}\n{}", library.name, kind.name(), session.errors());
    assert!(restarted == library.parts.contains(&"restarts"), "{printed}");
    Some(printed)
}

fn holds(library: &Library) {
    let Some(peers) = peers() else { return };
    let file = format!("{}/tests/data/sessions/{}.txt", env!("CARGO_MANIFEST_DIR"), library.name);
    for kind in Kind::all() {
        let Some(printed) = session(library, &peers, &kind) else { return };
        if std::env::var_os("KELSON_UPDATE_SCENARIOS").is_some() {
            if matches!(kind, Kind::Etcd(_)) {
                std::fs::write(&file, &printed).expect("the expected output is written");
            }
            continue;
        }
        let expected = std::fs::read_to_string(&file).expect("what it should print");
        for (number, (want, got)) in (1..).zip(expected.lines().zip(printed.lines())) {
            assert_eq!(got, want, "{file}:{number}, on {}", kind.name());
        }
        assert_eq!(printed.lines().count(), expected.lines().count(), "{} on {}", library.name, kind.name());
    }
}

#[test]
fn go_clientv3_and_its_concurrency_helpers() {
    let parts = &["basics", "transactions", "sizes", "leases", "locks", "auth", "restarts"];
    holds(&Library { name: "go", program: "session-go", script: None, parts });
}

#[test]
fn rust_etcd_client() {
    let parts = &["basics", "transactions", "sizes", "leases", "locks", "auth", "restarts"];
    holds(&Library { name: "rust", program: "session-rust", script: None, parts });
}

#[test]
fn python_etcd3() {
    let parts = &["basics", "transactions", "sizes", "leases", "locks", "auth", "restarts"];
    holds(&Library { name: "python", program: "python/bin/python", script: Some("python/session.py"), parts });
}

#[test]
fn node_etcd3() {
    let parts = &["basics", "transactions", "sizes", "leases", "locks", "auth", "restarts"];
    holds(&Library { name: "node", program: "node", script: Some("node/session.js"), parts });
}
