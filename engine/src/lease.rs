//! Which leases there are and which keys hang on them.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use parking_lot::RwLock;

use crate::Error;

mod keys;

use keys::Keys;

/// The longest time to live that a lease may have, in seconds (etcd's `MaxLeaseTTL`).
pub const MAX_LEASE_TTL: i64 = 9_000_000_000;

/// Leases, or keys of one lease, copied under one hold of the lock.
const CHUNK: usize = 1024;

/// A lease and the keys that are deleted with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    pub id: i64,
    /// Granted time to live, in seconds.
    pub ttl: i64,
    /// Seconds that were left at the last checkpoint; 0 if there was none since the lease was last renewed.
    pub remaining: i64,
    /// In key order.
    pub keys: Vec<Bytes>,
}

/// A lease without its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseTime {
    pub id: i64,
    /// Granted time to live, in seconds.
    pub ttl: i64,
    /// As in [`LeaseInfo`].
    pub remaining: i64,
}

impl LeaseTime {
    /// Seconds that a lease starts with when nobody knows when it was last renewed.
    pub fn left(&self) -> i64 {
        if self.remaining > 0 { self.remaining } else { self.ttl }
    }
}

/// What the backend keeps under a lease's id: its time to live and, where a checkpoint was made, what was left then.
pub(crate) fn encode(ttl: i64, remaining: i64) -> Bytes {
    match remaining {
        0 => Bytes::copy_from_slice(&ttl.to_le_bytes()),
        _ => [ttl.to_le_bytes(), remaining.to_le_bytes()].concat().into(),
    }
}

/// The reverse of [`encode`]; `None` for anything of another length.
pub(crate) fn decode(bytes: &[u8]) -> Option<(i64, i64)> {
    let (ttl, rest) = bytes.split_first_chunk::<8>()?;
    let remaining = if rest.is_empty() { 0 } else { i64::from_le_bytes(rest.try_into().ok()?) };
    Some((i64::from_le_bytes(*ttl), remaining))
}

struct Lease {
    ttl: i64,
    remaining: i64,
    keys: Keys,
}

/// Written by the one writer, only for commands that touch leases; readers hold the lock for a bounded number of
/// leases or keys.
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
        leases.insert(id, Lease { ttl, remaining: 0, keys: Keys::default() });
        Ok(())
    }

    /// Notes what a lease has left, 0 for all of it, and returns its time to live; `None` if there is no such lease.
    pub fn checkpoint(&self, id: i64, remaining: i64) -> Option<i64> {
        let mut leases = self.leases.write();
        let lease = leases.get_mut(&id)?;
        lease.remaining = remaining;
        Some(lease.ttl)
    }

    /// Removes the lease and returns its keys in order.
    pub fn revoke(&self, id: i64) -> Result<Vec<Bytes>, Error> {
        let lease = self.leases.write().remove(&id).ok_or(Error::LeaseNotFound)?;
        Ok(lease.keys.into_sorted())
    }

    /// Hangs the key on the lease; nothing happens where the lease does not exist.
    pub fn attach(&self, id: i64, key: &[u8]) {
        if let Some(lease) = self.leases.write().get_mut(&id) {
            lease.keys.insert(key);
        }
    }

    pub fn detach(&self, id: i64, key: &[u8]) {
        if let Some(lease) = self.leases.write().get_mut(&id) {
            lease.keys.remove(key);
        }
    }

    /// A key that comes or goes meanwhile may or may not be among those of a lease with very many.
    pub fn get(&self, id: i64) -> Option<LeaseInfo> {
        let mut info: Option<LeaseInfo> = None;
        loop {
            let leases = self.leases.read();
            // A lease that went in between is none, whatever had been read of it.
            let lease = leases.get(&id)?;
            let info = info.get_or_insert_with(|| LeaseInfo { id, ttl: 0, remaining: 0, keys: Vec::new() });
            (info.ttl, info.remaining) = (lease.ttl, lease.remaining);
            let before = info.keys.len();
            let last = info.keys.last().cloned();
            info.keys.extend(lease.keys.after(last.as_deref()).take(CHUNK).map(Bytes::copy_from_slice));
            if info.keys.len() - before < CHUNK {
                return Some(std::mem::replace(info, LeaseInfo { id, ttl: 0, remaining: 0, keys: Vec::new() }));
            }
        }
    }

    /// Up to `limit` leases behind the id `after` (`None`: from the first), in id order.
    pub fn page(&self, after: Option<i64>, limit: usize) -> Vec<LeaseTime> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let leases = self.leases.read();
        let page = leases.range((from, Bound::Unbounded)).take(limit.min(CHUNK));
        page.map(|(&id, lease)| LeaseTime { id, ttl: lease.ttl, remaining: lease.remaining }).collect()
    }

    /// All, in id order. A lease that comes or goes meanwhile may or may not be among them.
    pub fn each(&self) -> impl Iterator<Item = LeaseTime> + '_ {
        let mut page = self.page(None, CHUNK).into_iter();
        let mut last = None;
        std::iter::from_fn(move || {
            let next = page.next().or_else(|| {
                // Only a full page has something behind it, but asking once more costs nothing.
                page = self.page(Some(last?), CHUNK).into_iter();
                page.next()
            })?;
            last = Some(next.id);
            Some(next)
        })
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
        let ids: Vec<i64> = (0..3 * CHUNK as i64).map(|id| id * 2 - 1001).collect();
        ids.iter().for_each(|&id| table.grant(id, 10).unwrap());
        table.grant(i64::MAX, 3).unwrap();
        let all: Vec<i64> = table.each().map(|lease| lease.id).collect();
        assert_eq!(all.len(), ids.len() + 1);
        assert!(all.is_sorted());
    }

    #[test]
    fn many_keys_of_one_lease_are_complete_and_in_order() {
        let table = LeaseTable::default();
        table.grant(1, 10).unwrap();
        (0..2 * CHUNK + 5).rev().for_each(|number| table.attach(1, format!("{number:06}").as_bytes()));
        let keys = table.get(1).unwrap().keys;
        assert_eq!(keys.len(), 2 * CHUNK + 5);
        assert!(keys.is_sorted());
        assert_eq!(table.revoke(1), Ok(keys));
    }

    #[test]
    fn what_is_stored_of_a_lease_round_trips() {
        for (ttl, remaining) in [(1, 0), (MAX_LEASE_TTL, 7)] {
            let bytes = encode(ttl, remaining);
            assert_eq!(decode(&bytes), Some((ttl, remaining)));
            assert_eq!(decode(&bytes[1..]), None);
        }
        assert_eq!(decode(&[0; 17]), None);
    }
}
