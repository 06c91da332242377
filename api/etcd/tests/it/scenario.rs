//! Stories that a client tells an etcd, as text: a line for each request, and below it what came back.
//!
//! The expected answers are those of a real etcd. Each file runs on a fresh store of ours, and on a real etcd where
//! `KELSON_TEST_ETCD` names one. `KELSON_UPDATE_SCENARIOS=1` together with it writes the real one's answers into the
//! files. The grammar is in `scenario/parse.rs`.

pub mod exempt;
pub mod parse;
pub mod render;
pub mod run;
pub mod stream;
pub mod users;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use futures_util::StreamExt;
use kelson_etcd::{AuthOptions, ServerOptions};
use kelson_wire::real_etcd::RealEtcd;

use crate::harness::Server;
use exempt::Exemption;
use run::Client;

/// Begins the lines of what came back.
const ANSWER: &str = "  ";

fn files() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 24, "scenarios are missing");
    files
}

/// A request of a story, and what came back.
#[derive(Debug, PartialEq)]
pub struct Said {
    /// The number of the request's line.
    line: usize,
    pub request: String,
    pub answers: Vec<String>,
}

/// The requests of a story, with the answers that it expects.
fn requests(story: &str) -> Vec<Said> {
    let mut all: Vec<Said> = Vec::new();
    for (number, line) in (1..).zip(story.lines()) {
        if let Some(answer) = line.strip_prefix(ANSWER) {
            all.last_mut().expect("an answer follows a request").answers.push(answer.to_owned());
        } else if !line.is_empty() && !line.starts_with('#') {
            all.push(Said { line: number, request: line.to_owned(), answers: Vec::new() });
        }
    }
    all
}

/// Says each request of the story by `say`, and returns it with the answers that came.
pub async fn retell(story: &str, mut say: impl AsyncFnMut(&str) -> Vec<String>) -> String {
    let mut told = String::new();
    for line in story.lines().filter(|line| !line.starts_with(ANSWER)) {
        told.push_str(line);
        told.push('\n');
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        for answer in say(line).await {
            told.push_str(ANSWER);
            told.push_str(&answer);
            told.push('\n');
        }
    }
    told
}

/// What differs, as text; exemptions that were made are added to `used`.
fn compare(file: &Path, expected: &str, told: &str, exempt: &[Exemption], used: &mut BTreeSet<usize>) -> Vec<String> {
    let mut differences = Vec::new();
    for (want, got) in requests(expected).iter().zip(&requests(told)) {
        if want.answers == got.answers {
            continue;
        }
        match exempt.iter().position(|exemption| exemption.covers(&want.request, &want.answers, &got.answers)) {
            Some(at) => _ = used.insert(at),
            None => differences.push(format!(
                "{}:{}: {}\n  expected {:#?}\n  got {:#?}",
                file.display(),
                want.line,
                want.request,
                want.answers,
                got.answers
            )),
        }
    }
    // What follows a first difference often follows from it.
    differences.truncate(5);
    differences
}

/// Runs each file's story on a server of its own, some at a time.
async fn each_file(tell: impl AsyncFn(String) -> String) -> Vec<(PathBuf, String, String)> {
    let told = files().into_iter().map(async |file| {
        let story = std::fs::read_to_string(&file).unwrap();
        let told = tell(story.clone()).await;
        (file, story, told)
    });
    futures_util::stream::iter(told).buffered(4).collect().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ours() {
    let (exempt, mut used) = (exempt::all(), BTreeSet::new());
    let told = each_file(async |story| {
        let auth = AuthOptions { bcrypt_cost: 4, ..AuthOptions::default() };
        let server = Server::start(ServerOptions { auth, ..ServerOptions::default() }).await;
        let mut client = Client::connect(&server.url()).await;
        let told = retell(&story, async |line| client.say(line).await).await;
        server.stop().await;
        told
    });
    let mut differences = Vec::new();
    for (file, story, told) in told.await {
        differences.extend(compare(&file, &story, &told, &exempt, &mut used));
    }
    assert!(differences.is_empty(), "differences from what a real etcd answers:\n{}", differences.join("\n"));
    for (at, exemption) in exempt.iter().enumerate() {
        assert!(used.contains(&at), "no story needs this exemption: {} ({})", exemption.request, exemption.reason);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real() {
    if std::env::var_os("KELSON_TEST_ETCD").is_none() {
        return drop(RealEtcd::start(&[]));
    }
    let told = each_file(async |story| {
        let start = tokio::task::spawn_blocking(|| RealEtcd::start(&["--unsafe-no-fsync", "--bcrypt-cost", "4"]));
        let etcd = start.await.unwrap().expect("it is there");
        let mut client = Client::connect(etcd.endpoint()).await;
        retell(&story, async |line| client.say(line).await).await
    });
    let mut differences = Vec::new();
    for (file, story, told) in told.await {
        if std::env::var_os("KELSON_UPDATE_SCENARIOS").is_some() {
            std::fs::write(&file, told).unwrap();
        } else {
            differences.extend(compare(&file, &story, &told, &[], &mut BTreeSet::new()));
        }
    }
    assert!(differences.is_empty(), "the expected answers are not a real etcd's:\n{}", differences.join("\n"));
}
