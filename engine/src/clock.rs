//! When leases run out. Kept by whoever leads; the state machine itself knows no time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rustc_hash::FxHashMap;

use crate::LeaseTime;

/// A lease that was reported as expired and still exists is reported again after this time, in milliseconds: the
/// revocation may have been lost with a change of leadership. A checkpoint that could not be made is tried again after
/// the same time.
const AGAIN_MS: u64 = 3_000;

/// Entries of a queue that one call looks at. Many may have become meaningless at the same moment, and whoever applies
/// commands waits for the caller; the rest is looked at by the next call.
const VISITS: usize = 8192;

struct Deadline {
    ttl: i64,
    at_ms: u64,
    /// Seconds that the state notes as left, or may come to note by a command under way; 0 for all.
    noted: i64,
    /// Its valid entries in the queues; others are leftovers.
    ticket: u32,
    /// Whether it has an entry among the checkpoints.
    scheduled: bool,
    /// Checkpoints on their way: what takes an older one back does not take these back.
    under_way: u8,
}

impl Deadline {
    /// Milliseconds that the lease would start with if it was started anew from the state.
    fn noted_ms(&self) -> u64 {
        ms(if self.noted > 0 { self.noted } else { self.ttl })
    }

    /// When that is too much by `every`; `None` where it is no more than that anyway.
    fn checkpoint_at(&self, every: u64) -> Option<u64> {
        let noted = self.noted_ms();
        (noted > every).then(|| self.at_ms.saturating_sub(noted).saturating_add(every))
    }
}

/// A time in milliseconds, a lease, and the ticket by which the entry is known to be valid.
type Entry = Reverse<(u64, i64, u32)>;

/// Deadlines of all leases. Time comes in as milliseconds of any clock that never goes back.
///
/// After a restart or a change of leader, [`LeaseClock::sync`] gives every lease what its last checkpoint says, else its
/// full time: no lease ends early, and none lives longer than it would have by more than the time between checkpoints.
pub struct LeaseClock {
    leases: FxHashMap<i64, Deadline>,
    /// Entries are not moved when a lease is renewed: they are put back when they come up too early.
    queue: BinaryHeap<Entry>,
    /// The same for checkpoints.
    checkpoints: BinaryHeap<Entry>,
    /// Milliseconds that a restart may give a lease too much.
    every: u64,
    tickets: u32,
}

/// What [`LeaseClock::renew`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// The lease's full time in seconds, which it now has again.
    pub ttl: i64,
    /// The state notes less: until a checkpoint of 0 has taken that back, the renewal would not survive a restart, and
    /// must not be promised to anybody.
    pub noted: bool,
}

fn ms(seconds: i64) -> u64 {
    (seconds.max(0) as u64).saturating_mul(1000)
}

fn after(now_ms: u64, ttl: i64) -> u64 {
    now_ms.saturating_add(ms(ttl))
}

impl Default for LeaseClock {
    fn default() -> LeaseClock {
        LeaseClock::new(u64::MAX)
    }
}

impl LeaseClock {
    /// With `checkpoint_ms` between two checkpoints of one lease; leases shorter than that never need one.
    pub fn new(checkpoint_ms: u64) -> LeaseClock {
        let (queue, checkpoints) = (BinaryHeap::new(), BinaryHeap::new());
        LeaseClock { leases: FxHashMap::default(), queue, checkpoints, every: checkpoint_ms, tickets: 0 }
    }

    /// Starts over with exactly these leases, each with what it had left at its last checkpoint, else its full time.
    pub fn sync(&mut self, leases: impl IntoIterator<Item = LeaseTime>, now_ms: u64) {
        *self = LeaseClock::new(self.every);
        let (mut queue, mut checkpoints) = (Vec::new(), Vec::new());
        for lease in leases {
            let (deadline, entry) = self.start(lease, now_ms);
            let at_ms = deadline.at_ms;
            let checkpoint = deadline.checkpoint_at(self.every);
            self.leases.insert(lease.id, Deadline { scheduled: checkpoint.is_some(), ..deadline });
            queue.push(Reverse((at_ms, entry.0, entry.1)));
            checkpoints.extend(checkpoint.map(|at| Reverse((at, entry.0, entry.1))));
        }
        (self.queue, self.checkpoints) = (queue.into(), checkpoints.into());
    }

    fn start(&mut self, lease: LeaseTime, now_ms: u64) -> (Deadline, (i64, u32)) {
        self.tickets = self.tickets.wrapping_add(1);
        let LeaseTime { id, ttl, remaining } = lease;
        let at_ms = after(now_ms, lease.left());
        (
            Deadline { ttl, at_ms, noted: remaining, ticket: self.tickets, scheduled: false, under_way: 0 },
            (id, self.tickets),
        )
    }

    /// Adds a lease of `ttl` seconds, or replaces it.
    pub fn insert(&mut self, id: i64, ttl: i64, now_ms: u64) {
        let (deadline, (_, ticket)) = self.start(LeaseTime { id, ttl, remaining: 0 }, now_ms);
        self.queue.push(Reverse((deadline.at_ms, id, ticket)));
        self.leases.insert(id, deadline);
        self.schedule(id);
        self.sweep();
    }

    /// Gives the lease its full time again. `None` for a lease that does not exist or has run out: its revocation may be
    /// under way, so it must not be promised more time.
    pub fn renew(&mut self, id: i64, now_ms: u64) -> Option<Renewal> {
        let lease = self.leases.get_mut(&id).filter(|lease| lease.at_ms > now_ms)?;
        lease.at_ms = after(now_ms, lease.ttl);
        Some(Renewal { ttl: lease.ttl, noted: lease.noted != 0 })
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
        for _ in 0..VISITS {
            if expired.len() == limit {
                break;
            }
            let Some((id, ticket)) = pop(&mut self.queue, now_ms) else { break };
            let Some(lease) = self.leases.get(&id).filter(|lease| lease.ticket == ticket) else { continue };
            if lease.at_ms > now_ms {
                self.queue.push(Reverse((lease.at_ms, id, ticket)));
            } else {
                expired.push(id);
                self.queue.push(Reverse((now_ms.saturating_add(AGAIN_MS), id, ticket)));
            }
        }
        expired
    }

    /// Offers up to `limit` leases of which the state notes too much, with the seconds that they have left (rounded up,
    /// so that none ends early). `take` says whether it has put them on their way, to be applied in the order in which
    /// they were taken; otherwise they are offered again some seconds later.
    pub fn checkpoint(&mut self, now_ms: u64, limit: usize, take: impl FnOnce(Vec<(i64, i64)>) -> bool) {
        let (mut offer, mut before) = (Vec::new(), Vec::new());
        for _ in 0..VISITS {
            if offer.len() == limit {
                break;
            }
            let Some((id, ticket)) = pop(&mut self.checkpoints, now_ms) else { break };
            let Some(lease) = self.leases.get_mut(&id).filter(|lease| lease.ticket == ticket) else { continue };
            lease.scheduled = false;
            let left = lease.at_ms.saturating_sub(now_ms).div_ceil(1000) as i64;
            match lease.checkpoint_at(self.every) {
                // It has been renewed, or the state notes little enough.
                None => {}
                Some(at) if at > now_ms => self.schedule(id),
                // It has run out: what the state notes goes with it.
                Some(_) if left == 0 => {}
                Some(_) => {
                    offer.push((id, left));
                    before.push((id, std::mem::replace(&mut lease.noted, left)));
                }
            }
        }
        let taken = offer.is_empty() || take(offer);
        for (id, noted) in before {
            let Some(lease) = self.leases.get_mut(&id) else { continue };
            if taken {
                lease.under_way = lease.under_way.saturating_add(1);
                self.schedule(id);
            } else {
                lease.noted = noted;
                self.schedule_at(id, now_ms.saturating_add(AGAIN_MS));
            }
        }
    }

    /// Follows a checkpoint that was applied: what the state now notes of a lease, in seconds, 0 for all.
    pub fn noted(&mut self, id: i64, remaining: i64) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        if remaining != 0 {
            lease.under_way = lease.under_way.saturating_sub(1);
        }
        if lease.under_way == 0 {
            lease.noted = remaining;
            self.schedule(id);
        }
    }

    /// Enters the lease among the checkpoints if it needs one and has no entry.
    fn schedule(&mut self, id: i64) {
        if let Some(at) = self.leases.get(&id).and_then(|lease| lease.checkpoint_at(self.every)) {
            self.schedule_at(id, at);
        }
    }

    fn schedule_at(&mut self, id: i64, at_ms: u64) {
        if let Some(lease) = self.leases.get_mut(&id).filter(|lease| !lease.scheduled) {
            lease.scheduled = true;
            self.checkpoints.push(Reverse((at_ms, id, lease.ticket)));
        }
    }

    /// When [`LeaseClock::expired`] may have something to report, in milliseconds. Never too late, possibly too early.
    pub fn next_deadline(&self) -> Option<u64> {
        self.queue.peek().map(|Reverse((at_ms, ..))| *at_ms)
    }

    /// Throws leftovers out when they outnumber the leases.
    fn sweep(&mut self) {
        let leases = &self.leases;
        for queue in [&mut self.queue, &mut self.checkpoints] {
            if queue.len() > 2 * leases.len() + 64 {
                let is_valid = |id: i64, ticket: u32| leases.get(&id).is_some_and(|lease| lease.ticket == ticket);
                queue.retain(|&Reverse((_, id, ticket))| is_valid(id, ticket));
            }
        }
    }
}

/// Takes out the first entry if its time has come.
fn pop(queue: &mut BinaryHeap<Entry>, now_ms: u64) -> Option<(i64, u32)> {
    queue.peek().filter(|Reverse((at_ms, ..))| *at_ms <= now_ms)?;
    queue.pop().map(|Reverse((_, id, ticket))| (id, ticket))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Renewal = Renewal { ttl: 10, noted: false };

    fn lease(id: i64, ttl: i64, remaining: i64) -> LeaseTime {
        LeaseTime { id, ttl, remaining }
    }

    fn taken(clock: &mut LeaseClock, now_ms: u64) -> Vec<(i64, i64)> {
        let mut taken = Vec::new();
        clock.checkpoint(now_ms, 100, |offer| {
            taken = offer;
            true
        });
        taken
    }

    #[test]
    fn a_checkpoint_is_made_each_time_the_state_notes_too_much() {
        let mut clock = LeaseClock::new(300_000);
        clock.insert(1, 1000, 0);
        clock.insert(2, 300, 0);
        assert_eq!(taken(&mut clock, 299_999), []);
        assert_eq!(taken(&mut clock, 300_500), [(1, 700)], "the short one needs none");
        assert_eq!(taken(&mut clock, 599_999), []);
        assert_eq!(taken(&mut clock, 600_001), [(1, 400)]);
        assert_eq!(taken(&mut clock, 900_001), [(1, 100)]);
        assert_eq!(taken(&mut clock, 999_999), [], "it would end at most that much late");
        assert_eq!(clock.expired(1_000_000, 9), [2, 1]);
        assert_eq!(taken(&mut clock, 9_000_000), []);
    }

    #[test]
    fn a_renewal_puts_the_checkpoint_off_and_says_whether_one_is_to_be_taken_back() {
        let mut clock = LeaseClock::new(300_000);
        clock.insert(1, 1000, 0);
        assert_eq!(clock.renew(1, 200_000), Some(Renewal { ttl: 1000, noted: false }));
        assert_eq!(taken(&mut clock, 300_000), []);
        assert_eq!(taken(&mut clock, 500_000), [(1, 700)]);
        // From the moment it is on its way, not only when it has been applied.
        assert_eq!(clock.renew(1, 550_000), Some(Renewal { ttl: 1000, noted: true }));
        clock.noted(1, 700);
        assert_eq!(clock.renew(1, 600_000), Some(Renewal { ttl: 1000, noted: true }));
        clock.noted(1, 0);
        assert_eq!(clock.renew(1, 700_000), Some(Renewal { ttl: 1000, noted: false }));
        assert_eq!(taken(&mut clock, 999_999), []);
        assert_eq!(taken(&mut clock, 1_000_000), [(1, 700)]);
    }

    #[test]
    fn a_lease_that_is_renewed_in_its_last_minutes_is_checkpointed_again() {
        let mut clock = LeaseClock::new(300_000);
        clock.insert(1, 400, 0);
        assert_eq!(taken(&mut clock, 300_000), [(1, 100)]);
        clock.noted(1, 100);
        assert_eq!(taken(&mut clock, 390_000), []);
        clock.renew(1, 390_000);
        clock.noted(1, 0);
        assert_eq!(taken(&mut clock, 690_000), [(1, 100)]);
    }

    #[test]
    fn starting_over_uses_what_is_noted() {
        let mut clock = LeaseClock::new(300_000);
        clock.insert(9, 50, 0);
        clock.sync([lease(1, 1000, 400), lease(2, 1000, 0), lease(3, 1000, 20)], 5_000);
        assert_eq!(
            [1, 2, 3, 9].map(|id| clock.remaining(id, 5_000)),
            [Some(400_000), Some(1_000_000), Some(20_000), None]
        );
        assert_eq!(clock.expired(24_999, 9), []);
        assert_eq!(clock.expired(25_000, 9), [3]);
        assert_eq!(clock.renew(1, 25_000), Some(Renewal { ttl: 1000, noted: true }));
        clock.noted(1, 0);
        assert_eq!(taken(&mut clock, 305_000), [(2, 700)]);
        assert_eq!(taken(&mut clock, 325_000), [(1, 700)]);
    }

    #[test]
    fn what_was_not_taken_is_offered_again() {
        let mut clock = LeaseClock::new(300_000);
        (1..=3).for_each(|id| clock.insert(id, 1000, 0));
        clock.checkpoint(300_000, 2, |offer| {
            assert_eq!(offer.len(), 2);
            false
        });
        assert!(clock.renew(1, 300_000).is_some_and(|renewal| !renewal.noted));
        assert_eq!(taken(&mut clock, 300_000), [(3, 700)]);
        assert_eq!(taken(&mut clock, 302_999), []);
        assert_eq!(taken(&mut clock, 303_000), [(2, 697)], "1 has been renewed");
    }

    #[test]
    fn taking_a_checkpoint_back_leaves_those_behind_it() {
        let mut clock = LeaseClock::new(10_000);
        clock.insert(1, 1000, 0);
        assert_eq!(taken(&mut clock, 10_000), [(1, 990)]);
        clock.noted(1, 990);
        clock.renew(1, 11_000);
        // The log has stood still for so long that the next checkpoint waits behind what takes the first back.
        assert_eq!(taken(&mut clock, 31_000), [(1, 980)]);
        clock.noted(1, 0);
        assert!(clock.renew(1, 31_001).is_some_and(|renewal| renewal.noted));
        clock.noted(1, 980);
        assert!(clock.renew(1, 31_001).is_some_and(|renewal| renewal.noted));
        clock.noted(1, 0);
        assert!(clock.renew(1, 31_002).is_some_and(|renewal| !renewal.noted));
    }

    #[test]
    fn one_call_looks_at_a_bounded_number_and_the_next_goes_on() {
        let mut clock = LeaseClock::new(300_000);
        let count = VISITS as i64 + 10;
        (1..=count).for_each(|id| clock.insert(id, 1000, 0));
        (2..=count).for_each(|id| _ = clock.renew(id, 999_999));
        let before = (clock.queue.len(), clock.checkpoints.len());
        assert_eq!((clock.expired(1_000_000, 10), clock.queue.len()), (vec![1], before.0));
        assert_eq!(clock.queue.iter().filter(|entry| entry.0.0 > 1_000_000).count(), VISITS);
        assert_eq!(clock.expired(1_000_000, 10), []);
        assert_eq!(clock.queue.iter().filter(|entry| entry.0.0 > 1_000_000).count(), before.0);
        // All have run out: none needs a checkpoint any more.
        assert_eq!(taken(&mut clock, 9_000_000), []);
        assert_eq!(clock.checkpoints.len(), before.1 - VISITS);
        assert_eq!(taken(&mut clock, 9_000_000), []);
        assert_eq!(clock.checkpoints.len(), 0);
    }

    #[test]
    fn a_new_lease_of_the_same_id_has_its_own_checkpoints() {
        let mut clock = LeaseClock::new(300_000);
        clock.insert(1, 1000, 0);
        clock.remove(1);
        clock.insert(1, 1000, 200_000);
        assert_eq!(taken(&mut clock, 400_000), []);
        assert_eq!(taken(&mut clock, 500_000), [(1, 700)]);
        assert_eq!(taken(&mut clock, 500_001), []);
    }

    #[test]
    fn expires_in_order_and_within_the_limit() {
        let mut clock = LeaseClock::default();
        clock.sync([(1, 30), (2, 10), (3, 20), (4, 10)].map(|(id, ttl)| lease(id, ttl, 0)), 1_000);
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
        let mut clock = LeaseClock::default();
        clock.insert(1, 10, 0);
        assert_eq!(clock.renew(1, 9_999), Some(FULL));
        assert_eq!(clock.remaining(1, 10_000), Some(9_999));
        assert_eq!(clock.expired(19_998, 9), []);
        assert_eq!(clock.renew(1, 19_999), None, "it has run out");
        assert_eq!(clock.remaining(1, 30_000), Some(0));
        assert_eq!(clock.expired(19_999, 9), [1]);
        assert_eq!((clock.renew(2, 0), clock.remaining(2, 0)), (None, None));
    }

    #[test]
    fn reported_again_until_removed() {
        let mut clock = LeaseClock::default();
        clock.insert(1, 1, 0);
        assert_eq!(clock.expired(1_000, 9), [1]);
        assert_eq!(clock.expired(1_001, 9), []);
        assert_eq!(clock.expired(1_000 + AGAIN_MS, 9), [1]);
        clock.remove(1);
        assert_eq!(clock.expired(1_000_000, 9), []);
        assert!(clock.is_empty());
    }

    #[test]
    fn replacing_a_lease_forgets_its_old_deadline() {
        let mut clock = LeaseClock::default();
        clock.insert(1, 1, 0);
        clock.remove(1);
        clock.insert(1, 100, 0);
        assert_eq!(clock.expired(50_000, 9), []);
        assert_eq!(clock.expired(100_000, 9), [1]);
    }

    #[test]
    fn leftovers_are_bounded() {
        let mut clock = LeaseClock { every: 1000, ..LeaseClock::default() };
        for id in 0..10_000 {
            clock.insert(id, 3600, 0);
            clock.remove(id);
        }
        assert!(clock.queue.len() <= 65 && clock.checkpoints.len() <= 65);
    }

    #[test]
    fn the_longest_ttl_does_not_overflow() {
        let mut clock = LeaseClock::default();
        clock.insert(1, i64::MAX, u64::MAX - 5);
        assert_eq!(clock.remaining(1, u64::MAX - 5), Some(5));
    }
}
