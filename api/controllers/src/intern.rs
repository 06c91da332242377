//! Shares equal values between objects: ten thousand pods of one ReplicaSet have one copy of its labels and owners.

use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::FxHashSet;

/// Below this many values nothing is swept.
const SWEEP_FLOOR: usize = 1024;

/// A set of shared values. Those that nobody else holds are dropped each time the set has doubled, so it stays within
/// twice the values in use.
pub(crate) struct Interner<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    values: FxHashSet<Arc<T>>,
    sweep_at: usize,
}

impl<T: Hash + Eq> Interner<T> {
    pub(crate) fn new() -> Interner<T> {
        Interner { state: Mutex::new(State { values: FxHashSet::default(), sweep_at: SWEEP_FLOOR }) }
    }

    /// The shared copy of a value.
    pub(crate) fn share(&self, value: T) -> Arc<T> {
        let mut state = self.state.lock();
        if let Some(shared) = state.values.get(&value) {
            return shared.clone();
        }
        if state.values.len() >= state.sweep_at {
            state.values.retain(|value| Arc::strong_count(value) > 1);
            state.sweep_at = (2 * state.values.len()).max(SWEEP_FLOOR);
        }
        let shared = Arc::new(value);
        state.values.insert(shared.clone());
        shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_and_unused_ones_go() {
        let interner = Interner::new();
        let one = interner.share("a".to_string());
        assert!(Arc::ptr_eq(&one, &interner.share("a".to_string())));
        for at in 0..10 * SWEEP_FLOOR {
            interner.share(at.to_string());
        }
        assert!(interner.state.lock().values.len() <= SWEEP_FLOOR);
        assert!(Arc::ptr_eq(&one, &interner.share("a".to_string())));
    }
}
