//! Hashes: etcd's own for the same history, and what they must not depend on.

use super::*;
use crate::HashKv;

/// `hashkv.txt` says how it reads.
const STORY: &str = include_str!("hashkv.txt");

fn op(text: &str) -> Op {
    match text.split(' ').collect::<Vec<_>>()[..] {
        ["put", key, value, lease] => {
            Op::Put(Put { lease: lease.parse().unwrap(), ..put(key, if value == "-" { "" } else { value }) })
        }
        ["del", key, "-"] => Op::DeleteRange(DeleteRange { range: one(key), prev_kv: false }),
        ["del", key, end] => Op::DeleteRange(DeleteRange { range: span(key, end), prev_kv: false }),
        _ => panic!("{text}"),
    }
}

fn command(line: &str) -> Command {
    let (verb, rest) = line.split_once(' ').unwrap();
    let numbers = || rest.split(' ').map(|number| number.parse::<i64>().unwrap()).collect::<Vec<_>>();
    match verb {
        "txn" => Command::Txn(txn(vec![], rest.split("; ").map(op).collect(), vec![])),
        "grant" => Command::LeaseGrant { id: numbers()[0], ttl: numbers()[1] },
        "revoke" => Command::LeaseRevoke { id: numbers()[0] },
        "compact" => Command::Compact { revision: numbers()[0] },
        _ => match op(line) {
            Op::Put(put) => Command::Put(put),
            Op::DeleteRange(delete) => Command::DeleteRange(delete),
            op => panic!("{op:?}"),
        },
    }
}

/// Tells the story to an engine. `tidy` finishes each compaction at once; otherwise each is left as it is.
fn tell(tidy: bool) -> usize {
    let mut store = Store::new();
    let mut hashes = 0;
    for line in STORY.lines().filter(|line| !line.starts_with('#')) {
        let Some(answer) = line.strip_prefix("hash ") else {
            store.apply(command(line));
            while tidy && store.engine.compaction_step().unwrap() {}
            continue;
        };
        let words: Vec<&str> = answer.split(' ').collect();
        let number = |index: usize| words[index].parse::<i64>().unwrap();
        let expected = HashKv {
            hash: words[2].parse().unwrap(),
            hash_revision: number(4),
            compact_revision: number(6),
            revision: number(8),
        };
        assert_eq!(store.engine.reader().hash_kv(number(0)), Ok(expected), "{line}");
        hashes += 1;
    }
    hashes
}

#[test]
fn hash_kv_is_what_etcd_answers() {
    assert!(tell(true) > 40);
}

#[test]
fn hash_kv_does_not_depend_on_how_far_a_compaction_has_come() {
    assert!(tell(false) > 40);
}

#[test]
fn revisions_that_cannot_be_hashed() {
    let mut store = Store::new();
    for value in ["1", "2", "3"] {
        store.put("a", value);
    }
    store.apply(Command::Compact { revision: 3 });
    let reader = store.engine.reader();
    assert_eq!(reader.hash_kv(2), Err(Error::Compacted));
    assert_eq!(reader.hash_kv(5), Err(Error::FutureRevision));
    assert!(reader.hash_kv(3).is_ok());
}

#[test]
fn a_lost_record_is_told() {
    use crate::backend::{Backend, Batch, Space};
    let backend = Arc::new(MemoryBackend::new());
    let mut store = Store { engine: Engine::open(backend.clone()).unwrap(), index: 0 };
    store.put("a", "1");
    store.put("b", "1");
    let mut batch = Batch::default();
    batch.delete(Space::Revisions, &crate::Revision { main: 2, sub: 0 }.to_bytes());
    backend.write(batch).unwrap();
    assert!(matches!(store.engine.reader().hash(), Err(Error::Storage(text)) if text.contains("1 records")));
}

#[test]
fn hashing_goes_on_beside_writes_and_compactions() {
    let mut store = Store::with(EngineOptions { cache_bytes: 0, ..EngineOptions::default() });
    for number in 0..200 {
        store.put(&format!("{:02}", number % 50), "0");
    }
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = store.engine.reader();
        let stop = &stop;
        let hashing = scope.spawn(move || {
            let mut hashes = 0;
            while !stop.load(Ordering::Relaxed) || hashes == 0 {
                // With a compaction after every few writes, all tries may be overtaken.
                for result in [reader.hash().map(drop), reader.hash_kv(0).map(drop)] {
                    assert!(matches!(result, Ok(()) | Err(Error::Compacted)), "{result:?}");
                    hashes += usize::from(result.is_ok());
                }
            }
        });
        for round in 0..3000 {
            let revision = store.put(&format!("{:02}", round % 50), "x");
            if round % 5 == 0 {
                store.apply(Command::Compact { revision });
            }
        }
        stop.store(true, Ordering::Relaxed);
        hashing.join().unwrap();
    });
    let hash = store.engine.state_hash();
    let revision = store.engine.reader().revision();
    let before = store.engine.reader().hash_kv(0).unwrap();
    while store.engine.compaction_step().unwrap() {}
    assert_eq!(store.engine.state_hash(), hash);
    assert_eq!(store.engine.reader().hash_kv(revision), Ok(before));
}
