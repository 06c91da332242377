//! Whole nodes on storage that can be held, cut off and looked into.

mod batching;
mod cluster;
mod crash;
mod disk;
mod durable;
mod expiry;
#[cfg(feature = "rocksdb")]
mod flips;
mod founding;
mod lifecycle;
#[path = "../../../tests/faults/linear.rs"]
mod linear;
mod net;
mod poll;
mod power;
#[cfg(feature = "rocksdb")]
mod rocks;
mod suite;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use kelson_engine::{
    Command, MemoryBackend, Outcome,
    command::{KeyRange, KeyValue, Put, RangeRequest},
};

use self::{
    disk::TestDisk,
    poll::{DEADLINE, eventually},
};
use crate::{Clock, Config, Data, Error, Node, start::Parts};

/// A clock that stands until it is turned.
#[derive(Debug, Default)]
struct HandClock(AtomicU64);

impl HandClock {
    fn turn_to(&self, ms: u64) {
        self.0.store(ms, Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

fn config() -> Config {
    Config { lease_check: Duration::from_millis(5), ..Config::new("test", Data::Memory) }
}

fn put(key: impl Into<String>, value: impl Into<String>) -> Command {
    Command::Put(Put { key: key.into().into(), value: value.into().into(), ..Put::default() })
}

/// A node on a disk and a backend that the test keeps hold of.
async fn open(config: Config, disk: &Arc<TestDisk>, backend: &Arc<MemoryBackend>) -> Result<Node, Error> {
    Node::open_parts(config, Parts::of(disk.clone(), backend.clone())).await
}

/// Puts a key and returns the store's revision after it.
async fn write(node: &Node, key: impl Into<String>, value: impl Into<String>) -> i64 {
    match node.propose(put(key, value)).await.unwrap() {
        Outcome::Put { revision, .. } => revision,
        other => panic!("a put answered with {other:?}"),
    }
}

/// Every key, in order.
fn dump(node: &Node) -> Vec<KeyValue> {
    let request = RangeRequest::whole(KeyRange { start: vec![0].into(), end: vec![0].into() }, 0);
    node.reader().range(&request).unwrap().1.kvs
}

fn keys(node: &Node) -> Vec<String> {
    dump(node).iter().map(|kv| String::from_utf8(kv.key.to_vec()).unwrap()).collect()
}
