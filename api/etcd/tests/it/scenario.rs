//! Stories that a client tells an etcd, as text: a line for each request, and below it what came back.
//!
//! The expected answers are those of a real etcd. Each file runs on a fresh store of ours, and on a real etcd where
//! `KELSON_TEST_ETCD` names one. `KELSON_UPDATE_SCENARIOS=1` together with it writes the real one's answers into the
//! files. The grammar is in `scenario/parse.rs`.

mod parse;
mod render;
mod run;

use std::path::{Path, PathBuf};

use kelson_etcd::ServerOptions;
use kelson_wire::real_etcd::RealEtcd;

use crate::harness::Server;
use run::Client;

/// Begins the lines of what came back.
const ANSWER: &str = "  ";

fn files() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 7, "scenarios are missing");
    files
}

/// Tells the story to the server and returns it with the answers that came.
async fn retell(story: &str, url: &str) -> String {
    let mut client = Client::connect(url).await;
    let mut told = String::new();
    for line in story.lines().filter(|line| !line.starts_with(ANSWER)) {
        told.push_str(line);
        told.push('\n');
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        for answer in client.say(line).await {
            told.push_str(ANSWER);
            told.push_str(&answer);
            told.push('\n');
        }
    }
    told
}

fn compare(file: &Path, expected: &str, told: &str) -> usize {
    let mut differences = 0;
    let (expected, told): (Vec<_>, Vec<_>) = (expected.lines().collect(), told.lines().collect());
    for number in 0..expected.len().max(told.len()) {
        let (want, got) = (expected.get(number), told.get(number));
        if want != got {
            eprintln!("{}:{}:\n  expected {want:?}\n  got      {got:?}", file.display(), number + 1);
            differences += 1;
            if differences >= 5 {
                break;
            }
        }
    }
    differences
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ours() {
    let mut differences = 0;
    for file in files() {
        let story = std::fs::read_to_string(&file).unwrap();
        let server = Server::start(ServerOptions::default()).await;
        let told = retell(&story, &server.url()).await;
        differences += compare(&file, &story, &told);
        server.stop().await;
    }
    assert_eq!(differences, 0, "differences from what a real etcd answers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real() {
    let mut differences = 0;
    for file in files() {
        let Some(etcd) = RealEtcd::start(&[]) else { return };
        let story = std::fs::read_to_string(&file).unwrap();
        let told = retell(&story, etcd.endpoint()).await;
        if std::env::var_os("KELSON_UPDATE_SCENARIOS").is_some() {
            std::fs::write(&file, told).unwrap();
        } else {
            differences += compare(&file, &story, &told);
        }
    }
    assert_eq!(differences, 0, "the expected answers are not a real etcd's");
}
