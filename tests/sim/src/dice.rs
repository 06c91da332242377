//! Chance from a seed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// A sequence of numbers; clones share it.
#[derive(Clone)]
pub struct Dice(Arc<AtomicU64>);

/// The finaliser of splitmix64.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(Arc::new(AtomicU64::new(mix(seed ^ 0x6a09_e667_f3bc_c908))))
    }

    /// Another sequence, which what is drawn from this one does not move.
    pub fn fork(&self, label: u64) -> Dice {
        Dice::new(mix(self.0.load(Relaxed)) ^ mix(label.wrapping_add(1)))
    }

    pub fn number(&self) -> u64 {
        let next = self.0.load(Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.store(next, Relaxed);
        mix(next)
    }

    /// From 0 to below `end`, which is not 0.
    pub fn below(&self, end: u64) -> u64 {
        self.number() % end
    }

    /// From `from` to `to`, both included.
    pub fn between(&self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    /// Milliseconds from `from` to `to`.
    pub fn ms(&self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.between(from, to))
    }

    pub fn percent(&self, chance: u64) -> bool {
        self.below(100) < chance
    }

    /// One of them, if there are any.
    pub fn pick<T: Clone>(&self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { Some(from[self.below(from.len() as u64) as usize].clone()) }
    }
}
