//! Readers on other threads while the writer goes on.

use super::*;

#[test]
fn a_read_sees_one_revision_and_time_never_goes_back() {
    let mut store = Store::new();
    let stop = std::sync::atomic::AtomicBool::new(false);
    // Every transaction writes its number to all keys: any mixture is a torn read.
    let keys: Vec<String> = (0..40).map(|key| format!("key/{key:02}")).collect();
    let write = |store: &mut Store, number: usize| {
        let ops = keys.iter().map(|key| Op::Put(put(key, &number.to_string()))).collect();
        store.apply(Command::Txn(txn(vec![], ops, vec![])));
    };
    write(&mut store, 0);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (reader, stop) = (store.engine.reader(), &stop);
                scope.spawn(move || {
                    let (mut last, mut reads) = (0, 0);
                    while !stop.load(Ordering::Relaxed) || reads == 0 {
                        let (revision, response) = reader.range(&request(all())).unwrap();
                        assert!(revision >= last, "time went back");
                        last = revision;
                        let number = revision - 2;
                        assert_eq!(response.kvs.len(), 40);
                        for kv in &response.kvs {
                            assert_eq!((text(&kv.value), kv.mod_revision), (number.to_string(), revision));
                            assert_eq!((kv.version, kv.create_revision), (number + 1, 2));
                        }
                        let old = RangeRequest { revision: revision / 2 + 1, ..request(all()) };
                        let (_, response) = reader.range(&old).unwrap();
                        assert!(response.kvs.iter().all(|kv| kv.mod_revision == revision / 2 + 1));
                        reads += 1;
                    }
                })
            })
            .collect();
        for number in 1..1500 {
            write(&mut store, number);
        }
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn a_held_snapshot_does_not_change() {
    let mut store = Store::new();
    for key in 0..200 {
        store.put(&format!("{key:03}"), "old");
    }
    let snapshot = store.engine.shared.snapshot.load_full();
    for key in 0..400 {
        store.put(&format!("{key:03}"), "new");
        store.delete(&format!("{:03}", key / 2));
    }
    assert_eq!(snapshot.tree.summary().live, 200);
    let mut seen = Vec::new();
    snapshot.tree.visit(crate::tree::Span::Range(b"", None), &mut |key, entry| {
        seen.push((key.to_vec(), entry.newest().at.main));
        true
    });
    assert_eq!(seen, (0..200).map(|key| (format!("{key:03}").into_bytes(), key + 2)).collect::<Vec<_>>());
}
