//! Clusters for tests: the binary under test as users start it, on free ports and a folder of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::program::Program;

/// The binary under test.
pub const KELSON: &str = env!("CARGO_BIN_EXE_kelson");

/// Longest start of a cluster on a busy machine, in seconds.
pub const START: u64 = 120;

/// A program named by an environment variable, or `None` with one visible line that says what is skipped.
pub fn peer(variable: &str, what: &str) -> Option<PathBuf> {
    match std::env::var_os(variable).filter(|path| !path.is_empty()) {
        Some(path) => Some(path.into()),
        None => {
            // Straight to the terminal: the test harness hides what a passing test prints.
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "SKIPPED: {what} ({variable} names no program; `make test` sets it)");
            None
        }
    }
}

/// A cluster and how to reach it. Ends when dropped.
pub struct Cluster {
    pub kubeconfig: PathBuf,
    /// Where etcd clients go, `http://host:port`.
    pub etcd: String,
    pub folder: TempDir,
    pub programs: Vec<Program>,
}

impl Cluster {
    /// `kelson dev` with this many nodes and further flags.
    pub fn dev(nodes: u32, flags: &[&str]) -> Cluster {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let program = start_dev(folder.path(), nodes, flags);
        let mut cluster = Cluster {
            kubeconfig: folder.path().join("data/kubeconfig"),
            etcd: String::new(),
            folder,
            programs: vec![program],
        };
        cluster.ready();
        cluster
    }

    /// Waits until `kelson dev` says `ready`, and notes where the store is.
    pub fn ready(&mut self) {
        self.programs[0].wait_until_ready(START);
        self.etcd = address_of(&self.programs[0].output(), "http://");
    }

    /// The same parts as separate processes on a real etcd.
    pub fn on_etcd(etcd: &Path, nodes: u32) -> Cluster {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| folder.path().join(name).display().to_string();
        let (client, peer) = (free_port(), free_port());
        let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let mut programs = Vec::new();
        let mut start = |name: &str, program: &Path, arguments: &[&str], sign: &str| {
            let mut started = Program::start(name, Command::new(program).args(arguments));
            started.wait_for(sign, START);
            programs.push(started);
        };
        start(
            "etcd",
            etcd,
            &[
                "--data-dir",
                &at("etcd"),
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
                "--initial-cluster",
                &format!("default={peer}"),
            ],
            "ready to serve client requests",
        );
        let kelson = Path::new(KELSON);
        let pki = at("pki");
        start(
            "kelson apiserver",
            kelson,
            &["apiserver", "--etcd-servers", &client, "--api-listen", "127.0.0.1:0", "--cert-dir", &pki],
            "ready",
        );
        for component in ["controllers", "scheduler"] {
            let kubeconfig = format!("{pki}/{component}.kubeconfig");
            start(&format!("kelson {component}"), kelson, &[component, "--kubeconfig", &kubeconfig], "ready");
        }
        let kubeconfig = format!("{pki}/nodesim.kubeconfig");
        start(
            "kelson nodesim",
            kelson,
            &["nodesim", "--kubeconfig", &kubeconfig, "--cert-dir", &pki, "--nodes", &nodes.to_string()],
            "ready",
        );
        Cluster { kubeconfig: format!("{pki}/admin.kubeconfig").into(), etcd: client, folder, programs }
    }
}

/// Starts `kelson dev` on `folder/data` without waiting for it.
pub fn start_dev(folder: &Path, nodes: u32, flags: &[&str]) -> Program {
    let data = folder.join("data").display().to_string();
    let nodes = nodes.to_string();
    let mut command = Command::new(KELSON);
    command.args(["dev", "--nodes", &nodes, "--data-dir", &data]);
    command.args(["--client-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0"]).args(flags);
    Program::start("kelson dev", &mut command)
}

/// The first word of `text` that starts with `prefix`.
pub fn address_of(text: &str, prefix: &str) -> String {
    let found = text.split_whitespace().find(|word| word.starts_with(prefix));
    found.unwrap_or_else(|| panic!("no {prefix} address in:\n{text}")).to_string()
}

/// A port that nobody listens on now.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}
