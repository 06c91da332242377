//! What the fuzz targets of this crate check, as functions of any bytes. Each panics where something is wrong.
//!
//! `fuzz/` runs them under libFuzzer; the tests here run them on the seed corpus and on random bytes.

use bytes::Bytes;

use crate::command::*;
use crate::steps::{Step, relies_on_itself, run};
use crate::{AlarmAction, AlarmKind, EngineOptions};

/// Most steps of one sequence: the model's time grows with the square of what they write.
const STEPS: usize = 32;
/// Keys that commands use, one byte each, and a long one.
const KEYS: u8 = 8;

/// Any bytes decode to a command or to an error, and what decodes encodes to a command that is equal.
pub fn command(data: &[u8]) {
    if let Ok(command) = Command::decode(&Bytes::copy_from_slice(data)) {
        let mut encoded = Vec::new();
        command.encode(&mut encoded);
        assert!(command.encoded_hint() <= encoded.len(), "{command:?}");
        assert_eq!(Command::decode(&encoded.into()), Ok(command));
    }
}

/// The bytes choose commands, compactions, crashes, watches and reads; the engine does what the naive model does.
pub fn engine(data: &[u8]) {
    let mut choices = Choices { data };
    let options = match choices.below(3) {
        0 => EngineOptions { cache_bytes: 0, ring_events: 0, ring_bytes: 1, shelf_bytes: 0 },
        1 => EngineOptions { cache_bytes: 4096, ring_events: 4, ring_bytes: 1 << 20, shelf_bytes: 4096 },
        _ => EngineOptions { cache_bytes: 1 << 20, ..EngineOptions::default() },
    };
    let requests = (0..choices.below(4)).map(|_| choices.request()).collect();
    let mut steps = Vec::new();
    while !choices.data.is_empty() && steps.len() < STEPS {
        steps.push(choices.step());
    }
    run(steps, requests, options);
}

/// Choices made by bytes; when they are used up, the first choice each time.
struct Choices<'a> {
    data: &'a [u8],
}

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.data.split_first() else { return 0 };
        self.data = rest;
        *first
    }

    fn below(&mut self, bound: u8) -> u8 {
        self.byte() % bound
    }

    fn flag(&mut self) -> bool {
        self.below(4) == 3
    }

    fn small(&mut self, bound: u8) -> i64 {
        i64::from(self.below(bound))
    }

    fn key(&mut self) -> Bytes {
        match self.below(KEYS + 1) {
            KEYS => Bytes::from_static(b"b/a-key-that-is-longer-than-others"),
            number => Bytes::copy_from_slice(&[b'a' + number]),
        }
    }

    fn range(&mut self) -> KeyRange {
        let start = self.key();
        let end = match self.below(4) {
            0 | 1 => Bytes::new(),
            2 => self.key(),
            _ => Bytes::from_static(b"\0"),
        };
        KeyRange { start, end }
    }

    fn value(&mut self) -> Bytes {
        let length = usize::from(self.below(4));
        Bytes::from(vec![b'x' + self.below(3); length])
    }

    fn put(&mut self) -> Put {
        let (key, prev_kv, ignore_value, ignore_lease) = (self.key(), self.flag(), self.flag(), self.flag());
        let value = if ignore_value { Bytes::new() } else { self.value() };
        let lease = if ignore_lease { 0 } else { self.small(4) };
        Put { key, value, lease, prev_kv, ignore_value, ignore_lease }
    }

    fn delete(&mut self) -> DeleteRange {
        DeleteRange { range: self.range(), prev_kv: self.flag() }
    }

    fn request(&mut self) -> RangeRequest {
        let range = self.range();
        let sort_order = [SortOrder::None, SortOrder::Ascend, SortOrder::Descend][usize::from(self.below(3))];
        let targets = [
            SortTarget::Key,
            SortTarget::Version,
            SortTarget::CreateRevision,
            SortTarget::ModRevision,
            SortTarget::Value,
        ];
        let sort_target = targets[usize::from(self.below(5))];
        let keys_only = self.flag();
        let mut bound = || if self.flag() { self.small(40) } else { 0 };
        RangeRequest {
            min_mod_revision: bound(),
            max_mod_revision: bound(),
            min_create_revision: bound(),
            max_create_revision: bound(),
            range,
            limit: self.small(4),
            revision: self.small(40),
            sort_order,
            sort_target,
            keys_only,
            count_only: keys_only && self.flag(),
        }
    }

    fn compare(&mut self) -> Compare {
        let results = [CompareResult::Equal, CompareResult::Greater, CompareResult::Less, CompareResult::NotEqual];
        let target = match self.below(5) {
            0 => CompareTarget::Version(self.small(4)),
            1 => CompareTarget::CreateRevision(self.small(40)),
            2 => CompareTarget::ModRevision(self.small(40)),
            3 => CompareTarget::Value(self.value()),
            _ => CompareTarget::Lease(self.small(4)),
        };
        Compare { range: self.range(), result: results[usize::from(self.below(4))], target }
    }

    fn txn(&mut self, depth: u8) -> Txn {
        let compares = (0..self.below(3)).map(|_| self.compare()).collect();
        let mut ops = || -> Vec<Op> { (0..self.below(4)).map(|_| self.op(depth)).collect() };
        let (success, failure) = (ops(), ops());
        Txn { compares, success, failure }
    }

    fn op(&mut self, depth: u8) -> Op {
        match self.below(if depth == 0 { 4 } else { 5 }) {
            0 | 1 => Op::Put(self.put()),
            2 => Op::DeleteRange(self.delete()),
            3 => Op::Range(self.request()),
            _ => Op::Txn(self.txn(depth - 1)),
        }
    }

    fn command(&mut self) -> Command {
        match self.below(16) {
            0..6 => Command::Put(self.put()),
            6 | 7 => Command::DeleteRange(self.delete()),
            8..11 => {
                let txn = self.txn(3);
                // The API refuses these; the model and the engine may differ there.
                if relies_on_itself(&txn) { Command::Txn(Txn::default()) } else { Command::Txn(txn) }
            }
            11 => Command::Compact { revision: self.small(60) },
            12 => Command::LeaseGrant { id: self.small(3) + 1, ttl: self.small(100) + 1 },
            13 => Command::LeaseRevoke { id: self.small(4) },
            14 => {
                let leases = (0..self.below(4)).map(|_| (self.small(4), self.small(100))).collect();
                Command::LeaseCheckpoint { leases }
            }
            _ => {
                // Ends more often than it begins, or nothing else would be tried.
                let action = if self.flag() { AlarmAction::Activate } else { AlarmAction::Deactivate };
                let alarm = if self.flag() { AlarmKind::Corrupt } else { AlarmKind::NoSpace };
                Command::Alarm { action, member: u64::from(self.below(3)), alarm }
            }
        }
    }

    fn step(&mut self) -> Step {
        match self.below(16) {
            0..8 => Step::Apply((0..=self.below(3)).map(|_| self.command()).collect()),
            8 | 9 => Step::Reclaim,
            10 => Step::Flush,
            11 => Step::Crash(self.byte()),
            12 => {
                let (range, back, no_put, no_delete) = (self.range(), self.small(12), self.flag(), self.flag());
                Step::Watch { range, back, no_put, no_delete }
            }
            _ => Step::Poll { watcher: usize::from(self.byte()), max_events: usize::from(self.below(4)) + 1 },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};

    use super::*;

    /// The committed seeds, then random bytes, always the same ones.
    fn replay(target: &str, inputs: u32, longest: usize, check: fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
        let mut seeds = 0;
        for seed in std::fs::read_dir(&corpus).unwrap() {
            check(&std::fs::read(seed.unwrap().path()).unwrap());
            seeds += 1;
        }
        assert!(seeds > 0, "{} is empty", corpus.display());
        let config = Config { cases: inputs, failure_persistence: None, ..Config::default() };
        let bytes = proptest::collection::vec(any::<u8>(), 0..longest);
        let same = |bytes: Vec<u8>| {
            check(&bytes);
            Ok(())
        };
        TestRunner::new_with_rng(config, proptest::test_runner::TestRng::deterministic_rng(Default::default()))
            .run(&bytes, same)
            .unwrap();
    }

    #[test]
    fn commands() {
        replay("command", 5_000, 300, command);
        replay("command", 5_000, 300, |bytes| command(&[&[1], bytes].concat()));
    }

    #[test]
    fn sequences() {
        replay("engine", 300, 400, engine);
    }
}
