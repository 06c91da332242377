//! The engine as a whole: against a naive model, through crashes, under watchers and concurrent readers.

mod alarm;
mod allocations;
mod auth;
mod compaction;
mod export;
mod fanout;
mod hash;
mod lease;
mod listing;
mod observed;
mod range;
mod readers;
mod replay;
mod sequences;
mod txn;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};

use bytes::Bytes;

use crate::command::{Compare, CompareResult, CompareTarget, DeleteRange, Op, Put, RangeRequest, Txn};
use crate::{Applied, Command, Engine, EngineOptions, Error, KeyRange, MemoryBackend, Outcome};

/// An engine on memory with an entry counter.
struct Store {
    engine: Engine,
    index: u64,
}

impl Store {
    fn new() -> Store {
        Store::with(EngineOptions { cache_bytes: 1 << 20, ..EngineOptions::default() })
    }

    fn with(options: EngineOptions) -> Store {
        Store { engine: Engine::open_with(Arc::new(MemoryBackend::new()), options).unwrap(), index: 0 }
    }

    fn try_apply(&mut self, command: Command) -> Result<Outcome, Error> {
        self.index += 1;
        self.engine.apply(position(self.index), &[command], &[]).unwrap().remove(0)
    }

    fn apply(&mut self, command: Command) -> Outcome {
        self.try_apply(command).unwrap()
    }

    fn put(&mut self, key: &str, value: &str) -> i64 {
        let Outcome::Put { revision, .. } = self.apply(Command::Put(put(key, value))) else { panic!("not a put") };
        revision
    }

    fn delete(&mut self, key: &str) -> i64 {
        let delete = DeleteRange { range: one(key), prev_kv: false };
        let Outcome::DeleteRange { revision, .. } = self.apply(Command::DeleteRange(delete)) else {
            panic!("not a delete")
        };
        revision
    }

    /// `key=value` of everything in the range at a revision, and `!` in front of the error otherwise.
    fn at(&self, revision: i64, range: KeyRange) -> String {
        match self.engine.reader().range(&RangeRequest { revision, ..request(range) }) {
            Ok((_, response)) => {
                let pairs = response.kvs.iter().map(|kv| format!("{}={}", text(&kv.key), text(&kv.value)));
                pairs.collect::<Vec<_>>().join(" ")
            }
            Err(error) => format!("!{error:?}"),
        }
    }

    fn now(&self) -> String {
        self.at(0, all())
    }

    fn compact_fully(&mut self, revision: i64) {
        self.apply(Command::Compact { revision });
        while self.engine.compaction_step().unwrap() {}
    }
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn position(index: u64) -> Applied {
    Applied { term: 1, node: 1, index }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn one(key: &str) -> KeyRange {
    KeyRange { start: bytes(key), end: Bytes::new() }
}

fn span(start: &str, end: &str) -> KeyRange {
    KeyRange { start: bytes(start), end: bytes(end) }
}

fn all() -> KeyRange {
    KeyRange { start: Bytes::from_static(b"\0"), end: Bytes::from_static(b"\0") }
}

fn put(key: &str, value: &str) -> Put {
    Put { key: bytes(key), value: bytes(value), ..Put::default() }
}

fn delete_range(key: &str) -> Op {
    Op::DeleteRange(DeleteRange { range: one(key), prev_kv: false })
}

fn request(range: KeyRange) -> RangeRequest {
    RangeRequest::whole(range, 0)
}

fn compare(range: KeyRange, result: CompareResult, target: CompareTarget) -> Compare {
    Compare { range, result, target }
}

fn txn(compares: Vec<Compare>, success: Vec<Op>, failure: Vec<Op>) -> Txn {
    Txn { compares, success, failure }
}

/// Counts how often it was woken.
#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Bell {
    fn rings(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    fn with<T>(self: &Arc<Self>, poll: impl FnOnce(&mut Context) -> T) -> T {
        poll(&mut Context::from_waker(&Waker::from(Arc::clone(self))))
    }
}
