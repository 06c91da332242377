//! When leases run out. Kept by whoever leads; the state machine itself knows no time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rustc_hash::FxHashMap;

use crate::LeaseTime;

/// A lease that was reported as expired and still exists is reported again after this time, in milliseconds: the
/// revocation may have been lost with a change of leadership.
const REPORT_AGAIN_MS: u64 = 3_000;

struct Deadline {
    ttl: i64,
    at_ms: u64,
    /// Its valid entry in the queue; others are leftovers.
    ticket: u64,
}

/// Deadlines of all leases. Time comes in as milliseconds of any clock that never goes back.
///
/// After a restart or a change of leader, [`LeaseClock::sync`] gives every lease its full time again, so that no
/// lease ends early.
#[derive(Default)]
pub struct LeaseClock {
    leases: FxHashMap<i64, Deadline>,
    /// Entries are not moved when a lease is renewed: they are put back when they come up too early.
    queue: BinaryHeap<Reverse<(u64, i64, u64)>>,
    tickets: u64,
}

fn after(now_ms: u64, ttl: i64) -> u64 {
    now_ms.saturating_add((ttl.max(0) as u64).saturating_mul(1000))
}

impl LeaseClock {
    pub fn new() -> LeaseClock {
        LeaseClock::default()
    }

    /// Starts over with exactly these leases, each with what it had left at its last checkpoint, else its full time.
    pub fn sync(&mut self, leases: impl IntoIterator<Item = LeaseTime>, now_ms: u64) {
        self.leases.clear();
        self.queue.clear();
        for lease in leases {
            self.insert(lease.id, lease.ttl, now_ms);
            if let Some(deadline) = self.leases.get_mut(&lease.id) {
                deadline.at_ms = after(now_ms, lease.left());
            }
        }
    }

    /// Adds a lease of `ttl` seconds, or replaces it.
    pub fn insert(&mut self, id: i64, ttl: i64, now_ms: u64) {
        self.tickets += 1;
        let at_ms = after(now_ms, ttl);
        self.leases.insert(id, Deadline { ttl, at_ms, ticket: self.tickets });
        self.queue.push(Reverse((at_ms, id, self.tickets)));
        self.sweep();
    }

    /// Gives the lease its full time again and returns that, in seconds. `None` for a lease that does not exist or
    /// has run out: its revocation may be under way, so it must not be promised more time.
    pub fn renew(&mut self, id: i64, now_ms: u64) -> Option<i64> {
        let lease = self.leases.get_mut(&id).filter(|lease| lease.at_ms > now_ms)?;
        lease.at_ms = after(now_ms, lease.ttl);
        Some(lease.ttl)
    }

    /// Milliseconds left, 0 if it has run out, `None` if there is no such lease.
    pub fn remaining(&self, id: i64, now_ms: u64) -> Option<u64> {
        self.leases.get(&id).map(|lease| lease.at_ms.saturating_sub(now_ms))
    }

    pub fn remove(&mut self, id: i64) {
        self.leases.remove(&id);
        self.sweep();
    }

    pub fn len(&self) -> usize {
        self.leases.len()
    }

    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// Up to `limit` leases that have run out, the longest overdue first. Each is reported once, and again some
    /// seconds later if it has not been removed by then.
    pub fn expired(&mut self, now_ms: u64, limit: usize) -> Vec<i64> {
        let mut expired = Vec::new();
        while expired.len() < limit {
            let Some(&Reverse((at_ms, id, ticket))) = self.queue.peek() else { break };
            if at_ms > now_ms {
                break;
            }
            self.queue.pop();
            let Some(lease) = self.leases.get(&id).filter(|lease| lease.ticket == ticket) else { continue };
            if lease.at_ms > now_ms {
                self.queue.push(Reverse((lease.at_ms, id, ticket)));
            } else {
                expired.push(id);
                self.queue.push(Reverse((now_ms.saturating_add(REPORT_AGAIN_MS), id, ticket)));
            }
        }
        expired
    }

    /// When [`LeaseClock::expired`] may have something to report, in milliseconds. Never too late, possibly too early.
    pub fn next_deadline(&self) -> Option<u64> {
        self.queue.peek().map(|Reverse((at_ms, ..))| *at_ms)
    }

    /// Throws leftovers out when they outnumber the leases.
    fn sweep(&mut self) {
        if self.queue.len() > 2 * self.leases.len() + 64 {
            let leases = &self.leases;
            self.queue.retain(|Reverse((_, id, ticket))| leases.get(id).is_some_and(|lease| lease.ticket == *ticket));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expires_in_order_and_within_the_limit() {
        let mut clock = LeaseClock::new();
        clock.sync([(1, 30), (2, 10), (3, 20), (4, 10)].map(|(id, ttl)| LeaseTime { id, ttl, remaining: 0 }), 1_000);
        assert_eq!(clock.next_deadline(), Some(11_000));
        assert_eq!(clock.expired(10_999, 10), []);
        assert_eq!(clock.expired(11_000, 1), [2]);
        assert_eq!(clock.expired(11_000, 9), [4]);
        clock.remove(2);
        clock.remove(4);
        assert_eq!(clock.expired(40_000, 9), [3, 1]);
    }

    #[test]
    fn renewal_extends_but_not_past_the_end() {
        let mut clock = LeaseClock::new();
        clock.insert(1, 10, 0);
        assert_eq!(clock.renew(1, 9_999), Some(10));
        assert_eq!(clock.remaining(1, 10_000), Some(9_999));
        assert_eq!(clock.expired(19_998, 9), []);
        assert_eq!(clock.renew(1, 19_999), None, "it has run out");
        assert_eq!(clock.remaining(1, 30_000), Some(0));
        assert_eq!(clock.expired(19_999, 9), [1]);
        assert_eq!((clock.renew(2, 0), clock.remaining(2, 0)), (None, None));
    }

    #[test]
    fn reported_again_until_removed() {
        let mut clock = LeaseClock::new();
        clock.insert(1, 1, 0);
        assert_eq!(clock.expired(1_000, 9), [1]);
        assert_eq!(clock.expired(1_001, 9), []);
        assert_eq!(clock.expired(1_000 + REPORT_AGAIN_MS, 9), [1]);
        clock.remove(1);
        assert_eq!(clock.expired(1_000_000, 9), []);
        assert!(clock.is_empty());
    }

    #[test]
    fn replacing_a_lease_forgets_its_old_deadline() {
        let mut clock = LeaseClock::new();
        clock.insert(1, 1, 0);
        clock.remove(1);
        clock.insert(1, 100, 0);
        assert_eq!(clock.expired(50_000, 9), []);
        assert_eq!(clock.expired(100_000, 9), [1]);
    }

    #[test]
    fn leftovers_are_bounded() {
        let mut clock = LeaseClock::new();
        for id in 0..10_000 {
            clock.insert(id, 3600, 0);
            clock.remove(id);
        }
        assert!(clock.queue.len() <= 65);
    }

    #[test]
    fn the_longest_ttl_does_not_overflow() {
        let mut clock = LeaseClock::new();
        clock.insert(1, i64::MAX, u64::MAX - 5);
        assert_eq!(clock.remaining(1, u64::MAX - 5), Some(5));
    }
}
