//! A million leases on one node, without any network:
//! `cargo run --release -p kelson-raft --features rocksdb --example leases -- [leases]`.
//!
//! Prints how fast they are granted and get a key each, what they cost in memory, how long a list, a restart and a round
//! of checkpoints take, and how puts fare while all of them run out at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use kelson_engine::{Command, command::Put};
use kelson_raft::{Clock, Config, Data, Node};

const TTL: i64 = 3600;
const CLIENTS: usize = 512;

/// A clock that also jumps when told to.
#[derive(Debug)]
struct Jumping {
    start: Instant,
    jumped_ms: AtomicU64,
}

impl Clock for Jumping {
    fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64 + self.jumped_ms.load(Ordering::SeqCst)
    }
}

fn main() {
    let leases: i64 = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(1_000_000);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let clock = Arc::new(Jumping { start: Instant::now(), jumped_ms: AtomicU64::new(0) });
    let config = Config { clock: clock.clone(), ..Config::new("bench", Data::Dir(dir.path().to_owned())) };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let node = Node::open(config.clone()).await.expect("a node");
        println!("empty: {} MiB", rss_mib());
        each(&node, "granted", leases, |id| Command::LeaseGrant { id, ttl: TTL }).await;
        each(&node, "keys put on them", leases, |id| {
            let key = format!("/leased/{id:08}").into();
            Command::Put(Put { key, value: "value".into(), lease: id, ..Put::default() })
        })
        .await;
        let start = Instant::now();
        let listed = node.reader().leases().count();
        println!("{listed} listed in {:.2} s", start.elapsed().as_secs_f64());

        println!("puts, idle:               {}", puts(&node, Duration::from_secs(3)).await);
        clock.jumped_ms.fetch_add(600_000, Ordering::SeqCst);
        let start = Instant::now();
        let unnoted = |node: &Node| node.reader().leases().filter(|lease| lease.remaining == 0).count();
        while unnoted(&node) > 0 {
            println!(
                "puts during checkpoints:  {} ({} to go)",
                puts(&node, Duration::from_secs(5)).await,
                unnoted(&node)
            );
        }
        println!("all noted after {:.1} s", start.elapsed().as_secs_f64());

        node.shutdown().await.expect("an orderly end");
        drop(node);
        let start = Instant::now();
        let node = Node::open(config).await.expect("a node");
        let left = node.lease_remaining(1).await.ok().flatten().unwrap_or(-1);
        println!("open again: {:.2} s, {} MiB, lease 1 has {left} s left", start.elapsed().as_secs_f64(), rss_mib());

        clock.jumped_ms.fetch_add(TTL as u64 * 1000, Ordering::SeqCst);
        let start = Instant::now();
        while node.reader().lease_count() > 0 {
            println!(
                "puts during mass expiry:  {} ({} to go)",
                puts(&node, Duration::from_secs(5)).await,
                node.reader().lease_count()
            );
        }
        println!("all ended after {:.1} s, {} MiB", start.elapsed().as_secs_f64(), rss_mib());
        node.shutdown().await.expect("an orderly end");
    });
}

async fn each(node: &Node, what: &str, count: i64, command: impl Fn(i64) -> Command) {
    let start = Instant::now();
    let proposals = stream::iter(1..=count).map(|id| node.propose(command(id)));
    proposals
        .buffer_unordered(CLIENTS)
        .for_each(|outcome| {
            outcome.expect("an outcome");
            std::future::ready(())
        })
        .await;
    let took = start.elapsed().as_secs_f64();
    println!("{count} {what} in {took:.1} s, {:.0}/s, {} MiB", count as f64 / took, rss_mib());
}

/// What one client after the other sees for some time.
async fn puts(node: &Node, time: Duration) -> String {
    let (start, mut latencies) = (Instant::now(), Vec::new());
    while start.elapsed() < time {
        let put = Put { key: "/plain".into(), value: "value".into(), ..Put::default() };
        let begin = Instant::now();
        node.propose(Command::Put(put)).await.expect("a put");
        latencies.push(begin.elapsed().as_micros() as u64);
    }
    latencies.sort_unstable();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    format!("{} puts, p50 {} us, p99 {} us, longest {} us", latencies.len(), at(0.5), at(0.99), at(1.0))
}

fn rss_mib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4 / 1024
}
