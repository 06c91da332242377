//! Opening a store: the index, the leases and the position are rebuilt from the backend.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::alarm::Alarms;
use crate::auth::Tokens;
use crate::backend::{Backend, Batch, Space};
use crate::cache::Cache;
use crate::compaction::Compaction;
use crate::engine::{Engine, EngineOptions};
use crate::events::Shelf;
use crate::history::Change;
use crate::interest::Interest;
use crate::lease::LeaseTable;
use crate::listing::Holds;
use crate::record::Record;
use crate::ring::RingWriter;
use crate::size::Size;
use crate::snapshot::{Shared, Snapshot};
use crate::sync::ArcSwap;
use crate::tree::{Span, Tree};
use crate::{Applied, Error, Revision, auth, lease};

pub(crate) const FORMAT: &[u8] = b"format";
pub(crate) const FORMAT_VERSION: &[u8] = &[1];
pub(crate) const STATE: &[u8] = b"state";
const STATE_BYTES: usize = 1 + 5 * 8;

/// What the backend knows of the position, written with every batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub applied: Option<Applied>,
    pub revision: i64,
    pub compacted: i64,
}

impl State {
    pub fn encode(&self) -> Bytes {
        let applied = self.applied.unwrap_or(Applied { term: 0, node: 0, index: 0 });
        let mut bytes = Vec::with_capacity(STATE_BYTES);
        bytes.push(u8::from(self.applied.is_some()));
        for number in [applied.term, applied.node, applied.index, self.revision as u64, self.compacted as u64] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.into()
    }

    pub fn decode(bytes: &[u8]) -> Option<State> {
        let (&known, rest) = bytes.split_first().filter(|_| bytes.len() == STATE_BYTES)?;
        let (numbers, _) = rest.as_chunks::<8>();
        let &[term, node, index, revision, compacted] = numbers else { return None };
        let [term, node, index] = [term, node, index].map(u64::from_le_bytes);
        Some(State {
            applied: (known == 1).then_some(Applied { term, node, index }),
            revision: i64::from_le_bytes(revision),
            compacted: i64::from_le_bytes(compacted),
        })
    }
}

fn damaged(what: &str) -> Error {
    Error::Storage(format!("the store is damaged: {what}"))
}

pub(crate) fn open(backend: Arc<dyn Backend>, options: EngineOptions) -> Result<Engine, Error> {
    check_format(&*backend)?;
    let state = match backend.get(Space::Meta, STATE)? {
        Some(bytes) => State::decode(&bytes).ok_or_else(|| damaged("unreadable state"))?,
        None => State { applied: None, revision: 1, compacted: -1 },
    };
    let tree = load_index(&*backend, state)?;
    let leases = load_leases(&*backend, &tree)?;
    let alarms = Alarms::load(&*backend)?;
    let size = Size::measured(&*backend);
    let auth = Arc::new(auth::load(&*backend)?);
    let ring = RingWriter::new(state.revision, options.ring_events, options.ring_bytes);
    let snapshot = Snapshot {
        tree: tree.clone(),
        revision: state.revision,
        compacted: state.compacted,
        applied: state.applied,
        alarms: Arc::clone(alarms.list()),
    };
    let shared = Arc::new(Shared {
        snapshot: ArcSwap::from_pointee(snapshot),
        holds: Holds::default(),
        backend,
        cache: Cache::new(options.cache_bytes),
        ring: ring.reader(),
        interest: Arc::new(Interest::new(state.revision)),
        shelf: Shelf::new(options.shelf_bytes),
        leases,
        size,
        auth: ArcSwap::new(auth.clone()),
        tokens: Tokens::default(),
        listeners: Arc::default(),
    });
    Ok(Engine {
        shared,
        ring,
        revision: state.revision,
        compacted: state.compacted,
        applied: state.applied,
        auth,
        index: state.applied.map_or(0, |applied| applied.index),
        sub: 0,
        pending: Vec::new(),
        events: Vec::new(),
        batch: Batch::default(),
        alarms,
        // What a crash left of the last compaction, if anything, is still in the index.
        compaction: (state.compacted >= 0 && tree.summary().garbage > 0).then(Compaction::default),
        dead: VecDeque::new(),
        failed: false,
        tree,
    })
}

fn check_format(backend: &dyn Backend) -> Result<(), Error> {
    match backend.get(Space::Meta, FORMAT)? {
        Some(format) if format[..] == *FORMAT_VERSION => Ok(()),
        Some(format) => Err(Error::Storage(format!(
            "the store has format {:?}; this version reads format {FORMAT_VERSION:?} only",
            &format[..]
        ))),
        None => {
            let mut empty = true;
            backend.scan(Space::Revisions, &[], None, &mut |_, _| {
                empty = false;
                Ok(false)
            })?;
            if !empty {
                return Err(damaged("it holds records and no format"));
            }
            let mut batch = Batch::default();
            batch.put(Space::Meta, FORMAT, Bytes::from_static(FORMAT_VERSION));
            backend.write(batch)
        }
    }
}

fn load_index(backend: &dyn Backend, state: State) -> Result<Tree, Error> {
    let mut tree = Tree::default();
    let mut last = 1;
    backend.scan(Space::Revisions, &[], None, &mut |key, value| {
        let at = Revision::from_bytes(key).ok_or_else(|| damaged("unreadable revision"))?;
        let record = Record::decode(value)?;
        let Record { create, version, lease, .. } = record;
        let length = record.value.len() as u32;
        tree.write(record.key, Change::Load { at, create, version, lease, length });
        last = at.main;
        Ok(true)
    })?;
    // The newest write is never compacted away here; a state taken over from etcd may have lost it to a compaction.
    let compacted_away = last < state.revision && state.compacted == state.revision;
    if last != state.revision && !compacted_away {
        return Err(damaged(&format!("its revision is {}, its newest record {last}", state.revision)));
    }
    Ok(tree)
}

fn load_leases(backend: &dyn Backend, tree: &Tree) -> Result<LeaseTable, Error> {
    let leases = LeaseTable::default();
    backend.scan(Space::Leases, &[], None, &mut |key, value| {
        let id = key.try_into().map(i64::from_be_bytes).map_err(|_| damaged("unreadable lease id"))?;
        let (ttl, remaining) = lease::decode(value).ok_or_else(|| damaged("unreadable lease"))?;
        leases.grant(id, ttl)?;
        leases.checkpoint(id, remaining);
        Ok(true)
    })?;
    tree.visit(Span::Range(b"", None), &mut |key, entry| {
        if entry.lease != 0 {
            leases.attach(entry.lease, key);
        }
        true
    });
    Ok(leases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_round_trip() {
        for applied in [None, Some(Applied { term: 3, node: u64::MAX, index: 9 })] {
            let state = State { applied, revision: i64::MAX, compacted: -1 };
            let bytes = state.encode();
            assert_eq!(State::decode(&bytes), Some(state));
            assert_eq!(State::decode(&bytes[1..]), None);
        }
    }
}
