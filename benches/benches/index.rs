//! Ordered maps as the index of a store: what a batch of puts costs the one writer, with a state published behind each
//! batch, and what a read costs.
//!
//! The persistent tree of the engine publishes a state by a clone. The others have none: they stand for an index whose
//! entries are changed in place, where readers find their revision in each key's history; what that history and a
//! consistent count would cost them is not in their figures. `KELSON_BENCH_KEYS=10000,1000000` chooses the sizes.

use std::hint::black_box;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use crossbeam_skiplist::SkipMap;
use kelson_engine::index::Index;

/// Puts of one batch, as group commit forms them under load.
const BATCH: usize = 128;
/// Keys of one scan: a page.
const PAGE: usize = 500;

/// A key of 48 bytes, as a pod's; neighbours in number lie far apart.
fn key(number: usize, keys: usize) -> String {
    let scattered = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) % keys as u64;
    format!("/registry/pods/namespace-{:04}/{scattered:019}", scattered % 1_000)
}

/// Looks at a page of revisions, and counts them.
fn seen(revisions: impl Iterator<Item = i64>) -> usize {
    revisions.take(PAGE).fold(0, |count, revision| {
        black_box(revision);
        count + 1
    })
}

/// An ordered map from key to the revision of its last put.
trait Map {
    const NAME: &'static str;

    fn new() -> Self;

    /// A batch of puts, published together.
    fn put(&mut self, keys: &[String], revision: i64);

    fn get(&self, key: &str) -> Option<i64>;

    fn scan(&self, start: &str) -> usize;
}

/// The engine's, with the state that readers have.
struct Tree {
    index: Index,
    published: Arc<Index>,
}

impl Map for Tree {
    const NAME: &'static str = "the engine's tree";

    fn new() -> Tree {
        Tree { index: Index::default(), published: Arc::default() }
    }

    fn put(&mut self, keys: &[String], revision: i64) {
        self.index.warm(keys.iter().map(String::as_bytes));
        for key in keys {
            self.index.put(key.as_bytes(), revision);
        }
        self.published = Arc::new(self.index.clone());
    }

    fn get(&self, key: &str) -> Option<i64> {
        self.published.get(key.as_bytes())
    }

    fn scan(&self, start: &str) -> usize {
        self.published.scan(start.as_bytes(), PAGE)
    }
}

struct Skip(SkipMap<Box<[u8]>, AtomicI64>);

impl Map for Skip {
    const NAME: &'static str = "crossbeam-skiplist";

    fn new() -> Skip {
        Skip(SkipMap::new())
    }

    fn put(&mut self, keys: &[String], revision: i64) {
        for key in keys {
            match self.0.get(key.as_bytes()) {
                Some(entry) => entry.value().store(revision, Relaxed),
                None => _ = self.0.insert(key.as_bytes().into(), AtomicI64::new(revision)),
            }
        }
    }

    fn get(&self, key: &str) -> Option<i64> {
        self.0.get(key.as_bytes()).map(|entry| entry.value().load(Relaxed))
    }

    fn scan(&self, start: &str) -> usize {
        let range = self.0.range::<[u8], _>((Bound::Included(start.as_bytes()), Bound::Unbounded));
        seen(range.map(|entry| entry.value().load(Relaxed)))
    }
}

struct Scc(scc::TreeIndex<Box<[u8]>, Arc<AtomicI64>>);

impl Map for Scc {
    const NAME: &'static str = "scc::TreeIndex";

    fn new() -> Scc {
        Scc(scc::TreeIndex::new())
    }

    fn put(&mut self, keys: &[String], revision: i64) {
        for key in keys {
            let known = self.0.peek_with(key.as_bytes(), |_, value| value.store(revision, Relaxed));
            if known.is_none() {
                let _ = self.0.insert_sync(key.as_bytes().into(), Arc::new(AtomicI64::new(revision)));
            }
        }
    }

    fn get(&self, key: &str) -> Option<i64> {
        self.0.peek_with(key.as_bytes(), |_, value| value.load(Relaxed))
    }

    fn scan(&self, start: &str) -> usize {
        let guard = scc::Guard::new();
        let range = self.0.range::<[u8], _>((Bound::Included(start.as_bytes()), Bound::Unbounded), &guard);
        seen(range.map(|(_, value)| value.load(Relaxed)))
    }
}

/// The standard library's behind a lock: no reads while the writer writes. The floor for one thread.
struct Std(parking_lot::RwLock<std::collections::BTreeMap<Box<[u8]>, i64>>);

impl Map for Std {
    const NAME: &'static str = "BTreeMap behind a lock";

    fn new() -> Std {
        Std(parking_lot::RwLock::default())
    }

    fn put(&mut self, keys: &[String], revision: i64) {
        let mut map = self.0.write();
        for key in keys {
            match map.get_mut(key.as_bytes()) {
                Some(value) => *value = revision,
                None => _ = map.insert(key.as_bytes().into(), revision),
            }
        }
    }

    fn get(&self, key: &str) -> Option<i64> {
        self.0.read().get(key.as_bytes()).copied()
    }

    fn scan(&self, start: &str) -> usize {
        let map = self.0.read();
        let range = map.range::<[u8], _>((Bound::Included(start.as_bytes()), Bound::Unbounded));
        seen(range.map(|(_, value)| *value))
    }
}

fn rss_mib() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<f64>().ok()).unwrap_or(0.0) / 256.0
}

fn measure<M: Map>(criterion: &mut Criterion, keys: usize) {
    let before = rss_mib();
    let mut map = M::new();
    let all: Vec<usize> = (0..keys).collect();
    for (revision, numbers) in (2..).zip(all.chunks(BATCH)) {
        let batch: Vec<String> = numbers.iter().map(|number| key(*number, keys)).collect();
        map.put(&batch, revision);
    }
    drop(all);
    println!("{} of {keys} keys: {:.0} MiB", M::NAME, rss_mib() - before);
    let mut group = criterion.benchmark_group(M::NAME);
    let (mut next, mut revision) = (0, 1 << 40);
    let mut random = move || {
        next = (next + 7_919_777) % keys;
        next
    };
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function(BenchmarkId::new("128 puts", keys), |bencher| {
        bencher.iter_batched(
            || (0..BATCH).map(|_| key(random(), keys)).collect::<Vec<_>>(),
            |batch| {
                revision += 1;
                map.put(&batch, revision);
            },
            criterion::BatchSize::SmallInput,
        );
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function(BenchmarkId::new("get", keys), |bencher| {
        bencher.iter_batched(
            || key(random(), keys),
            |key| assert!(map.get(&key).is_some()),
            criterion::BatchSize::SmallInput,
        );
    });
    group.throughput(Throughput::Elements(PAGE as u64));
    group.bench_function(BenchmarkId::new("500 in order", keys), |bencher| {
        bencher.iter_batched(|| key(random(), keys), |key| map.scan(&key), criterion::BatchSize::SmallInput);
    });
    group.finish();
}

fn index(criterion: &mut Criterion) {
    let sizes = std::env::var("KELSON_BENCH_KEYS").unwrap_or_else(|_| "10000,1000000,10000000".into());
    for keys in sizes.split(',').map(|keys| keys.parse().expect("a number of keys")) {
        measure::<Tree>(criterion, keys);
        measure::<Skip>(criterion, keys);
        measure::<Scc>(criterion, keys);
        measure::<Std>(criterion, keys);
    }
}

criterion_group!(benches, index);
criterion_main!(benches);
