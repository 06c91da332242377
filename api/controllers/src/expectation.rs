//! What a controller has written and not yet seen come back through its cache.
//!
//! Until a key's expectations are met its cached pods are known to be out of date, so the controller neither creates nor
//! deletes for it: a stale cache never over-creates. An expectation that is never met (an event lost between two lists)
//! expires after five minutes, as in kube-controller-manager.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::time::Instant;

use crate::queue::Key;

/// After this long an unmet expectation is given up.
const EXPIRY: Duration = Duration::from_secs(300);

/// Expectations by key. One entry for each key with writes under way.
#[derive(Default)]
pub(crate) struct Expectations {
    pending: Mutex<FxHashMap<Key, Pending>>,
}

struct Pending {
    creations: i64,
    /// By uid, as a deletion is seen twice: when it begins and when it ends.
    deletions: FxHashSet<Arc<str>>,
    since: Instant,
}

impl Expectations {
    /// Whether everything that was written has been seen.
    pub(crate) fn satisfied(&self, key: &str) -> bool {
        self.satisfied_at(key, Instant::now())
    }

    fn satisfied_at(&self, key: &str, now: Instant) -> bool {
        let mut pending = self.pending.lock();
        let Some(entry) = pending.get(key) else { return true };
        let met = entry.creations <= 0 && entry.deletions.is_empty();
        if met || now.saturating_duration_since(entry.since) > EXPIRY {
            pending.remove(key);
            return true;
        }
        false
    }

    /// Announces writes before they are made.
    pub(crate) fn expect(&self, key: &Key, creations: usize, deletions: impl IntoIterator<Item = Arc<str>>) {
        let entry = Pending {
            creations: i64::try_from(creations).unwrap_or(i64::MAX),
            deletions: deletions.into_iter().collect(),
            since: Instant::now(),
        };
        self.pending.lock().insert(key.clone(), entry);
    }

    /// `count` creations were seen, or were not made after all.
    pub(crate) fn created(&self, key: &str, count: usize) {
        if let Some(entry) = self.pending.lock().get_mut(key) {
            entry.creations -= i64::try_from(count).unwrap_or(i64::MAX);
        }
    }

    /// The deletion of this uid was seen, or was not made after all.
    pub(crate) fn deleted(&self, key: &str, uid: &str) {
        if let Some(entry) = self.pending.lock().get_mut(key) {
            entry.deletions.remove(uid);
        }
    }

    /// The owner is gone.
    pub(crate) fn forget(&self, key: &str) {
        self.pending.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unmet_until_seen_or_expired() {
        let expectations = Expectations::default();
        let key: Key = "a/b".into();
        assert!(expectations.satisfied(&key));
        expectations.expect(&key, 2, ["u1".into()]);
        expectations.created(&key, 1);
        assert!(!expectations.satisfied(&key));
        expectations.created(&key, 1);
        assert!(!expectations.satisfied(&key), "a deletion is still to be seen");
        expectations.deleted(&key, "other");
        assert!(!expectations.satisfied(&key));
        expectations.deleted(&key, "u1");
        assert!(expectations.satisfied(&key));
        expectations.expect(&key, 1, []);
        assert!(!expectations.satisfied_at(&key, Instant::now() + EXPIRY / 2));
        assert!(expectations.satisfied_at(&key, Instant::now() + EXPIRY + Duration::from_secs(1)));
    }
}
