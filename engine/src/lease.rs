//! Which leases there are and which keys hang on them.

use std::collections::BTreeMap;

use bytes::Bytes;
use parking_lot::RwLock;
use rustc_hash::FxHashSet;

use crate::Error;

/// The longest time to live that a lease may have, in seconds (etcd's `MaxLeaseTTL`).
pub const MAX_LEASE_TTL: i64 = 9_000_000_000;

/// Leases copied under one hold of the lock by [`LeaseTable::all`].
const LIST_CHUNK: usize = 1024;

/// A lease and the keys that are deleted with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    pub id: i64,
    /// Granted time to live, in seconds.
    pub ttl: i64,
    /// In key order.
    pub keys: Vec<Bytes>,
}

#[derive(Default)]
struct Lease {
    ttl: i64,
    keys: FxHashSet<Box<[u8]>>,
}

/// Written by the one writer, only for commands that touch leases; readers hold the lock for one lease or for a
/// bounded number of ids.
#[derive(Default)]
pub(crate) struct LeaseTable {
    leases: RwLock<BTreeMap<i64, Lease>>,
}

impl LeaseTable {
    pub fn exists(&self, id: i64) -> bool {
        self.leases.read().contains_key(&id)
    }

    pub fn len(&self) -> usize {
        self.leases.read().len()
    }

    /// Refuses an id that is in use or none, and a time to live beyond [`MAX_LEASE_TTL`].
    pub fn grant(&self, id: i64, ttl: i64) -> Result<(), Error> {
        if id == 0 {
            return Err(Error::LeaseNotFound);
        }
        if ttl > MAX_LEASE_TTL {
            return Err(Error::LeaseTtlTooLarge);
        }
        let mut leases = self.leases.write();
        if leases.contains_key(&id) {
            return Err(Error::LeaseExists);
        }
        leases.insert(id, Lease { ttl, keys: FxHashSet::default() });
        Ok(())
    }

    /// Removes the lease and returns its keys in order.
    pub fn revoke(&self, id: i64) -> Result<Vec<Bytes>, Error> {
        let lease = self.leases.write().remove(&id).ok_or(Error::LeaseNotFound)?;
        let mut keys: Vec<Bytes> = lease.keys.into_iter().map(Bytes::from).collect();
        keys.sort_unstable();
        Ok(keys)
    }

    /// Hangs the key on the lease; nothing happens where the lease does not exist.
    pub fn attach(&self, id: i64, key: &[u8]) {
        if let Some(lease) = self.leases.write().get_mut(&id) {
            lease.keys.insert(key.into());
        }
    }

    pub fn detach(&self, id: i64, key: &[u8]) {
        if let Some(lease) = self.leases.write().get_mut(&id) {
            lease.keys.remove(key);
        }
    }

    pub fn get(&self, id: i64) -> Option<LeaseInfo> {
        let (ttl, mut keys) = {
            let leases = self.leases.read();
            let lease = leases.get(&id)?;
            (lease.ttl, lease.keys.iter().map(|key| Bytes::copy_from_slice(key)).collect::<Vec<_>>())
        };
        keys.sort_unstable();
        Some(LeaseInfo { id, ttl, keys })
    }

    /// Ids and times to live, in id order. A lease that comes or goes meanwhile may or may not be among them.
    pub fn all(&self) -> Vec<(i64, i64)> {
        let mut all = Vec::with_capacity(self.len());
        let mut from = i64::MIN;
        loop {
            let before = all.len();
            let chunk = self.leases.read();
            all.extend(chunk.range(from..).take(LIST_CHUNK).map(|(&id, lease)| (id, lease.ttl)));
            drop(chunk);
            match all.last() {
                Some(&(last, _)) if all.len() == before + LIST_CHUNK && last < i64::MAX => from = last + 1,
                _ => return all,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_and_duplicates() {
        let table = LeaseTable::default();
        assert_eq!(table.grant(0, 5), Err(Error::LeaseNotFound));
        assert_eq!(table.grant(1, MAX_LEASE_TTL + 1), Err(Error::LeaseTtlTooLarge));
        assert_eq!(table.grant(1, MAX_LEASE_TTL), Ok(()));
        assert_eq!(table.grant(1, 5), Err(Error::LeaseExists));
        assert_eq!(table.revoke(2), Err(Error::LeaseNotFound));
    }

    #[test]
    fn keys_come_and_go() {
        let table = LeaseTable::default();
        table.grant(7, 60).unwrap();
        for key in ["c", "a", "b", "a"] {
            table.attach(7, key.as_bytes());
        }
        table.detach(7, b"b");
        table.attach(8, b"x");
        assert_eq!(table.get(7).unwrap().keys, ["a", "c"]);
        assert_eq!(table.get(8), None);
        assert_eq!(table.revoke(7).unwrap(), ["a", "c"]);
        assert!(!table.exists(7));
    }

    #[test]
    fn a_long_list_is_complete() {
        let table = LeaseTable::default();
        let ids: Vec<i64> = (0..3 * LIST_CHUNK as i64).map(|id| id * 2 - 1001).collect();
        ids.iter().for_each(|&id| table.grant(id, 10).unwrap());
        table.grant(i64::MAX, 3).unwrap();
        let all = table.all();
        assert_eq!(all.len(), ids.len() + 1);
        assert!(all.is_sorted());
    }
}
