//! Counters for `/metrics`.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use parking_lot::Mutex;

/// Upper bounds of the histogram's buckets in microseconds: etcd's, 1 ms doubling up to 8 s.
pub const SYNC_BUCKETS_US: [u64; 14] = {
    let mut bounds = [1000; 14];
    let mut i = 1;
    while i < bounds.len() {
        bounds[i] = bounds[i - 1] * 2;
        i += 1;
    }
    bounds
};

/// How long synced writes of the log took.
#[derive(Debug, Default)]
pub(crate) struct Syncs {
    buckets: [AtomicU64; SYNC_BUCKETS_US.len()],
    count: AtomicU64,
    total_us: AtomicU64,
}

impl Syncs {
    pub(crate) fn record(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if let Some(bucket) = SYNC_BUCKETS_US.iter().position(|bound| us <= *bound) {
            self.buckets[bucket].fetch_add(1, Relaxed);
        }
        self.count.fetch_add(1, Relaxed);
        self.total_us.fetch_add(us, Relaxed);
    }

    pub(crate) fn snapshot(&self) -> SyncStats {
        SyncStats {
            buckets: std::array::from_fn(|i| self.buckets[i].load(Relaxed)),
            count: self.count.load(Relaxed),
            total_us: self.total_us.load(Relaxed),
        }
    }
}

/// Durations of the log's synced writes since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncStats {
    /// Writes per bucket of [`SYNC_BUCKETS_US`] (not cumulative); slower ones are only in `count`.
    pub buckets: [u64; SYNC_BUCKETS_US.len()],
    pub count: u64,
    /// Sum of all durations in microseconds.
    pub total_us: u64,
}

/// Whole states that other members have taken from this one, by their ids; of the members that ever lacked that much.
#[derive(Debug, Default)]
pub(crate) struct StatesSent(Mutex<BTreeMap<u64, u64>>);

impl StatesSent {
    pub(crate) fn record(&self, target: u64) {
        *self.0.lock().entry(target).or_default() += 1;
    }

    pub(crate) fn snapshot(&self) -> Vec<(u64, u64)> {
        self.0.lock().iter().map(|(target, count)| (*target, *count)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_bucket_it_does_not_exceed() {
        let syncs = Syncs::default();
        [1000, 1001, 8_192_000, 8_192_001].into_iter().for_each(|us| syncs.record(Duration::from_micros(us)));
        let stats = syncs.snapshot();
        assert_eq!((stats.buckets[0], stats.buckets[1], stats.buckets[13], stats.count), (1, 1, 1, 4));
    }
}
