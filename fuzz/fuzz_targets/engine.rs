//! Any sequence of commands leaves the engine consistent: dense revisions, and reads that agree with a naive model.
#![no_main]

use std::collections::BTreeMap;
use std::sync::Arc;

use arbitrary::Arbitrary;
use bytes::Bytes;
use kelson_engine::command::{DeleteRange, Put, SortOrder, SortTarget};
use kelson_engine::{Applied, Command, Engine, KeyRange, MemoryBackend, Outcome, RangeRequest};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Step {
    Put { key: u8, value: u8 },
    Delete { from: u8, to: u8 },
    Compact { back: u8 },
    Reopen,
}

fn key(number: u8) -> Bytes {
    Bytes::copy_from_slice(&[number % 16])
}

fuzz_target!(|steps: Vec<Step>| {
    let backend = Arc::new(MemoryBackend::default());
    let mut engine = Engine::open(backend.clone()).expect("an empty backend opens");
    let mut model: BTreeMap<Bytes, u8> = BTreeMap::new();
    let mut revision = engine.reader().revision();
    for (index, step) in steps.into_iter().enumerate() {
        let command = match &step {
            Step::Put { key: at, value } => {
                Command::Put(Put { key: key(*at), value: vec![*value].into(), ..Put::default() })
            }
            Step::Delete { from, to } => {
                let range = KeyRange { start: key(*from), end: key(*to) };
                Command::DeleteRange(DeleteRange { range, prev_kv: false })
            }
            Step::Compact { back } => Command::Compact { revision: revision - i64::from(*back) },
            Step::Reopen => {
                engine.flush().expect("memory flushes");
                drop(engine);
                engine = Engine::open(backend.clone()).expect("what was flushed opens");
                assert_eq!(engine.reader().revision(), revision);
                continue;
            }
        };
        let applied = Applied { term: 1, node: 1, index: index as u64 + 1 };
        let outcomes = engine.apply(applied, &[command], &[]).expect("memory does not fail");
        match (&step, &outcomes[0]) {
            (Step::Put { key: at, value }, Ok(Outcome::Put { revision: at_revision, .. })) => {
                model.insert(key(*at), *value);
                assert_eq!(*at_revision, revision + 1);
            }
            (Step::Delete { from, to }, Ok(Outcome::DeleteRange { revision: at_revision, deleted, .. })) => {
                let (from, to) = (key(*from), key(*to));
                let before = model.len();
                model.retain(|held, _| !(*held >= from && *held < to));
                assert_eq!(*deleted, (before - model.len()) as i64);
                assert_eq!(*at_revision, revision + i64::from(*deleted > 0));
            }
            (Step::Compact { .. }, _) => {}
            (step, outcome) => panic!("{step:?}: {outcome:?}"),
        }
        revision = engine.reader().revision();
        let all = RangeRequest {
            range: KeyRange { start: Bytes::from_static(&[0]), end: Bytes::from_static(&[0]) },
            limit: 0,
            revision: 0,
            sort_order: SortOrder::None,
            sort_target: SortTarget::Key,
            keys_only: false,
            count_only: false,
            min_mod_revision: 0,
            max_mod_revision: 0,
            min_create_revision: 0,
            max_create_revision: 0,
        };
        let (_, held) = engine.reader().range(&all).expect("the newest revision can be read");
        let held: Vec<_> = held.kvs.iter().map(|kv| (kv.key.clone(), kv.value[0])).collect();
        let expected: Vec<_> = model.iter().map(|(key, value)| (key.clone(), *value)).collect();
        assert_eq!(held, expected);
    }
});
