//! A store that is naive enough to be seen correct: the reference that the real ones are compared with, and what tests
//! of the gateway and its controllers run on.
//!
//! One mutex, every version of every key in a map, every change in a list. Nothing is durable, and memory is bounded
//! by [`Store::compact`] alone.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::store::{Change, Changes, Got, ListOptions, Listed, Object, Store, StoreError, Written};

/// Most changes in one batch of a watch, unless one revision alone has more.
const BATCH: usize = 1000;

/// Longest lease that etcd grants, in seconds.
const MAX_TTL: i64 = 9_000_000_000;

/// The reference model of [`Store`]. Clones share one store.
#[derive(Clone)]
pub struct ModelStore {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Says "look again" to the watches: the state changed, or progress was asked for.
    changed: watch::Sender<()>,
}

struct State {
    revision: i64,
    compacted: i64,
    /// All versions of each key since the compaction, oldest first; `None` where the key was deleted.
    versions: BTreeMap<Bytes, Vec<Version>>,
    /// All changes since the compaction, in revision order.
    changes: VecDeque<Logged>,
    /// Live leases. Expiry finds their keys by looking at all of them.
    leases: BTreeMap<i64, i64>,
    next_lease: i64,
    /// How often progress was asked for.
    progress_requests: u64,
}

struct Version {
    revision: i64,
    object: Option<Object>,
}

struct Logged {
    revision: i64,
    key: Bytes,
    change: Change,
}

impl Default for ModelStore {
    fn default() -> Self {
        Self::new()
    }
}

impl ModelStore {
    /// An empty store at revision 1, which is where etcd starts.
    pub fn new() -> Self {
        let state = State {
            revision: 1,
            compacted: 0,
            versions: BTreeMap::new(),
            changes: VecDeque::new(),
            leases: BTreeMap::new(),
            next_lease: 1,
            progress_requests: 0,
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), changed: watch::Sender::new(()) }) }
    }

    /// The store's current revision.
    pub fn revision(&self) -> i64 {
        self.shared.state.lock().revision
    }

    /// Ends a lease as if its time had run out: all its keys vanish at one revision.
    pub fn expire_lease(&self, id: i64) {
        self.shared.expire(id);
    }
}

impl Shared {
    fn expire(&self, id: i64) {
        let mut state = self.state.lock();
        if state.leases.remove(&id).is_none() {
            return;
        }
        let doomed: Vec<Bytes> = state
            .versions
            .iter()
            .filter_map(|(key, v)| newest(v).filter(|o| o.lease == id).map(|_| key.clone()))
            .collect();
        if !doomed.is_empty() {
            state.revision += 1;
            for key in doomed {
                state.record(key, None);
            }
        }
        drop(state);
        self.changed.send_replace(());
    }
}

fn newest(versions: &[Version]) -> Option<&Object> {
    versions.last().and_then(|v| v.object.as_ref())
}

impl State {
    fn current(&self, key: &Bytes) -> Option<&Object> {
        newest(self.versions.get(key)?)
    }

    /// Writes down what `key` holds from the current revision on.
    fn record(&mut self, key: Bytes, object: Option<Object>) {
        let previous = self.current(&key).cloned();
        let revision = self.revision;
        let change = match &object {
            Some(object) => Change::Put { object: object.clone(), previous },
            None => Change::Delete { key: key.clone(), revision, previous },
        };
        self.changes.push_back(Logged { revision, key: key.clone(), change });
        self.versions.entry(key).or_default().push(Version { revision, object });
    }

    /// The objects under `prefix` from `start` on, as they were at `revision`.
    fn at<'a>(&'a self, prefix: &'a Bytes, start: &Bytes, revision: i64) -> impl Iterator<Item = &'a Object> {
        self.versions
            .range(start.clone()..)
            .take_while(move |(key, _)| key.starts_with(prefix))
            .filter_map(move |(_, v)| v.iter().rev().find(|v| v.revision <= revision)?.object.as_ref())
    }

    fn readable(&self, revision: i64) -> Result<(), StoreError> {
        if revision > self.revision {
            Err(StoreError::Future)
        } else if revision < self.compacted {
            Err(StoreError::Compacted { compacted: self.compacted })
        } else {
            Ok(())
        }
    }
}

fn required(key: &Bytes) -> Result<(), StoreError> {
    if key.is_empty() { Err(StoreError::Rejected("etcdserver: key is not provided".into())) } else { Ok(()) }
}

#[async_trait::async_trait]
impl Store for ModelStore {
    async fn get(&self, key: Bytes) -> Result<Got, StoreError> {
        required(&key)?;
        let state = self.shared.state.lock();
        Ok(Got { revision: state.revision, object: state.current(&key).cloned() })
    }

    async fn list(&self, prefix: Bytes, options: ListOptions) -> Result<Listed, StoreError> {
        let state = self.shared.state.lock();
        let revision = if options.revision > 0 { options.revision } else { state.revision };
        state.readable(revision)?;
        // A start below the prefix would make the scan stop before it has begun.
        let start = options.start_key.filter(|start| *start > prefix).unwrap_or_else(|| prefix.clone());
        let count = state.at(&prefix, &start, revision).count();
        let limit = if options.limit == 0 { usize::MAX } else { options.limit };
        let objects: Vec<Object> = state.at(&prefix, &start, revision).take(limit).cloned().collect();
        let more = objects.len() < count;
        Ok(Listed { revision: state.revision, objects, more, count: count as i64 })
    }

    async fn count(&self, prefix: Bytes) -> Result<(i64, i64), StoreError> {
        let state = self.shared.state.lock();
        Ok((state.at(&prefix, &prefix, state.revision).count() as i64, state.revision))
    }

    async fn put(&self, key: Bytes, value: Bytes, expected: i64, lease: i64) -> Result<Written, StoreError> {
        required(&key)?;
        let mut state = self.shared.state.lock();
        let current = state.current(&key).cloned();
        if current.as_ref().map_or(0, |o| o.mod_revision) != expected {
            return Ok(Written::Conflict { revision: state.revision, current });
        }
        if lease != 0 && !state.leases.contains_key(&lease) {
            return Err(StoreError::Rejected("etcdserver: requested lease not found".into()));
        }
        state.revision += 1;
        let revision = state.revision;
        let create_revision = current.map_or(revision, |o| o.create_revision);
        let object = Object { key: key.clone(), value, mod_revision: revision, create_revision, lease };
        state.record(key, Some(object));
        drop(state);
        self.shared.changed.send_replace(());
        Ok(Written::Done { revision })
    }

    async fn delete(&self, key: Bytes, expected: i64) -> Result<Written, StoreError> {
        required(&key)?;
        let mut state = self.shared.state.lock();
        let current = state.current(&key).cloned();
        if current.as_ref().map_or(0, |o| o.mod_revision) != expected {
            return Ok(Written::Conflict { revision: state.revision, current });
        }
        if current.is_some() {
            state.revision += 1;
            state.record(key, None);
        }
        let revision = state.revision;
        drop(state);
        self.shared.changed.send_replace(());
        Ok(Written::Done { revision })
    }

    async fn watch(&self, prefix: Bytes, start_revision: i64) -> Result<Changes, StoreError> {
        let changed = self.shared.changed.subscribe();
        let state = self.shared.state.lock();
        let next = if start_revision > 0 { start_revision } else { state.revision + 1 };
        let cursor = Cursor {
            shared: self.shared.clone(),
            changed,
            prefix,
            next,
            progress_seen: state.progress_requests,
            failed: false,
        };
        drop(state);
        Ok(Box::pin(stream::unfold(cursor, |mut cursor| async move { Some((cursor.next().await?, cursor)) })))
    }

    async fn request_progress(&self) -> Result<(), StoreError> {
        self.shared.state.lock().progress_requests += 1;
        self.shared.changed.send_replace(());
        Ok(())
    }

    async fn compact(&self, revision: i64) -> Result<(), StoreError> {
        let mut state = self.shared.state.lock();
        if revision <= state.compacted {
            return Err(StoreError::Compacted { compacted: state.compacted });
        }
        state.readable(revision)?;
        state.compacted = revision;
        state.versions.retain(|_, versions| {
            // The last version up to the compaction stays readable at it; a deletion leaves nothing to read.
            let kept = versions.iter().rposition(|v| v.revision <= revision).unwrap_or(0);
            versions.drain(..kept);
            versions.len() > 1 || newest(versions).is_some()
        });
        while state.changes.front().is_some_and(|logged| logged.revision < revision) {
            state.changes.pop_front();
        }
        Ok(())
    }

    async fn grant_lease(&self, ttl: i64) -> Result<i64, StoreError> {
        if ttl > MAX_TTL {
            return Err(StoreError::Rejected("etcdserver: too large lease TTL".into()));
        }
        let ttl = ttl.max(1);
        let mut state = self.shared.state.lock();
        let id = state.next_lease;
        state.next_lease += 1;
        state.leases.insert(id, ttl);
        drop(state);
        let shared = Arc::downgrade(&self.shared);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(ttl.unsigned_abs())).await;
            if let Some(shared) = shared.upgrade() {
                shared.expire(id);
            }
        });
        Ok(id)
    }
}

/// One open watch: the next revision that it has not looked at.
struct Cursor {
    shared: Arc<Shared>,
    changed: watch::Receiver<()>,
    prefix: Bytes,
    next: i64,
    progress_seen: u64,
    failed: bool,
}

impl Cursor {
    async fn next(&mut self) -> Option<Result<Vec<Change>, StoreError>> {
        if self.failed {
            return None;
        }
        loop {
            self.changed.borrow_and_update();
            if let Some(batch) = self.ready() {
                self.failed = batch.is_err();
                return Some(batch);
            }
            self.changed.changed().await.ok()?;
        }
    }

    fn ready(&mut self) -> Option<Result<Vec<Change>, StoreError>> {
        let state = self.shared.state.lock();
        if self.next < state.compacted {
            return Some(Err(StoreError::Compacted { compacted: state.compacted }));
        }
        let mut batch = Vec::new();
        let from = state.changes.partition_point(|logged| logged.revision < self.next);
        for logged in state.changes.range(from..) {
            if batch.len() >= BATCH && logged.revision >= self.next {
                return Some(Ok(batch));
            }
            if logged.key.starts_with(&self.prefix) {
                batch.push(logged.change.clone());
            }
            self.next = logged.revision + 1;
        }
        // A watch from a future revision waits there.
        self.next = self.next.max(state.revision + 1);
        if self.progress_seen != state.progress_requests {
            self.progress_seen = state.progress_requests;
            batch.push(Change::Progress { revision: state.revision });
        }
        if batch.is_empty() { None } else { Some(Ok(batch)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn passes_the_store_suite() {
        crate::store_suite::run(&ModelStore::new()).await;
    }
}
