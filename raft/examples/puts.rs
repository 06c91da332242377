//! Durable puts per second through one node, without any network:
//! `cargo run -p kelson-raft --features rocksdb --example puts`.
//!
//! Prints, per number of concurrent clients, puts per second, latency, CPU time per put of the whole process (the
//! clients' small share included), and puts per synced write of the log. Arguments, all of them optional: the seconds
//! per row, `memory` to leave the disk out, `clients=256` for one row only, and `keys=1000000` to write so many keys first
//! and then put at random among them.

use std::time::{Duration, Instant};

use kelson_engine::{Command, command::Put};
use kelson_raft::{Config, Data, Node};

/// What the binary uses.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const VALUE: usize = 1024;

fn main() {
    let seconds = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(3.0);
    let number = |name: &str| std::env::args().find_map(|arg| arg.strip_prefix(name)?.parse::<usize>().ok());
    let (only, keys) = (number("clients="), number("keys="));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let in_memory = std::env::args().any(|arg| arg == "memory");
    let data = || if in_memory { Data::Memory } else { Data::Dir(dir.path().to_owned()) };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let start = Instant::now();
        let node = Node::open(Config::new("bench", data())).await.expect("a node");
        println!("open: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
        if let Some(keys) = keys {
            let start = Instant::now();
            fill(&node, keys).await;
            println!("{keys} keys: {:.1} s", start.elapsed().as_secs_f64());
        }
        println!("clients     puts/s    p50 us    p99 us  CPU us/put  puts/sync   RSS MiB");
        for clients in [1, 64, 256, 1000].into_iter().filter(|clients| only.is_none_or(|only| only == *clients)) {
            row(&node, clients, keys, Duration::from_secs_f64(seconds)).await;
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

/// Writes keys in an order that leaves the index as random writes do.
async fn fill(node: &Node, keys: usize) {
    const WRITERS: usize = 1000;
    let writer = |first: usize, node: Node| async move {
        let value = bytes::Bytes::from(vec![b'v'; VALUE]);
        for number in (first..keys).step_by(WRITERS) {
            let put = Put { key: shared_key(number), value: value.clone(), ..Put::default() };
            node.propose(Command::Put(put)).await.expect("a put");
        }
    };
    let tasks: Vec<_> = (0..WRITERS).map(|first| tokio::spawn(writer(first, node.clone()))).collect();
    for task in tasks {
        task.await.expect("a writer");
    }
}

fn shared_key(number: usize) -> bytes::Bytes {
    format!("/registry/things/{:04}/{:06}", number % 1000, number / 1000).into()
}

async fn row(node: &Node, clients: usize, keys: Option<usize>, time: Duration) {
    let (cpu, syncs, start) = (cpu(), node.status().syncs.count, Instant::now());
    let tasks: Vec<_> =
        (0..clients).map(|client| tokio::spawn(client_loop(node.clone(), client, keys, start + time))).collect();
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

async fn client_loop(node: Node, client: usize, keys: Option<usize>, end: Instant) -> Vec<u32> {
    let value = bytes::Bytes::from(vec![b'v'; VALUE]);
    let mut random = client as u64;
    let mut latencies = Vec::new();
    for n in 0.. {
        let start = Instant::now();
        if start >= end {
            break;
        }
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let key = match keys {
            Some(keys) => shared_key((random >> 33) as usize % keys),
            None => format!("/registry/things/{client:04}/{:06}", n % 10_000).into(),
        };
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
