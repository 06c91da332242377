//! What the state machine alone costs, in memory: applying puts and guarded updates, reading one key and a list.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use kelson_engine::command::{Compare, CompareResult, CompareTarget, Op, Put, Txn};
use kelson_engine::{Applied, Command, Engine, KeyRange, MemoryBackend, RangeRequest};

/// Keys in the store when it is measured.
const KEYS: usize = 100_000;
/// Commands in one applied batch, as group commit forms them under load.
const BATCH: usize = 64;

fn key(number: usize) -> Bytes {
    format!("/registry/pods/default/web-{number:08}").into()
}

fn range(start: Bytes, end: Bytes) -> RangeRequest {
    RangeRequest::whole(KeyRange { start, end }, 0)
}

/// An engine that holds `KEYS` keys of 1 KiB, and a counter of applied entries.
struct Loaded {
    engine: Engine,
    index: u64,
    next: usize,
}

impl Loaded {
    fn new() -> Loaded {
        let engine = Engine::open(Arc::new(MemoryBackend::default())).expect("an empty backend opens");
        let mut loaded = Loaded { engine, index: 0, next: 0 };
        while loaded.next < KEYS {
            let batch = loaded.puts();
            loaded.apply(&batch);
        }
        loaded
    }

    fn puts(&mut self) -> Vec<Command> {
        let value = Bytes::from(vec![7; 1024]);
        let commands = (0..BATCH).map(|offset| {
            Command::Put(Put { key: key((self.next + offset) % KEYS), value: value.clone(), ..Put::default() })
        });
        let commands = commands.collect();
        self.next += BATCH;
        commands
    }

    /// What Kubernetes does: write if the modification revision is the one that was read, else read again.
    fn guarded(&mut self) -> Vec<Command> {
        let value = Bytes::from(vec![7; 1024]);
        let reader = self.engine.reader();
        let commands = (0..BATCH).map(|offset| {
            let key = key((self.next + offset) % KEYS);
            let (_, read) = reader.range(&range(key.clone(), Bytes::new())).expect("readable");
            let compare = Compare {
                range: KeyRange { start: key.clone(), end: Bytes::new() },
                result: CompareResult::Equal,
                target: CompareTarget::ModRevision(read.kvs[0].mod_revision),
            };
            let put = Put { key: key.clone(), value: value.clone(), ..Put::default() };
            let read = range(key, Bytes::new());
            Command::Txn(Txn { compares: vec![compare], success: vec![Op::Put(put)], failure: vec![Op::Range(read)] })
        });
        let commands = commands.collect();
        self.next += BATCH;
        commands
    }

    fn apply(&mut self, commands: &[Command]) {
        self.index += 1;
        let applied = Applied { term: 1, node: 1, index: self.index };
        black_box(self.engine.apply(applied, commands, &[]).expect("memory does not fail"));
    }
}

fn engine(criterion: &mut Criterion) {
    let loaded = std::cell::RefCell::new(Loaded::new());
    let mut group = criterion.benchmark_group("engine");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("apply 64 puts of 1 KiB", |bencher| {
        bencher.iter_batched(
            || loaded.borrow_mut().puts(),
            |batch| loaded.borrow_mut().apply(&batch),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("apply 64 guarded updates of 1 KiB", |bencher| {
        bencher.iter_batched(
            || loaded.borrow_mut().guarded(),
            |batch| loaded.borrow_mut().apply(&batch),
            BatchSize::SmallInput,
        );
    });
    let reader = loaded.borrow().engine.reader();
    group.throughput(Throughput::Elements(1));
    let mut at = 0;
    group.bench_function("get one key of 100,000", |bencher| {
        bencher.iter(|| {
            at = (at + 7_919) % KEYS;
            black_box(reader.range(&range(key(at), Bytes::new())).expect("readable"))
        });
    });
    group.throughput(Throughput::Elements(500));
    group.bench_function("list 500 keys of 100,000", |bencher| {
        bencher.iter(|| {
            at = (at + 7_919) % (KEYS - 500);
            black_box(reader.range(&range(key(at), key(at + 500))).expect("readable"))
        });
    });
    group.finish();
}

criterion_group!(benches, engine);
criterion_main!(benches);
