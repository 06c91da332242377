//! Stories told over HTTP: etcd's JSON gateway, and what is beside it. As those over gRPC, they run on a fresh store of
//! ours and on a real etcd, whose answers are the expected ones.
//!
//! ```text
//! METHOD PATH [JSON]             a request; its status and body come back
//! begin NAME METHOD PATH [JSON]  a request that is not waited for
//! wait NAME                      its answer
//! open NAME METHOD PATH [JSON]   a request whose answer is a stream of lines
//! read NAME N                    the next lines of it
//! close NAME                     hang up
//! until PATH JSON => [no] TEXT   repeat a POST until its answer contains the text, or does not
//! ```
//!
//! In a request `b64(TEXT)` stands for the text in base64 and `$member` for the member's id. In answers, what differs from
//! store to store is a `~`. A file's first line may name flags of etcd's for both.

mod client;
mod mask;

use std::path::{Path, PathBuf};

use kelson_etcd::ServerOptions;
use kelson_wire::real_etcd::RealEtcd;

use crate::harness::Server;
use crate::scenario;
use client::Client;

const FLAGS: &str = "# flags:";

fn files() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/json");
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 7, "stories are missing");
    files
}

fn flags(story: &str) -> Vec<&str> {
    let first = story.lines().next().and_then(|line| line.strip_prefix(FLAGS)).unwrap_or_default();
    first.split_ascii_whitespace().collect()
}

fn options(flags: &[&str]) -> ServerOptions {
    let mut options = ServerOptions::default();
    for flag in flags {
        match flag.split_once('=') {
            Some(("--quota-backend-bytes", bytes)) => options.quota_bytes = bytes.parse().unwrap(),
            _ => panic!("no flag {flag}"),
        }
    }
    options
}

async fn retell(story: &str, address: &str) -> String {
    let mut client = Client::new(address).await;
    scenario::retell(story, async |line| client.say(line).await).await
}

/// Tells where two tellings differ, and in how many lines.
fn compare(file: &Path, expected: &str, told: &str) -> usize {
    let (expected, told): (Vec<_>, Vec<_>) = (expected.lines().collect(), told.lines().collect());
    let lines = 0..expected.len().max(told.len());
    let differ: Vec<_> = lines.filter(|number| expected.get(*number) != told.get(*number)).collect();
    for number in differ.iter().take(12) {
        let (want, got) = (expected.get(*number), told.get(*number));
        eprintln!("{}:{}:\n  expected {want:?}\n  got      {got:?}", file.display(), number + 1);
    }
    differ.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ours() {
    let mut differences = 0;
    for file in files() {
        let story = std::fs::read_to_string(&file).unwrap();
        let server = Server::start(options(&flags(&story))).await;
        let told = retell(&story, &server.address).await;
        differences += compare(&file, &story, &told);
        server.stop().await;
    }
    assert_eq!(differences, 0, "differences from what a real etcd answers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real() {
    let mut differences = 0;
    for file in files() {
        let story = std::fs::read_to_string(&file).unwrap();
        let Some(etcd) = RealEtcd::start(&flags(&story)) else { return };
        let told = retell(&story, etcd.endpoint().trim_start_matches("http://")).await;
        if std::env::var_os("KELSON_UPDATE_SCENARIOS").is_some() {
            std::fs::write(&file, told).unwrap();
        } else {
            differences += compare(&file, &story, &told);
        }
    }
    assert_eq!(differences, 0, "the expected answers are not a real etcd's");
}
