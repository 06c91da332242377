//! `kelson store` as a process that is killed, stopped and started again on one folder and one port.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::cluster::{KELSON, START, free_port};
use crate::program::Program;

/// A data directory and an address; the process comes and goes.
pub struct Place {
    folder: TempDir,
    /// Of clients and of peers.
    ports: [u16; 2],
}

/// What the store logs when it serves.
pub const READY: &str = "ready to serve client requests";

impl Place {
    pub fn new() -> Place {
        Place { folder: tempfile::tempdir().expect("a temporary folder"), ports: [free_port(), free_port()] }
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Where clients go.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[0])
    }

    /// The command that serves the data of `data` at this address.
    pub fn command_on(&self, data: &Path) -> Command {
        let (clients, peers) = (self.url(), format!("http://127.0.0.1:{}", self.ports[1]));
        let mut command = Command::new(KELSON);
        command.arg("store").arg("--data-dir").arg(data);
        command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
        command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
        command.args(["--initial-cluster", &format!("default={peers}")]);
        command
    }

    /// Starts the store on its own folder and waits until it serves.
    pub fn start(&self) -> Program {
        let mut program = Program::start("kelson store", &mut self.command_on(&self.data()));
        program.wait_for(READY, START);
        program
    }
}
