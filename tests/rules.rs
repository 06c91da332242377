//! House rules that a machine can hold: file length, stray files, words that do not belong.

use std::path::Path;
use std::process::Command;

/// Longest source file, in lines. A longer one is asking for a second room.
const MAX_LINES: usize = 800;

/// What may lie at the top level.
const TOP: &[&str] = &[
    ".ci",
    ".gitignore",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "api",
    "benches",
    "deny.toml",
    "docs",
    "engine",
    "fuzz",
    "nodesim",
    "raft",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "sched",
    "src",
    "tests",
];

/// Endings of the files that a repository of sources has.
const ENDINGS: &[&str] =
    &["rs", "toml", "md", "proto", "txt", "yaml", "json", "lock", "go", "mod", "sum", "sh", "svg", "png", "py", "js"];

/// Marks of unfinished work. Spelled in halves, so that this file does not match itself.
const UNFINISHED: &[&[&str]] = &[
    &["todo", "!("],
    &["unimplemented", "!("],
    &["FIX", "ME"],
    &["dbg", "!("],
    &["#[ig", "nore"],
    &["allow(dead", "_code)"],
];

/// The one file of each test folder that may sleep: it holds the helpers that poll with a deadline.
const MAY_SLEEP: &str = "/poll.rs";

/// Tracked files, by path from the root. Outside a git checkout (a source archive) there is nothing to hold.
fn tracked() -> Vec<String> {
    let output = Command::new("git").args(["ls-files", "-z"]).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let output = output.expect("git is installed");
    assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let listed = String::from_utf8(output.stdout).expect("paths are UTF-8");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    listed.split('\0').filter(|path| !path.is_empty() && root.join(path).exists()).map(String::from).collect()
}

fn complaints(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    if path.ends_with(".rs") {
        if text.lines().count() > MAX_LINES {
            found.push(format!("{path}: {} lines, at most {MAX_LINES}", text.lines().count()));
        }
        for mark in UNFINISHED.iter().map(|halves| halves.concat()) {
            if text.contains(&mark) {
                found.push(format!("{path}: {mark}"));
            }
        }
        let in_tests = path.starts_with("tests/") || path.contains("/tests/");
        let sleeps = ["thread::sleep(", "time::sleep("].iter().any(|sleep| text.contains(sleep));
        if in_tests && sleeps && !path.ends_with(MAY_SLEEP) {
            found.push(format!("{path}: a sleep; poll for the state with the helper in poll.rs"));
        }
    }
    found
}

#[test]
fn sources_keep_the_house_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for path in tracked() {
        if path != file!() {
            let text = std::fs::read(root.join(&path)).expect("a tracked file can be read");
            found.extend(complaints(&path, &String::from_utf8_lossy(&text)));
        }
    }
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn no_stray_files() {
    let mut found = Vec::new();
    for path in tracked() {
        let top = path.split('/').next().unwrap_or_default();
        let ending = path.rsplit_once('.').map_or("", |(_, ending)| ending);
        let plain = ["LICENSE", "Makefile", ".gitignore"].contains(&path.as_str()) || top == ".ci";
        let corpus = path.starts_with("fuzz/corpus/");
        if !TOP.contains(&top) || !(plain || corpus || ENDINGS.contains(&ending)) {
            found.push(path);
        }
    }
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn a_broken_rule_is_noticed() {
    assert_eq!(complaints("engine/src/long.rs", &"\n".repeat(MAX_LINES + 1)).len(), 1);
    assert_eq!(complaints("engine/src/late.rs", &format!("fn f() {{ {}) }}", UNFINISHED[0].concat())).len(), 1);
    for path in ["tests/slow.rs", "raft/src/tests/slow.rs", "api/etcd/tests/it/slow.rs"] {
        assert_eq!(complaints(path, "let deadline = now; std::thread::sleep(second)").len(), 1, "{path}");
    }
    assert!(complaints("raft/src/tests/poll.rs", "tokio::time::sleep(step)").is_empty());
    assert!(complaints("engine/src/fine.rs", "fn f() {}").is_empty());
}
