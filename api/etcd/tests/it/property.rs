//! Generated stories: our server, a naive model and, where `KELSON_TEST_ETCD` names one, a real etcd are told the same
//! and must answer the same.
//!
//! A story that they disagree on is made as short as it can be, told anew to fresh servers and printed as a file that
//! can be put among the scenarios. `KELSON_TEST_CASES` is the number of stories, `KELSON_TEST_SEED` has other ones
//! generated.

mod model;
mod refusals;
mod steps;
mod watches;

use std::sync::atomic::{AtomicUsize, Ordering};

use kelson_etcd::ServerOptions;
use kelson_wire::real_etcd::RealEtcd;
use proptest::collection::vec;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use crate::harness::Server;
use crate::scenario::exempt::{self, Exemption};
use crate::scenario::run::Client;
use model::Model;
use steps::Step;

/// Stories in a plain run of the tests: a few seconds.
const CASES: u32 = 96;

/// Stories that are told at the same time, each to servers of its own: most of a story's time is waiting.
const TELLERS: u32 = 4;

/// The key that every story begins with.
const FIRST: &str = "~";

/// Most steps of a story.
const STEPS: usize = 30;

/// Bytes of a teller's stack: strategies of strategies are large values where nothing is optimised away.
const STACK: usize = 64 << 20;

/// A server that lives through many stories.
struct Teller {
    url: String,
}

struct Pair {
    ours: Teller,
    etcd: Option<Teller>,
    exempt: Vec<Exemption>,
}

/// One request, and what each answered.
#[derive(Debug)]
struct Disagreement {
    told: String,
}

impl Teller {
    /// Empties the store but for one key, and forgets its history before that; returns the revision.
    async fn begin(&self, client: &mut Client) -> i64 {
        client.say("delete \\0 \\0").await;
        let leases = client.say("leases").await.concat();
        let ids = leases.split_once('[').unwrap().1.trim_end_matches(']');
        for id in ids.split(", ").filter(|id| !id.is_empty()) {
            client.say(&format!("revoke {id}")).await;
        }
        let put = client.say(&format!("put {FIRST} begin")).await.concat();
        let revision = put.trim_start_matches("rev=").parse().unwrap();
        assert_eq!(client.say(&format!("compact {revision}")).await, [format!("rev={revision}")]);
        revision
    }
}

impl Pair {
    /// Tells the steps to all of them, until they disagree.
    async fn tell(&self, steps: &[Step]) -> Result<usize, Disagreement> {
        let mut ours = Client::connect(&self.ours.url).await;
        let begin = self.ours.begin(&mut ours).await;
        let mut etcd = match &self.etcd {
            Some(teller) => {
                let mut client = Client::connect(&teller.url).await;
                assert_eq!(teller.begin(&mut client).await, begin, "they have lived through the same");
                Some(client)
            }
            None => None,
        };
        let mut model = Model::new(FIRST, "begin", begin);
        let lines = steps::lines(steps, begin);
        let mut told = format!("put {FIRST} begin\n  rev={begin}\ncompact {begin}\n  rev={begin}\n");
        for line in &lines {
            let we = ours.say(line).await;
            let model_says = model.say(line);
            let expected = match &mut etcd {
                Some(etcd) => etcd.say(line).await,
                None => model_says.clone(),
            };
            told += &format!("{line}\n{}", indented("  ", &expected));
            // The model knows nothing of answers that make no sense.
            let nonsense = self.exempt.iter().any(|exemption| exemption.names(line));
            if model_says != expected && !nonsense {
                told += &format!("# The model says:\n{}", indented("#   ", &model_says));
                return Err(Disagreement { told });
            }
            if we != expected && !self.exempt.iter().any(|exemption| exemption.covers(line, &expected, &we)) {
                told += &format!("# We say:\n{}", indented("#   ", &we));
                return Err(Disagreement { told });
            }
        }
        Ok(lines.len())
    }
}

fn indented(by: &str, lines: &[String]) -> String {
    lines.iter().map(|line| format!("{by}{line}\n")).collect()
}

fn number(variable: &str) -> Option<u32> {
    std::env::var(variable).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

/// One teller's share of the stories. `Err` is the story that failed.
fn run(teller: u32, cases: u32, seed: u32, requests: &AtomicUsize) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (server, etcd, pair) = start(&runtime);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 400, ..Config::default() };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&(u64::from(seed) << 32 | u64::from(teller)).to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let run = runner.run(&vec(steps::step(), 1..STEPS), |steps| match runtime.block_on(pair.tell(&steps)) {
        Ok(told) => {
            requests.fetch_add(told, Ordering::Relaxed);
            Ok(())
        }
        Err(disagreement) => Err(TestCaseError::fail(disagreement.told)),
    });
    let failed = match run {
        Ok(()) => Ok(()),
        Err(TestError::Fail(told, steps)) => {
            // On fresh servers, so that the story stands for itself.
            let (again, _etcd, fresh) = start(&runtime);
            let retold = runtime.block_on(fresh.tell(&steps));
            runtime.block_on(again.stop());
            Err(match retold {
                Err(disagreement) => disagreement.told,
                Ok(_) => format!("# Not on fresh servers; after other stories:\n{told}"),
            })
        }
        Err(TestError::Abort(reason)) => Err(format!("no stories: {reason}")),
    };
    runtime.block_on(server.stop());
    drop(etcd);
    failed
}

fn start(runtime: &tokio::runtime::Runtime) -> (Server, Option<RealEtcd>, Pair) {
    let server = runtime.block_on(Server::start(ServerOptions::default()));
    let etcd = RealEtcd::start(&["--unsafe-no-fsync"]);
    let ours = Teller { url: server.url() };
    let real = etcd.as_ref().map(|etcd| Teller { url: etcd.endpoint().to_owned() });
    (server, etcd, Pair { ours, etcd: real, exempt: exempt::all() })
}

#[test]
fn generated_stories_are_answered_as_by_etcd() {
    let cases = number("KELSON_TEST_CASES").unwrap_or(CASES).div_ceil(TELLERS);
    let seed = number("KELSON_TEST_SEED").unwrap_or(0);
    let requests = AtomicUsize::new(0);
    let failures: Vec<String> = std::thread::scope(|scope| {
        let requests = &requests;
        let runs: Vec<_> = (0..TELLERS)
            .map(|teller| {
                let thread = std::thread::Builder::new().stack_size(STACK);
                thread.spawn_scoped(scope, move || run(teller, cases, seed, requests)).unwrap()
            })
            .collect();
        runs.into_iter().filter_map(|run| run.join().unwrap().err()).collect()
    });
    let told = requests.into_inner();
    println!(
        "{} stories, {told} requests, the real etcd {}",
        cases * TELLERS,
        if std::env::var_os("KELSON_TEST_ETCD").is_some() { "too" } else { "absent" }
    );
    assert!(failures.is_empty(), "they disagree; the last request of each story:\n\n{}", failures.join("\n\n"));
    assert!(told > 0, "nothing was told");
}
