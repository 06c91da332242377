//! Compaction: what may be read, what is freed, and that it does so in small steps.

use super::*;
use crate::backend::Space;

#[test]
fn bounds() {
    let mut store = Store::new();
    for value in ["1", "2", "3"] {
        store.put("k", value);
    }
    assert_eq!(store.try_apply(Command::Compact { revision: 5 }), Err(Error::FutureRevision));
    store.apply(Command::Compact { revision: 3 });
    assert_eq!(store.try_apply(Command::Compact { revision: 3 }), Err(Error::Compacted));
    assert_eq!(store.try_apply(Command::Compact { revision: 2 }), Err(Error::Compacted));
    assert_eq!(store.engine.reader().compacted_revision(), 3);
    assert_eq!((store.at(2, all()), store.at(3, all())), ("!Compacted".into(), "k=2".into()));
    store.apply(Command::Compact { revision: 4 });
}

#[test]
fn frees_the_index_and_the_backend_in_steps_beside_writes() {
    let backend = Arc::new(MemoryBackend::new());
    let mut store = Store { engine: Engine::open(backend.clone()).unwrap(), index: 0 };
    for round in 0..5 {
        for number in 0..500 {
            store.put(&format!("{number:04}"), &format!("{round}"));
        }
    }
    for number in 0..250 {
        store.delete(&format!("{number:04}"));
    }
    assert_eq!(backend.len(Space::Revisions), 2750);
    let revision = store.engine.reader().revision();
    store.apply(Command::Compact { revision });
    assert_eq!(backend.len(Space::Revisions), 2750, "nothing is deleted before it is published");
    let mut writes = 0;
    while store.engine.compaction_pending() {
        let before = backend.len(Space::Revisions);
        store.put("writes", "go on");
        writes += 1;
        assert!(backend.len(Space::Revisions) + 600 > before, "a bounded step");
    }
    assert!(writes > 4);
    // What is left: 250 live keys, the tombstone at the compacted revision itself, and the writes since.
    assert_eq!(backend.len(Space::Revisions), 251 + writes);
    store.compact_fully(revision + 1);
    assert_eq!(backend.len(Space::Revisions), 250 + writes);
    assert_eq!(store.at(revision + 1, span("0", "1")).split(' ').count(), 250);
}

#[test]
fn nothing_is_deleted_for_a_compaction_that_is_not_published() {
    let mut store = Store::with(EngineOptions { cache_bytes: 0, ..EngineOptions::default() });
    for number in 0..900 {
        store.put(&format!("{:03}", number % 300), "v");
    }
    store.apply(Command::Compact { revision: 350 });
    assert!(store.engine.compaction_pending());
    // The first is still being worked on when the second comes: what 350 needs must be there until 900 is known.
    let before = store.engine.shared.snapshot.load_full();
    store.apply(Command::Compact { revision: 900 });
    let request = request(all());
    let read = crate::range::execute(&before.tree, 350, &request, &*store.engine.shared);
    assert_eq!(read.map(|response| response.kvs.len()), Ok(300));
}

#[test]
fn a_deleted_key_does_not_come_back_when_a_crash_cuts_its_compaction() {
    let backend = Arc::new(MemoryBackend::with_crashes());
    let mut store = Store { engine: Engine::open(backend.clone()).unwrap(), index: 0 };
    for number in 0..700 {
        store.put("gone", &format!("{number}"));
    }
    store.delete("gone");
    let revision = store.put("kept", "v");
    store.engine.flush().unwrap();
    store.apply(Command::Compact { revision });
    while store.engine.compaction_pending() {
        store.put("other", "w");
    }
    assert!(backend.unflushed() > 2, "it takes several batches");
    for kept in 0..=backend.unflushed() {
        let mut engine = Engine::open(Arc::new(backend.crashed(kept))).unwrap();
        let count = |engine: &Engine| engine.reader().range(&request(one("gone"))).unwrap().1.count;
        assert_eq!(count(&engine), 0, "{kept} batches kept");
        while engine.compaction_step().unwrap() {}
        assert_eq!(count(&engine), 0, "{kept} batches kept");
    }
}

#[test]
fn a_read_that_was_overtaken_is_answered_or_refused_but_never_partial() {
    let mut store = Store::with(EngineOptions { cache_bytes: 0, ..EngineOptions::default() });
    let stop = std::sync::atomic::AtomicBool::new(false);
    for number in 0..100 {
        store.put(&format!("{:02}", number % 50), "0");
    }
    std::thread::scope(|scope| {
        let reader = store.engine.reader();
        let stop = &stop;
        let readers = scope.spawn(move || {
            let mut read = 0;
            while !stop.load(Ordering::Relaxed) {
                let (_, now) = reader.range(&request(all())).unwrap();
                assert_eq!((now.count, now.kvs.len()), (50, 50));
                let revision = reader.revision() - 20;
                match reader.range(&RangeRequest { revision, ..request(all()) }) {
                    Ok((_, response)) => assert_eq!(response.kvs.len(), 50),
                    Err(error) => assert_eq!(error, Error::Compacted),
                }
                read += 1;
            }
            read
        });
        for round in 0..4000 {
            let revision = store.put(&format!("{:02}", round % 50), "x");
            if round % 7 == 0 {
                store.apply(Command::Compact { revision });
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(readers.join().unwrap() > 0);
    });
}
