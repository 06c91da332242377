//! What has really happened: every entry that any member has applied, and what it did.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use kelson_engine::{Event, EventKind};

/// One change of a key, as a watcher is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: String,
    /// `None` for a deletion.
    pub value: Option<Bytes>,
    pub create: i64,
    pub version: i64,
    pub lease: i64,
}

impl Change {
    pub fn of(event: &Event) -> Change {
        let kv = &event.kv;
        let value = (event.kind == EventKind::Put).then(|| kv.value.clone());
        let (create, version, lease) = (kv.create_revision, kv.version, kv.lease);
        Change { key: String::from_utf8_lossy(&kv.key).into_owned(), value, create, version, lease }
    }

    /// The number that was written.
    pub fn number(&self) -> Option<u64> {
        std::str::from_utf8(self.value.as_ref()?).ok()?.parse().ok()
    }
}

/// All that one revision changed.
#[derive(Clone, Debug)]
pub struct Step {
    pub changes: Vec<Change>,
    /// When a member first applied it: by the simulated clock, and by the clock that orders all that happens.
    pub at: Duration,
    pub tick: u64,
}

/// An entry of the log that some member has applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub term: u64,
    pub node: u64,
    /// The store's revision behind it.
    pub revision: i64,
    /// Hash of the state behind it, where somebody has taken it.
    pub hash: Option<u64>,
}

/// See the module's documentation.
#[derive(Default)]
pub struct Truth {
    pub entries: BTreeMap<u64, Entry>,
    pub steps: BTreeMap<i64, Step>,
}

/// A key at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub value: Bytes,
    pub create: i64,
    pub modified: i64,
    pub version: i64,
    pub lease: i64,
}

/// Every key at one revision.
pub type State = BTreeMap<String, Held>;

/// Lets one revision happen.
pub fn advance(state: &mut State, revision: i64, step: &Step) {
    for change in &step.changes {
        match &change.value {
            None => _ = state.remove(&change.key),
            Some(value) => {
                let Change { create, version, lease, .. } = *change;
                let held = Held { value: value.clone(), create, modified: revision, version, lease };
                state.insert(change.key.clone(), held);
            }
        }
    }
}

impl Truth {
    /// The newest revision; a new store has 1.
    pub fn revision(&self) -> i64 {
        self.steps.last_key_value().map_or(1, |(revision, _)| *revision)
    }

    /// The revision at which this number was written to a key, and when.
    pub fn written(&self, key: &str, number: u64) -> Option<(i64, &Step)> {
        // Looked for from the end: it is asked soon after.
        let mut steps = self.steps.iter().rev();
        steps
            .find(|(_, step)| step.changes.iter().any(|change| change.key == key && change.number() == Some(number)))
            .map(|(revision, step)| (*revision, step))
    }
}
