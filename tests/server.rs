//! A store as a process of its own, ours or a real etcd, for tests that any etcd must pass.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::cluster::{KELSON, START, free_port};
use crate::program::Program;

#[derive(Clone)]
pub enum Kind {
    /// `kelson store`.
    Kelson,
    /// A real etcd, by its program.
    Etcd(PathBuf),
}

impl Kind {
    /// Ours, and a real etcd where `KELSON_TEST_ETCD` names one.
    pub fn all() -> Vec<Kind> {
        let etcd = std::env::var_os("KELSON_TEST_ETCD").filter(|path| !path.is_empty());
        [Kind::Kelson].into_iter().chain(etcd.map(|path| Kind::Etcd(path.into()))).collect()
    }

    pub fn name(&self) -> &'static str {
        match self {
            Kind::Kelson => "kelson store",
            Kind::Etcd(_) => "etcd",
        }
    }
}

/// A running store on an empty folder. Ends, and its data with it, when dropped.
pub struct Server {
    program: Option<Program>,
    kind: Kind,
    folder: TempDir,
    ports: [u16; 2],
}

impl Server {
    pub fn start(kind: &Kind) -> Server {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut server = Server { program: None, kind: kind.clone(), folder, ports: [free_port(), free_port()] };
        server.run();
        server
    }

    /// Where it serves clients.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[0])
    }

    /// A path beside its data, for what a test writes.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Kills it as a power cut would, and starts it again on the same data and port.
    pub fn restart(&mut self) {
        if let Some(program) = self.program.take() {
            program.kill();
        }
        self.run();
    }

    fn run(&mut self) {
        let (client, peer) = (self.url(), format!("http://127.0.0.1:{}", self.ports[1]));
        let mut command = match &self.kind {
            Kind::Kelson => {
                let mut command = Command::new(KELSON);
                command.arg("store");
                command
            }
            Kind::Etcd(program) => Command::new(program),
        };
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("default={peer}"), "--advertise-client-urls", &client]);
        command.arg("--data-dir").arg(self.path("data")).args(["--listen-client-urls", &client]);
        let mut program = Program::start(self.kind.name(), &mut command);
        program.wait_for("ready to serve client requests", START);
        self.program = Some(program);
    }
}
