//! Sequences of commands, compactions, crashes and reopenings, run on the engine and on the model side by side.

use std::sync::Arc;
use std::task::{Context, Waker};

use bytes::Bytes;

use crate::command::*;
use crate::model::Model;
use crate::{
    Applied, Engine, EngineOptions, Error, Event, EventKind, MemoryBackend, Reader, WatchPoll, WatchSpec, Watcher,
};

#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Entries that are applied together.
    Apply(Vec<Command>),
    Reclaim,
    Flush,
    /// All but this share (of 255) of the unflushed batches is lost.
    Crash(u8),
    Watch {
        range: KeyRange,
        back: i64,
        no_put: bool,
        no_delete: bool,
    },
    Poll {
        watcher: usize,
        max_events: usize,
    },
}

/// What the API refuses as duplicate keys; the model and the engine may differ there.
pub(crate) fn relies_on_itself(txn: &Txn) -> bool {
    fn walk(txn: &Txn, ignores: &mut bool, puts: &mut Vec<Bytes>, deletes: &mut Vec<KeyRange>) -> bool {
        for op in txn.success.iter().chain(&txn.failure) {
            match op {
                Op::Put(put) => {
                    *ignores |= put.ignore_value || put.ignore_lease;
                    puts.push(put.key.clone());
                }
                Op::DeleteRange(delete) => deletes.push(delete.range.clone()),
                Op::Txn(nested) => _ = walk(nested, ignores, puts, deletes),
                Op::Range(_) => {}
            }
        }
        puts.sort();
        let twice = puts.windows(2).any(|pair| pair[0] == pair[1]);
        *ignores && (twice || puts.iter().any(|key| deletes.iter().any(|range| contains(range, key))))
    }
    walk(txn, &mut false, &mut Vec::new(), &mut Vec::new())
}

fn contains(range: &KeyRange, key: &Bytes) -> bool {
    match &range.end[..] {
        [] => range.start == *key,
        [0] => range.start <= *key,
        end => range.start <= *key && &key[..] < end,
    }
}

/// Alarms are ended more often than raised, so that most commands have their way.
fn position(index: u64) -> Applied {
    Applied { term: 1, node: 1, index }
}

/// A watcher with what it should deliver next.
struct Observed {
    watcher: Watcher,
    spec: WatchSpec,
    next: i64,
    over: bool,
}

impl Observed {
    /// Polls once; `true` if there may be more.
    fn poll(&mut self, model: &Model, max_events: usize) -> bool {
        if self.over {
            return false;
        }
        match self.watcher.poll(&mut Context::from_waker(Waker::noop()), max_events) {
            WatchPoll::Events { events, revision } => {
                // Once there was a compaction, a previous value may be gone.
                let before = |event: &Event| event.prev_kv().filter(|_| model.compacted < 0).cloned();
                let got: Vec<_> = events
                    .iter()
                    .map(|event| (event.kv.clone(), before(event), event.kind == EventKind::Delete))
                    .collect();
                assert_eq!(got, self.expected(model, revision), "up to {revision}");
                assert!(!events.is_empty() && revision <= model.revision);
                self.next = revision + 1;
                true
            }
            WatchPoll::Idle { synced_to } => {
                assert_eq!(self.expected(model, synced_to), [], "nothing may be passed over");
                assert!(self.watcher.progress() >= synced_to);
                self.next = self.next.max(synced_to + 1);
                synced_to < model.revision
            }
            WatchPoll::Compacted { compact_revision } => {
                assert_eq!(compact_revision, model.compacted);
                assert!(self.next < model.compacted);
                self.over = true;
                false
            }
            WatchPoll::Failed(error) => panic!("{error}"),
        }
    }

    fn expected(&self, model: &Model, upto: i64) -> Vec<(KeyValue, Option<KeyValue>, bool)> {
        let writes = model.writes.iter().filter(|write| {
            (self.next..=upto).contains(&write.at.main)
                && contains(&self.spec.range, &write.key)
                && !(if write.kv.is_some() { self.spec.no_put } else { self.spec.no_delete })
        });
        let events = writes.map(|write| {
            let bare = KeyValue { key: write.key.clone(), mod_revision: write.at.main, ..KeyValue::default() };
            let before = write.before.clone().filter(|_| model.compacted < 0);
            (write.kv.clone().unwrap_or(bare), before, write.kv.is_none())
        });
        events.collect()
    }
}

/// A read of every key.
pub(crate) fn everything(revision: i64) -> RangeRequest {
    RangeRequest::whole(KeyRange { start: Bytes::from_static(b"\0"), end: Bytes::from_static(b"\0") }, revision)
}

/// Holds a listing, where the request is for one, against the answer that is read at once.
fn check_listing(reader: &Reader, request: &RangeRequest, expected: &Result<(i64, RangeResponse), Error>) -> bool {
    let listing = match (reader.listing(request, 0, &|head, value| head.key.len() + value), expected) {
        (Ok(Some(listing)), _) => listing,
        (Ok(None), _) => return false,
        (Err(error), expected) => {
            assert_eq!(Err(error), *expected, "{request:?}");
            return false;
        }
    };
    let (mut kvs, mut size) = (Vec::new(), 0);
    let read = listing.read(&mut |head, value| {
        size += head.key.len() + value.len();
        kvs.push(KeyValue {
            key: Bytes::copy_from_slice(head.key),
            value: Bytes::copy_from_slice(value),
            create_revision: head.create_revision,
            mod_revision: head.mod_revision,
            version: head.version,
            lease: head.lease,
        });
        true
    });
    let answer = read.map(|()| (listing.revision, RangeResponse { kvs, more: listing.more, count: listing.count }));
    assert_eq!(answer, *expected, "{request:?}");
    assert_eq!(size, listing.size, "{request:?}");
    true
}

fn check_reads(engine: &Engine, model: &Model, requests: &[RangeRequest]) {
    let reader = engine.reader();
    for request in requests {
        let expected = model.range(request).map(|response| (model.revision, response));
        assert_eq!(reader.range(request), expected, "{request:?}");
        check_listing(&reader, request, &expected);
    }
    for revision in model.compacted.max(1)..=model.revision {
        let everything = everything(revision);
        let expected = model.range(&everything).map(|response| (model.revision, response));
        assert_eq!(reader.range(&everything), expected, "everything at {revision}");
        let listed = check_listing(&reader, &everything, &expected);
        assert!(listed || revision < model.revision, "all of the newest revision is known");
    }
    let leases: Vec<_> = reader.leases().map(|lease| (lease.id, (lease.ttl, lease.remaining))).collect();
    assert_eq!(leases, model.leases.clone().into_iter().collect::<Vec<_>>());
    assert!(reader.alarms().iter().eq(&model.alarms));
    for &id in model.leases.keys() {
        assert_eq!(reader.lease(id).unwrap().keys, model.keys_of(id), "lease {id}");
    }
}

/// Runs the steps, then asks the requests, and again after a full compaction and after a restart.
pub(crate) fn run(steps: Vec<Step>, requests: Vec<RangeRequest>, options: EngineOptions) {
    let mut backend = Arc::new(MemoryBackend::with_crashes());
    let mut engine = Engine::open_with(backend.clone(), options.clone()).unwrap();
    // The log that raft would hold: entries by index from 1, and the outcomes they had.
    let mut log = Vec::new();
    let mut model = Model::new();
    let mut watchers: Vec<Observed> = Vec::new();
    for step in steps {
        match step {
            Step::Apply(commands) => {
                let expected: Vec<_> = commands.iter().map(|command| model.apply(command)).collect();
                log.push((commands, expected));
                let (commands, expected) = &log[log.len() - 1];
                assert_eq!(&engine.apply(position(log.len() as u64), commands, &[]).unwrap(), expected);
            }
            Step::Reclaim => _ = engine.compaction_step().unwrap(),
            Step::Flush => assert_eq!(engine.flush().unwrap(), engine.applied()),
            Step::Crash(kept) => {
                let kept = backend.unflushed() * usize::from(kept) / 255;
                backend = Arc::new(backend.crashed(kept));
                engine = Engine::open_with(backend.clone(), options.clone()).unwrap();
                let replay = engine.applied().map_or(0, |applied| applied.index);
                for (index, (commands, expected)) in (1..).zip(&log).skip(replay as usize) {
                    assert_eq!(&engine.apply(position(index), commands, &[]).unwrap(), expected, "replayed {index}");
                }
                watchers.clear();
            }
            Step::Watch { range, back, no_put, no_delete } => {
                let start = if back == 0 { 0 } else { (model.revision + 3 - back).max(1) };
                let spec = WatchSpec { range, start_revision: start, no_put, no_delete, prev_kv: true };
                let next = if start == 0 { model.revision + 1 } else { start };
                let watcher = engine.reader().watch(spec.clone());
                watchers.push(Observed { watcher, spec, next, over: false });
            }
            Step::Poll { watcher, max_events } => {
                if let Some(index) = watcher.checked_rem(watchers.len()) {
                    watchers[index].poll(&model, max_events);
                }
            }
        }
    }
    check_reads(&engine, &model, &requests);
    for watcher in &mut watchers {
        while watcher.poll(&model, 3) {}
        assert!(watcher.over || watcher.next > model.revision);
    }
    let hash = engine.state_hash().unwrap();
    while engine.compaction_step().unwrap() {}
    check_reads(&engine, &model, &requests);
    assert_eq!(engine.state_hash().unwrap(), hash, "compaction changes nothing that can be seen");
    drop(engine);
    let reopened = Engine::open_with(backend, options).unwrap();
    check_reads(&reopened, &model, &requests);
    assert_eq!(reopened.state_hash().unwrap(), hash);
}
