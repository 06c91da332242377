//! The watch cache: one per resource, fed by one store watch, read by every list and watch.
//!
//! An object is kept as the bytes that clients get, resource version included, never as a parsed tree. An event is
//! encoded once; every watcher sends the same bytes. Watchers pull by cursor from rings of recent events: one ring
//! of all events, and one for each narrower scope that somebody watches (a namespace, one object, the pods of one
//! node), so that an event costs watchers of other scopes nothing. Rings are bounded; a watcher that falls out of
//! its ring is told 410 Expired and lists again, it never holds back the feed or its neighbours.

mod entry;
mod feed;
mod ring;
mod watcher;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kelson_wire::store::{Change, Store, StoreError};
use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use tokio::sync::watch;

pub use entry::{Entry, EventKind};
pub use feed::run;
pub use ring::Event;
use ring::Ring;
pub use watcher::{Pulled, Start, Watcher};

use crate::registry::Resource;
use crate::status::{Answer, Failure};

/// How long a consistent read waits for the cache before it goes to the store.
const FRESHNESS_WAIT: Duration = Duration::from_secs(3);

/// What a watcher's events are narrowed to before its selector looks at them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    All,
    Namespace(Bytes),
    /// The full key.
    Object(Bytes),
    /// The value of the row's indexed field.
    Field(Bytes),
}

impl Scope {
    /// Which map of channels, and the key in it; `None` for the ring of all events.
    fn channel(&self) -> Option<(usize, &Bytes)> {
        match self {
            Scope::All => None,
            Scope::Namespace(key) => Some((0, key)),
            Scope::Object(key) => Some((1, key)),
            Scope::Field(key) => Some((2, key)),
        }
    }

    /// Whether an object is inside.
    fn contains(&self, entry: &Entry) -> bool {
        match self {
            Scope::All => true,
            Scope::Namespace(namespace) => entry.namespace().as_bytes() == namespace,
            Scope::Object(key) => entry.key == *key,
            Scope::Field(value) => entry.indexed() == Some(&value[..]),
        }
    }
}

struct State {
    objects: BTreeMap<Bytes, Arc<Entry>>,
    /// Every change up to this revision is in `objects`.
    revision: i64,
    /// Events after this revision are in the ring, those up to it are not (or not all).
    oldest: i64,
    /// Grows when the cache had to start anew: watchers of an earlier life are cut.
    life: u64,
    ring: Ring,
    channels: [FxHashMap<Bytes, Ring>; 3],
}

/// The cache of one resource.
pub struct Cache {
    row: &'static Resource,
    prefix: Bytes,
    state: RwLock<State>,
    /// Copy of `State::revision` to wait on; 0 until the first list is complete.
    revision: watch::Sender<i64>,
}

/// Objects at one revision.
pub struct Snapshot {
    pub revision: i64,
    pub entries: Vec<Arc<Entry>>,
    /// Objects in the range that a limit left out.
    pub remaining: usize,
}

impl Cache {
    /// An empty cache that nobody feeds yet.
    pub fn new(row: &'static Resource) -> Cache {
        Cache {
            row,
            prefix: row.prefix("").into(),
            state: RwLock::new(State {
                objects: BTreeMap::new(),
                revision: 0,
                oldest: 0,
                life: 0,
                ring: Ring::new(ring::MAX_EVENTS),
                channels: Default::default(),
            }),
            revision: watch::Sender::new(0),
        }
    }

    /// The resource cached here.
    pub fn row(&self) -> &'static Resource {
        self.row
    }

    /// The revision up to which the cache knows everything; 0 before the first list.
    pub fn revision(&self) -> i64 {
        *self.revision.borrow()
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    /// Open watches.
    pub fn watchers(&self) -> usize {
        let state = self.state.read();
        state.ring.watchers + state.channels.iter().flat_map(FxHashMap::values).map(|ring| ring.watchers).sum::<usize>()
    }

    /// One object as the cache knows it.
    pub fn get(&self, key: &[u8]) -> Option<Arc<Entry>> {
        self.state.read().objects.get(key).cloned()
    }

    /// Objects whose key starts with `prefix`, from `start` on, at most `limit` (0: all).
    pub fn snapshot(&self, prefix: &[u8], start: &[u8], limit: usize) -> Snapshot {
        let state = self.state.read();
        let from = if start.is_empty() { prefix } else { start };
        let mut range = state
            .objects
            .range::<[u8], _>((Bound::Included(from), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(_, entry)| entry);
        let entries: Vec<_> =
            if limit == 0 { range.by_ref().cloned().collect() } else { range.by_ref().take(limit).cloned().collect() };
        Snapshot { revision: state.revision, entries, remaining: range.count() }
    }

    /// [`Cache::snapshot`] as of `revision`, if nothing has changed since.
    pub fn snapshot_at(&self, revision: i64, prefix: &[u8], start: &[u8], limit: usize) -> Option<Snapshot> {
        let unchanged = |cache: &Cache| {
            let state = cache.state.read();
            state.revision >= revision && state.oldest <= revision && state.ring.newest() <= revision
        };
        if !unchanged(self) {
            return None;
        }
        let mut snapshot = self.snapshot(prefix, start, limit);
        // A change may have come between the two locks.
        unchanged(self).then(|| {
            snapshot.revision = revision;
            snapshot
        })
    }

    /// Waits until the cache knows everything up to `revision`.
    ///
    /// # Errors
    /// 504 "Too large resource version" if that does not happen in three seconds.
    pub async fn wait_for(&self, store: &dyn Store, revision: i64) -> Answer<()> {
        if self.revision() >= revision {
            return Ok(());
        }
        // The events of a local store are already on their way; only silence needs an explicit request.
        store.request_progress().await?;
        let mut current = self.revision.subscribe();
        let reached = tokio::time::timeout(FRESHNESS_WAIT, current.wait_for(|current| *current >= revision)).await;
        match reached {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Failure::too_large(revision, self.revision())),
        }
    }

    /// Waits until the cache knows everything that the store acknowledged before this call.
    ///
    /// # Errors
    /// Those of [`Cache::wait_for`] and of the store.
    pub async fn wait_current(&self, store: &dyn Store) -> Answer<()> {
        // One key that never exists: the cheapest linearizable read there is.
        let current = store.get(Bytes::from_static(b"/registry/.revision")).await?.revision;
        self.wait_for(store, current).await
    }

    /// Waits for the first list.
    pub async fn wait_ready(&self) {
        // The sender lives in `self`, so the wait can only end with the value.
        let _ = self.revision.subscribe().wait_for(|revision| *revision > 0).await;
    }

    /// Replaces everything: the first list, or the list after history was lost.
    fn reset(&self, revision: i64, entries: Vec<Arc<Entry>>) {
        let mut state = self.state.write();
        state.objects = entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        state.revision = revision;
        state.oldest = revision;
        state.life += 1;
        state.ring.clear();
        for ring in state.channels.iter_mut().flat_map(FxHashMap::values_mut) {
            ring.clear();
        }
        drop(state);
        self.revision.send_replace(revision);
    }

    /// Applies changes in revision order.
    fn apply(&self, changes: Vec<Change>) {
        // Encode before taking the lock: readers wait for pointer moves only.
        let mut reached = 0;
        let mut prepared = Vec::with_capacity(changes.len());
        for change in changes {
            match change {
                Change::Put { object, .. } => {
                    reached = object.mod_revision;
                    let kind = if object.create_revision == object.mod_revision {
                        EventKind::Added
                    } else {
                        EventKind::Modified
                    };
                    match Entry::with_kind(self.row, &object, kind) {
                        Some(entry) => prepared.push((entry.key.clone(), reached, Some(Arc::new(entry)))),
                        None => {
                            tracing::warn!(key = %String::from_utf8_lossy(&object.key), "stored value is no JSON object, skipped");
                            prepared.push((object.key, reached, None));
                        }
                    }
                }
                Change::Delete { key, revision, .. } => {
                    reached = revision;
                    prepared.push((key, revision, None));
                }
                Change::Progress { revision } => reached = revision,
            }
        }
        let mut published = false;
        let mut guard = self.state.write();
        let state = &mut *guard;
        for (key, revision, entry) in prepared {
            if revision <= state.revision && state.objects.get(&key).is_some_and(|old| old.revision >= revision) {
                continue;
            }
            let event = match entry {
                Some(entry) => {
                    let previous = state.objects.insert(key, entry.clone());
                    Event { revision, deleted: false, entry, previous }
                }
                None => {
                    let Some(previous) = state.objects.remove(&key) else { continue };
                    let entry = Arc::new(previous.deleted(revision));
                    Event { revision, deleted: true, entry, previous: Some(previous) }
                }
            };
            state.publish(Arc::new(event));
            published = true;
        }
        state.revision = state.revision.max(reached);
        let reached = state.revision;
        if published {
            state.ring.wake();
        }
        drop(guard);
        self.revision.send_if_modified(|current| {
            let grows = *current < reached;
            *current = reached.max(*current);
            grows
        });
    }
}

impl State {
    fn publish(&mut self, event: Arc<Event>) {
        if let Some(dropped) = self.ring.push(event.clone()) {
            self.oldest = dropped;
        }
        if self.channels.iter().all(FxHashMap::is_empty) {
            return;
        }
        let entry = &event.entry;
        let previous = event.previous.as_ref();
        let mut send = |map: usize, key: &[u8]| {
            if let Some(ring) = self.channels[map].get_mut(key) {
                ring.push(event.clone());
                ring.wake();
            }
        };
        send(0, entry.namespace().as_bytes());
        send(1, &entry.key);
        let value = entry.indexed();
        let before = previous.and_then(|previous| previous.indexed());
        if let Some(value) = value {
            send(2, value);
        }
        // An object that leaves a value is news for those who watch that value.
        if let Some(before) = before.filter(|before| value != Some(*before)) {
            send(2, before);
        }
    }
}

/// Errors that a feed cannot go on from without listing again.
fn needs_list(error: &StoreError) -> bool {
    matches!(error, StoreError::Compacted { .. } | StoreError::Future)
}

#[cfg(test)]
mod tests;
