//! Durable puts per second through one node, without any network:
//! `cargo run -p kelson-raft --features rocksdb --example puts`.
//!
//! Prints, per number of concurrent clients, puts per second, latency, CPU time per put of the whole process (the
//! clients' small share included), and puts per synced write of the log. Takes the seconds per row as an argument, and
//! `memory` to leave the disk out.

use std::time::{Duration, Instant};

use kelson_engine::{Command, command::Put};
use kelson_raft::{Config, Data, Node};

/// What the binary uses.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const VALUE: usize = 1024;

fn main() {
    let seconds = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(3.0);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let in_memory = std::env::args().any(|arg| arg == "memory");
    let data = || if in_memory { Data::Memory } else { Data::Dir(dir.path().to_owned()) };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let start = Instant::now();
        let node = Node::open(Config::new("bench", data())).await.expect("a node");
        println!("open: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
        println!("clients     puts/s    p50 us    p99 us  CPU us/put  puts/sync   RSS MiB");
        for clients in [1, 64, 256, 1000] {
            row(&node, clients, Duration::from_secs_f64(seconds)).await;
        }
        let status = node.status();
        println!("log {} KiB, state {} KiB", status.log_size >> 10, status.db_size >> 10);
        node.shutdown().await.expect("an orderly end");
        drop(node);
        let start = Instant::now();
        let node = Node::open(Config::new("bench", data())).await.expect("a node");
        println!("open again: {:.1} ms with {} keys", start.elapsed().as_secs_f64() * 1e3, node.reader().key_count());
        node.shutdown().await.expect("an orderly end");
    });
}

async fn row(node: &Node, clients: usize, time: Duration) {
    let (cpu, syncs, start) = (cpu(), node.status().syncs.count, Instant::now());
    let tasks: Vec<_> =
        (0..clients).map(|client| tokio::spawn(client_loop(node.clone(), client, start + time))).collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.expect("a client"));
    }
    let (took, puts) = (start.elapsed().as_secs_f64(), latencies.len());
    let syncs = node.status().syncs.count - syncs;
    latencies.sort_unstable();
    let at = |share: f64| latencies[((puts - 1) as f64 * share) as usize];
    println!(
        "{clients:>7} {:>10.0} {:>9} {:>9} {:>11.1} {:>10.1} {:>9}",
        puts as f64 / took,
        at(0.5),
        at(0.99),
        (self::cpu() - cpu).as_secs_f64() * 1e6 / puts as f64,
        puts as f64 / syncs as f64,
        rss_mib(),
    );
}

async fn client_loop(node: Node, client: usize, end: Instant) -> Vec<u32> {
    let value = bytes::Bytes::from(vec![b'v'; VALUE]);
    let mut latencies = Vec::new();
    for n in 0.. {
        let start = Instant::now();
        if start >= end {
            break;
        }
        let key = format!("/registry/things/{client:04}/{:06}", n % 10_000).into();
        let put = Put { key, value: value.clone(), ..Put::default() };
        node.propose(Command::Put(put)).await.expect("a put");
        latencies.push(start.elapsed().as_micros() as u32);
    }
    latencies
}

/// User and system time of this process; the kernel counts in hundredths of a second.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = after_name.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

fn rss_mib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4 / 1024
}
