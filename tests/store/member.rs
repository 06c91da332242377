//! A member for tests: ours under the name `etcd`, or the real one, on free ports and in a folder of its own.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::cluster::{KELSON, START};
use crate::program::Program;

/// What a member prints when clients are served.
pub const READY: &str = "ready to serve client requests";

/// Flags that every machine can do: a free port for each listener.
pub const ANYWHERE: &[&str] = &[
    "--listen-peer-urls",
    "http://127.0.0.1:0",
    "--listen-client-urls",
    "http://127.0.0.1:0",
    "--advertise-client-urls",
    "http://127.0.0.1:2379",
];

/// A running member.
pub struct Member {
    pub program: Program,
    pub folder: TempDir,
}

/// A link to our binary by the name of etcd, in `folder`.
pub fn link(folder: &Path) -> PathBuf {
    let link = folder.join("etcd");
    if !link.exists() {
        std::os::unix::fs::symlink(KELSON, &link).expect("a link");
    }
    link
}

/// A command in `folder` without any of this process's own settings of an etcd.
pub fn command(program: &Path, folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ETCD_") {
            command.env_remove(name);
        }
    }
    command
}

impl Member {
    /// Ours, ready.
    pub fn ours(arguments: &[&str]) -> Member {
        Member::in_folder(tempfile::tempdir().expect("a temporary folder"), arguments)
    }

    /// Ours in a folder that has something in it.
    pub fn in_folder(folder: TempDir, arguments: &[&str]) -> Member {
        let program = link(folder.path());
        Member::run(&program, folder, arguments)
    }

    /// Any program that is started as etcd is.
    pub fn run(program: &Path, folder: TempDir, arguments: &[&str]) -> Member {
        let mut program = Program::start("etcd", &mut command(program, folder.path(), arguments));
        program.wait_for(READY, START);
        Member { program, folder }
    }

    /// Where a listener is, by what the log says of it (`serving client traffic`, `serving metrics`, ...).
    pub fn address(&mut self, message: &str) -> String {
        self.program.wait_for(message, START);
        let output = self.program.output();
        let entry = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find(|entry| {
            entry["msg"].as_str().is_some_and(|text| text.starts_with(message)) && entry["address"].is_string()
        });
        let entry = entry.unwrap_or_else(|| panic!("no address of {message:?} in:\n{output}"));
        entry["address"].as_str().expect("a text").to_owned()
    }

    /// Where clients come in without TLS.
    pub fn client(&mut self) -> String {
        self.address("serving client traffic insecurely")
    }

    /// Ends it as a service manager would; the folder stays.
    pub fn stop(mut self) -> TempDir {
        self.program.signal(libc::SIGTERM);
        self.program.ended(START);
        self.folder
    }
}

/// Runs etcdctl until it succeeds or fails; its output and whether it did.
pub fn etcdctl(program: &Path, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(program).args(arguments).output().expect("etcdctl starts");
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// Puts and gets a key; the flags say how to reach the member.
#[track_caller]
pub fn works(program: &Path, flags: &[&str]) {
    for (arguments, expected) in [(&["put", "key", "value"][..], "OK\n"), (&["get", "key"], "key\nvalue\n")] {
        let (done, text) = etcdctl(program, &[flags, arguments].concat());
        assert!(done && text == expected, "{flags:?}: {text}");
    }
}

/// The status and the body of a GET over plain HTTP/1.
pub fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    (status, text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}
