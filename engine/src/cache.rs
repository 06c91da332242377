//! Recent and often-read records in memory, bounded by bytes.
//!
//! A fixed table of slots, two to choose from for each revision, and a queue of occupied slots for eviction with a
//! second chance (CLOCK): a record that was read since it was queued goes round once more. Nobody ever waits: a slot
//! that is being changed counts as a miss for readers, one that is being read is passed over by the writer.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use crossbeam_queue::SegQueue;
use parking_lot::RwLock;

use crate::Revision;

/// What a cached record costs beside its bytes.
const OVERHEAD: u64 = 96;

struct Slot {
    at: Revision,
    bytes: Bytes,
    hot: AtomicBool,
}

impl Slot {
    fn cost(&self) -> u64 {
        self.bytes.len() as u64 + OVERHEAD
    }
}

/// See the module's documentation.
pub(crate) struct Cache {
    /// Locked for the length of a few instructions and by `try_` only.
    slots: Box<[RwLock<Option<Slot>>]>,
    /// One token per occupied slot, oldest first.
    order: SegQueue<u32>,
    used: AtomicU64,
    budget: u64,
}

impl Cache {
    /// `budget` in bytes; 0 caches nothing.
    pub fn new(budget: u64) -> Cache {
        let slots = (budget / 512).clamp(1, 1 << 18).next_power_of_two();
        let slots = (0..slots).map(|_| RwLock::new(None)).collect();
        Cache { slots, order: SegQueue::new(), used: AtomicU64::new(0), budget }
    }

    /// The two slots where a record may lie. The first ones of consecutive revisions are consecutive.
    fn places(&self, at: Revision) -> [usize; 2] {
        let hash = (at.main as u64).wrapping_add(u64::from(at.sub).wrapping_mul(0x9E37_79B9));
        let other = hash.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        [hash, other].map(|hash| hash as usize & (self.slots.len() - 1))
    }

    pub fn get(&self, at: Revision) -> Option<Bytes> {
        for place in self.places(at) {
            let Some(slot) = self.slots[place].try_read() else { continue };
            let Some(slot) = slot.as_ref().filter(|slot| slot.at == at) else { continue };
            if !slot.hot.load(Relaxed) {
                slot.hot.store(true, Relaxed);
            }
            return Some(slot.bytes.clone());
        }
        None
    }

    /// Where to put a record: not in the place of one that is read often, if possible.
    fn place(&self, at: Revision) -> usize {
        let places = self.places(at);
        let is_hot = |place: &usize| {
            let slot = self.slots[*place].try_read();
            slot.is_none_or(|slot| slot.as_ref().is_some_and(|slot| slot.at != at && slot.hot.load(Relaxed)))
        };
        places.into_iter().find(|place| !is_hot(place)).unwrap_or(places[0])
    }

    /// Keeps a record, unless it is larger than an eighth of the budget or somebody is at its slot.
    pub fn insert(&self, at: Revision, bytes: Bytes) {
        let fresh = Slot { at, bytes, hot: AtomicBool::new(false) };
        let cost = fresh.cost();
        if cost > self.budget / 8 {
            return;
        }
        let place = self.place(at);
        let Some(mut slot) = self.slots[place].try_write() else { return };
        self.used.fetch_add(cost, Relaxed);
        match slot.replace(fresh) {
            // Its token now stands for the new record.
            Some(before) => _ = self.used.fetch_sub(before.cost(), Relaxed),
            None => self.order.push(place as u32),
        }
        drop(slot);
        self.evict();
    }

    fn evict(&self) {
        // Bounds the work when readers keep everything hot; what is too much then goes with the next insertion.
        let mut chances = 64;
        while self.used.load(Relaxed) > self.budget {
            let Some(place) = self.order.pop() else { return };
            let slot = self.slots[place as usize].try_write();
            let spare = chances > 0
                && slot.as_ref().is_none_or(|slot| slot.as_ref().is_some_and(|slot| slot.hot.swap(false, Relaxed)));
            match slot {
                Some(mut slot) if !spare => {
                    if let Some(gone) = slot.take() {
                        self.used.fetch_sub(gone.cost(), Relaxed);
                    }
                }
                _ => {
                    self.order.push(place);
                    if chances == 0 {
                        return;
                    }
                    chances -= 1;
                }
            }
        }
    }

    /// Bytes held, overhead included.
    pub fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(main: i64) -> Revision {
        Revision { main, sub: 0 }
    }

    fn record(length: usize) -> Bytes {
        Bytes::from(vec![7; length])
    }

    #[test]
    fn stays_within_its_budget_and_keeps_the_newest() {
        let cache = Cache::new(100_000);
        for main in 0..1000 {
            cache.insert(at(main), record(1000));
            assert!(cache.used() <= 100_000);
        }
        assert!(cache.get(at(999)).is_some());
        assert!(cache.get(at(0)).is_none());
        assert!((0..1000).filter(|&main| cache.get(at(main)).is_some()).count() > 60);
    }

    #[test]
    fn what_is_read_again_and_again_stays() {
        let cache = Cache::new(300_000);
        cache.insert(Revision { main: 3, sub: 17 }, record(10));
        for main in 100..500 {
            cache.insert(at(main), record(1000));
            assert!(cache.get(Revision { main: 3, sub: 17 }).is_some(), "gone at {main}");
        }
        assert!(cache.get(at(100)).is_none());
    }

    #[test]
    fn one_token_per_slot_even_when_slots_are_reused() {
        let cache = Cache::new(40_000);
        for main in 0..10_000 {
            cache.insert(at(main), record(1));
        }
        assert!(cache.order.len() <= cache.slots.len());
        let cost: u64 = cache.slots.iter().filter_map(|slot| slot.read().as_ref().map(Slot::cost)).sum();
        assert_eq!(cache.used(), cost);
    }

    #[test]
    fn too_large_and_no_budget() {
        let cache = Cache::new(8000);
        cache.insert(at(1), record(1000));
        assert!(cache.get(at(1)).is_none());
        let none = Cache::new(0);
        none.insert(at(1), record(1));
        assert_eq!((none.get(at(1)), none.used()), (None, 0));
    }

    #[test]
    fn threads_leave_the_count_exact() {
        let cache = Cache::new(50_000);
        std::thread::scope(|scope| {
            for offset in 0..3 {
                let cache = &cache;
                scope.spawn(move || {
                    for main in 0..20_000 {
                        cache.insert(at(main * 3 + offset), record(main as usize % 700));
                        cache.get(at(main));
                    }
                });
            }
        });
        let cost: u64 = cache.slots.iter().filter_map(|slot| slot.read().as_ref().map(Slot::cost)).sum();
        assert_eq!(cache.used(), cost);
        let occupied = cache.slots.iter().filter(|slot| slot.read().is_some()).count();
        assert_eq!(cache.order.len(), occupied);
    }
}
