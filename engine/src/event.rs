//! One change, as watchers see it.

use std::sync::OnceLock;

use bytes::Bytes;

use crate::command::KeyValue;
use crate::record::{self, Record};
use crate::{Error, Revision};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Put,
    Delete,
}

/// A change of one key, shared by all who watch it.
#[derive(Debug)]
pub struct Event {
    pub kind: EventKind,
    /// After a put, the key as it is now; after a delete only its name and the revision of the deletion.
    pub kv: KeyValue,
    at: Revision,
    previous: Option<Revision>,
    previous_kv: OnceLock<Option<KeyValue>>,
}

impl Event {
    /// The event that the record stored under `at` stands for.
    pub(crate) fn of(at: Revision, bytes: &Bytes) -> Result<Event, Error> {
        let decoded = Record::decode(bytes)?;
        let kind = if decoded.is_tombstone() { EventKind::Delete } else { EventKind::Put };
        let kv = record::key_value(at, bytes)?;
        Ok(Event { kind, kv, at, previous: decoded.previous, previous_kv: OnceLock::new() })
    }

    /// What the key held before. Known only where a watcher with `prev_kv` has polled the event; `None` as well where
    /// the key did not exist before, or where that version has been compacted away.
    pub fn prev_kv(&self) -> Option<&KeyValue> {
        self.previous_kv.get()?.as_ref()
    }

    /// Revision of the change.
    pub fn revision(&self) -> i64 {
        self.at.main
    }

    /// Where the previous version's record lies, if it is still to be looked up.
    pub(crate) fn unresolved(&self) -> Option<Revision> {
        self.previous.filter(|_| self.previous_kv.get().is_none())
    }

    /// Remembers the previous version; the first answer stands.
    pub(crate) fn resolve(&self, previous: Option<KeyValue>) {
        // A second watcher may have looked it up at the same time, with the same result.
        let _ = self.previous_kv.set(previous);
    }

    /// What it takes in memory, about.
    pub(crate) fn cost(&self) -> usize {
        size_of::<Event>() + self.kv.key.len() + self.kv.value.len()
    }
}
