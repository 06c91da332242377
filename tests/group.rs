//! Several members of one cluster, each a process of its own.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::cluster::{KELSON, START, free_port};
use crate::network::Network;
use crate::poll;
use crate::program::Program;

/// Bound on what an orderly end takes, in seconds.
const PATIENCE: u64 = 60;

/// One member, running or not.
pub struct Member {
    pub name: String,
    address: String,
    /// Of clients and of members.
    ports: [u16; 2],
    pub program: Option<Program>,
}

/// The members, on loopback or each on a host of a network.
pub struct Group {
    folder: TempDir,
    pub members: Vec<Member>,
    pub network: Option<Network>,
}

impl Member {
    pub fn on_loopback(name: &str) -> Member {
        let address = "127.0.0.1".to_owned();
        Member { name: name.to_owned(), address, ports: [free_port(), free_port()], program: None }
    }

    fn on_host(name: &str, address: String) -> Member {
        Member { name: name.to_owned(), address, ports: [2379, 2380], program: None }
    }

    pub fn client(&self) -> String {
        format!("http://{}:{}", self.address, self.ports[0])
    }

    pub fn peer(&self) -> String {
        format!("http://{}:{}", self.address, self.ports[1])
    }
}

impl Group {
    pub fn new(names: &[&str], network: Option<Network>) -> Group {
        let member = |(host, name): (usize, &&str)| match &network {
            Some(network) => Member::on_host(name, network.address(host)),
            None => Member::on_loopback(name),
        };
        let members = names.iter().enumerate().map(member).collect();
        Group { folder: tempfile::tempdir().expect("a temporary folder"), members, network }
    }

    /// What `--initial-cluster` says of all of them.
    pub fn named(&self) -> String {
        self.members.iter().map(|member| format!("{}={}", member.name, member.peer())).collect::<Vec<_>>().join(",")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts a member, and returns at once: a cluster is ready when most of its members are.
    pub fn begin(&mut self, at: usize, state: &str) {
        let cluster = self.named();
        let member = &self.members[at];
        let (client, peer) = (member.client(), member.peer());
        let mut command = match &self.network {
            Some(network) => network.command(at, KELSON),
            None => Command::new(KELSON),
        };
        command.args(["store", "--name", &member.name, "--initial-cluster", &cluster]);
        command.args(["--initial-cluster-state", state]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.arg("--data-dir").arg(self.path(&member.name));
        self.members[at].program = Some(Program::start(&member.name, &mut command));
    }

    pub fn ready(&mut self, at: usize) {
        let program = self.members[at].program.as_mut().expect("it was begun");
        program.wait_for("ready to serve client requests", START);
    }

    /// Waits until a member that was begun hears the others.
    pub fn serves_peers(&self, at: usize) {
        let peer = self.members[at].peer();
        let address = peer.trim_start_matches("http://").to_owned();
        poll::until("it listens", START, || std::net::TcpStream::connect(&address).map(drop));
    }

    pub fn start_all(&mut self) {
        (0..self.members.len()).for_each(|at| self.begin(at, "new"));
        (0..self.members.len()).for_each(|at| self.ready(at));
    }

    pub fn kill(&mut self, at: usize) {
        self.members[at].program.take().expect("it runs").kill();
    }

    pub fn terminate(&mut self, at: usize) {
        let mut program = self.members[at].program.take().expect("it runs");
        program.signal(libc::SIGTERM);
        poll::until("it ends in order", PATIENCE, || program.try_ended().ok_or(program.output()));
    }

    /// Sends a signal to a member.
    pub fn signal(&self, at: usize, signal: i32) {
        self.members[at].program.as_ref().expect("it runs").signal(signal);
    }

    pub fn endpoints(&self, of: impl IntoIterator<Item = usize>) -> String {
        of.into_iter().map(|at| self.members[at].client()).collect::<Vec<_>>().join(",")
    }
}
