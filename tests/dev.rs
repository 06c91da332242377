//! `kelson dev` as a command: what it prints, what it leaves, and how it refuses.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::cluster::{Cluster, KELSON, START, start_dev};
use crate::program::Program;

/// Longest clean end, in seconds.
const END: u64 = 20;

#[test]
fn prints_where_things_are_and_ends_cleanly() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let mut cluster = Cluster::dev(3, &[]);
        let printed = cluster.programs[0].output();
        assert_eq!(printed.lines().rfind(|line| !line.trim().is_empty()).map(str::trim), Some("ready"), "{printed}");
        for part in ["https://127.0.0.1:", "http://127.0.0.1:", "kubeconfig", "kubectl", "get nodes"] {
            assert!(printed.contains(part), "{part:?} is not in:\n{printed}");
        }
        assert!(!printed.contains('\u{1b}'), "no colours into a pipe:\n{printed}");
        let mode = std::fs::metadata(&cluster.kubeconfig).expect("a kubeconfig").permissions().mode();
        assert_eq!(mode & 0o077, 0, "the kubeconfig holds a key");
        cluster.programs[0].signal(signal);
        let status = cluster.programs[0].ended(END);
        assert!(status.success(), "{status}: {}", cluster.programs[0].output());
    }
}

#[test]
fn ephemeral_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let kubeconfig = folder.path().join("kubeconfig");
    let mut command = Command::new(KELSON);
    command.args([
        "dev",
        "--nodes",
        "2",
        "--ephemeral",
        "--client-listen",
        "127.0.0.1:0",
        "--api-listen",
        "127.0.0.1:0",
    ]);
    command.arg("--kubeconfig").arg(&kubeconfig).env("TMPDIR", folder.path()).env("HOME", folder.path());
    let mut program = Program::start("kelson dev --ephemeral", &mut command);
    program.wait_until_ready(START);
    assert!(kubeconfig.exists());
    program.signal(libc::SIGTERM);
    assert!(program.ended(END).success());
    let left: Vec<_> =
        std::fs::read_dir(folder.path()).expect("the folder").map(|entry| entry.expect("entry").path()).collect();
    assert_eq!(left, [kubeconfig]);
}

/// Runs a command that must fail with exactly one line, which contains `expected`.
#[track_caller]
fn refuses(command: &mut Command, expected: &[&str]) {
    let mut program = Program::start("kelson", command);
    let status = program.ended(END);
    let printed = program.output();
    assert!(!status.success(), "{printed}");
    assert_eq!(printed.trim().lines().count(), 1, "one line:\n{printed}");
    for part in expected {
        assert!(printed.contains(part), "{part:?} is not in: {printed}");
    }
}

fn dev(flags: &[&str]) -> Command {
    let mut command = Command::new(KELSON);
    command.arg("dev").args(["--nodes", "1"]).args(flags);
    command
}

#[test]
fn a_busy_port_is_named_with_its_flag() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    for (flag, other) in [("--client-listen", "--api-listen"), ("--api-listen", "--client-listen")] {
        refuses(&mut dev(&["--ephemeral", flag, &address, other, "127.0.0.1:0"]), &[&address, flag, "in use"]);
    }
}

#[test]
fn an_unwritable_dir_is_named_with_its_flag() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // A file in the way stops root too, whom permissions do not.
    let blocked = folder.path().join("file");
    std::fs::write(&blocked, "").expect("a file");
    let dir = blocked.join("data").display().to_string();
    refuses(
        &mut dev(&["--data-dir", &dir, "--client-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0"]),
        &[&dir, "--data-dir"],
    );
}

#[test]
fn a_second_process_on_the_same_dir_is_refused() {
    let cluster = Cluster::dev(1, &[]);
    let mut second = start_dev(cluster.folder.path(), 1, &[]);
    let status = second.ended(END);
    let printed = second.output();
    assert!(!status.success(), "{printed}");
    assert_eq!(printed.trim().lines().count(), 1, "one line:\n{printed}");
    assert!(printed.contains("another process") && printed.contains("data"), "{printed}");
}

#[test]
fn unknown_flags_and_values_are_refused() {
    for flags in [&["--nodez", "1"][..], &["--nodes", "-1"], &["--nodes", "many"], &["--api-listen", "nowhere"]] {
        let output = Command::new(KELSON).arg("dev").args(flags).output().expect("kelson starts");
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(flags[0]), "{flags:?}");
    }
}
