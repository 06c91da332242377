//! The work queue: de-duplicated keys, timers, per-key exponential backoff, and a least interval between two runs of a key.
//!
//! A key is queued at most once and handed to one worker at a time, so the queue holds at most one entry per known object:
//! its bound is the number of objects, and overflow cannot happen.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::Notify;
use tokio::time::Instant;

/// `namespace/name`, or whatever names one unit of work of a controller.
pub(crate) type Key = Arc<str>;

/// Delay after the first failure of a key; each further one doubles it. client-go's default rate limiter.
const BASE_BACKOFF: Duration = Duration::from_millis(5);
/// Longest delay between two attempts.
const MAX_BACKOFF: Duration = Duration::from_secs(1000);
/// Below this many remembered start times nothing is pruned.
const PRUNE_FLOOR: usize = 1024;

/// A queue of keys, shared by the workers of one controller.
pub(crate) struct Queue {
    state: Mutex<State>,
    wake: Notify,
    /// Least time between the starts of two runs of one key: what coalesces a burst of events into few runs.
    interval: Duration,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Key>,
    /// In `ready`, or to be put there when the run under way ends.
    dirty: FxHashSet<Key>,
    active: FxHashSet<Key>,
    timers: BTreeMap<(Instant, u64), Key>,
    timed: FxHashMap<Key, (Instant, u64)>,
    sequence: u64,
    failures: FxHashMap<Key, u32>,
    started: FxHashMap<Key, Instant>,
    prune_at: usize,
}

impl Queue {
    /// An empty queue. An `interval` of zero runs a key as often as it is added.
    pub(crate) fn new(interval: Duration) -> Queue {
        Queue { state: Mutex::new(State { prune_at: PRUNE_FLOOR, ..State::default() }), wake: Notify::new(), interval }
    }

    /// Queues a key, unless it waits already. A key that has just run waits for the rest of the interval.
    pub(crate) fn add(&self, key: Key) {
        if self.state.lock().add(key, Instant::now(), self.interval) {
            self.wake.notify_one();
        }
    }

    /// Queues a key once `delay` has passed, or earlier if it is added or was timed for earlier.
    pub(crate) fn add_after(&self, key: Key, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        if self.state.lock().arm(key, Instant::now() + delay) {
            self.wake.notify_one();
        }
    }

    /// Waits for a key to work on. It stays taken until [`Queue::done`].
    pub(crate) async fn next(&self) -> Key {
        loop {
            let woken = self.wake.notified();
            let deadline = {
                let mut state = self.state.lock();
                if let Some(key) = state.take(Instant::now(), self.interval) {
                    if !state.ready.is_empty() {
                        self.wake.notify_one();
                    }
                    return key;
                }
                state.timers.keys().next().map(|(at, _)| *at)
            };
            match deadline {
                Some(at) => {
                    let _ = tokio::time::timeout_at(at, woken).await;
                }
                None => woken.await,
            }
        }
    }

    /// Gives a key back after a run.
    pub(crate) fn done(&self, key: &Key) {
        if self.state.lock().done(key) {
            self.wake.notify_one();
        }
    }

    /// Queues a key whose run failed, later with each failure in a row. Returns the delay.
    pub(crate) fn retry(&self, key: &Key) -> Duration {
        let failures = {
            let mut state = self.state.lock();
            let failures = state.failures.entry(key.clone()).or_default();
            *failures += 1;
            *failures
        };
        let delay = backoff(failures);
        self.add_after(key.clone(), delay);
        delay
    }

    /// Forgets the failures of a key.
    pub(crate) fn forget(&self, key: &Key) {
        self.state.lock().failures.remove(key);
    }
}

fn backoff(failures: u32) -> Duration {
    BASE_BACKOFF.saturating_mul(1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX)).min(MAX_BACKOFF)
}

impl State {
    /// Whether a worker has to wake.
    fn add(&mut self, key: Key, now: Instant, interval: Duration) -> bool {
        if self.dirty.contains(&key) {
            return false;
        }
        match self.started.get(&key).map(|started| *started + interval) {
            Some(at) if at > now => self.arm(key, at),
            _ => self.push(key),
        }
    }

    fn take(&mut self, now: Instant, interval: Duration) -> Option<Key> {
        self.fire(now);
        let key = self.ready.pop_front()?;
        self.dirty.remove(&key);
        self.active.insert(key.clone());
        if !interval.is_zero() {
            self.remember(&key, now, interval);
        }
        Some(key)
    }

    /// Whether a worker has to wake.
    fn done(&mut self, key: &Key) -> bool {
        self.active.remove(key);
        let again = self.dirty.contains(key);
        if again {
            self.ready.push_back(key.clone());
        }
        again
    }

    /// Whether a worker has to wake.
    fn push(&mut self, key: Key) -> bool {
        if let Some(timer) = self.timed.remove(&key) {
            self.timers.remove(&timer);
        }
        if !self.dirty.insert(key.clone()) || self.active.contains(&key) {
            return false;
        }
        self.ready.push_back(key);
        true
    }

    /// Sets a timer, unless an earlier one runs. Whether a worker has to look at the timers again.
    fn arm(&mut self, key: Key, at: Instant) -> bool {
        if let Some(timer) = self.timed.get(&key) {
            if timer.0 <= at {
                return false;
            }
            self.timers.remove(timer);
        }
        self.sequence += 1;
        let timer = (at, self.sequence);
        let first = self.timers.keys().next().is_none_or(|next| timer < *next);
        self.timers.insert(timer, key.clone());
        self.timed.insert(key, timer);
        first
    }

    fn fire(&mut self, now: Instant) {
        while let Some(entry) = self.timers.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let key = entry.remove();
            self.timed.remove(&key);
            self.push(key);
        }
    }

    fn remember(&mut self, key: &Key, now: Instant, interval: Duration) {
        self.started.insert(key.clone(), now);
        if self.started.len() > self.prune_at {
            self.started.retain(|_, started| now.duration_since(*started) < interval);
            self.prune_at = (2 * self.started.len()).max(PRUNE_FLOOR);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_INTERVAL: Duration = Duration::ZERO;

    fn key(text: &str) -> Key {
        text.into()
    }

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn a_key_is_queued_once_and_run_by_one_worker() {
        let (mut state, now) = (State::default(), Instant::now());
        for name in ["a", "a", "b"] {
            state.add(key(name), now, NO_INTERVAL);
        }
        assert_eq!(state.take(now, NO_INTERVAL), Some(key("a")));
        state.add(key("a"), now, NO_INTERVAL);
        assert_eq!(state.take(now, NO_INTERVAL), Some(key("b")));
        assert_eq!(state.take(now, NO_INTERVAL), None, "`a` changed during its run, which has not ended");
        assert!(state.done(&key("a")));
        assert_eq!(state.take(now, NO_INTERVAL), Some(key("a")));
        assert!(!state.done(&key("a")));
    }

    #[tokio::test]
    async fn workers_wake_for_keys_and_timers() {
        let queue = Queue::new(NO_INTERVAL);
        queue.add_after(key("later"), Duration::from_millis(1));
        let both = async {
            let first = queue.next().await;
            queue.add(key("now"));
            (first, queue.next().await)
        };
        assert_eq!(both.await, (key("later"), key("now")));
    }

    #[test]
    fn failures_back_off_and_success_forgets() {
        let queue = Queue::new(NO_INTERVAL);
        let delays: Vec<u128> = (0..4).map(|_| queue.retry(&key("a")).as_millis()).collect();
        assert_eq!(delays, [5, 10, 20, 40]);
        assert_eq!(backoff(200), MAX_BACKOFF);
        queue.forget(&key("a"));
        assert_eq!(queue.retry(&key("a")), BASE_BACKOFF);
    }

    #[test]
    fn the_interval_coalesces_a_burst() {
        let (mut state, start) = (State::default(), Instant::now());
        let interval = Duration::from_millis(100);
        let mut runs = Vec::new();
        for millis in 0..500 {
            state.add(key("a"), after(start, millis), interval);
            if state.take(after(start, millis), interval).is_some() {
                runs.push(millis);
                state.done(&key("a"));
            }
        }
        assert_eq!(runs, [0, 100, 200, 300, 400]);
    }

    #[test]
    fn an_earlier_timer_wins() {
        let (mut state, start) = (State::default(), Instant::now());
        assert!(state.arm(key("a"), after(start, 60)));
        assert!(state.arm(key("a"), after(start, 10)));
        assert!(!state.arm(key("a"), after(start, 30)));
        assert_eq!(state.take(after(start, 9), NO_INTERVAL), None);
        assert_eq!(state.take(after(start, 10), NO_INTERVAL), Some(key("a")));
        state.done(&key("a"));
        assert_eq!(state.take(after(start, 100), NO_INTERVAL), None);
    }

    #[test]
    fn start_times_are_forgotten_when_they_do_not_matter() {
        let (mut state, start) = (State { prune_at: PRUNE_FLOOR, ..State::default() }, Instant::now());
        let interval = Duration::from_millis(10);
        for at in 0..10 * PRUNE_FLOOR as u64 {
            state.add(key(&at.to_string()), after(start, at), interval);
            let taken = state.take(after(start, at), interval).unwrap();
            state.done(&taken);
        }
        assert!(state.started.len() <= PRUNE_FLOOR + 1);
    }
}
