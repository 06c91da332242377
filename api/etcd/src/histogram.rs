//! Counts by size, with the bounds that etcd has for them.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// `first`, then each bound twice the one before.
const fn doubling<const N: usize>(first: f64) -> [f64; N] {
    let mut bounds = [first; N];
    let mut i = 1;
    while i < N {
        bounds[i] = bounds[i - 1] * 2.0;
        i += 1;
    }
    bounds
}

/// Seconds to live of leases.
pub(crate) static LEASE_TTL: [f64; 24] = doubling(1.0);
/// Seconds that a defragmentation took.
pub(crate) static DEFRAG: [f64; 13] = doubling(0.1);
/// Seconds that hashing took.
pub(crate) static HASH: [f64; 15] = doubling(0.01);
/// Seconds that a range took to read.
pub(crate) static RANGE: [f64; 20] = doubling(0.0001);
/// Seconds that sending a snapshot took.
pub(crate) static SNAPSHOT: [f64; 17] = doubling(0.01);

/// How often which size was seen.
pub(crate) struct Histogram {
    bounds: &'static [f64],
    /// One more than bounds: the last is for what exceeds them all.
    counts: Box<[AtomicU64]>,
    /// Sum of all sizes, as the bits of a float.
    sum: AtomicU64,
}

impl Histogram {
    pub(crate) fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(), sum: AtomicU64::new(0) }
    }

    pub(crate) fn record(&self, size: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < size);
        self.counts[bucket].fetch_add(1, Relaxed);
        let _ = self.sum.fetch_update(Relaxed, Relaxed, |sum| Some((f64::from_bits(sum) + size).to_bits()));
    }

    pub(crate) fn took(&self, time: Duration) {
        self.record(time.as_secs_f64());
    }

    /// How many sizes were seen.
    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Relaxed)).sum()
    }

    /// Writes its samples in Prometheus' format, with labels that are none or end with a comma.
    pub(crate) fn render(&self, name: &str, labels: &str, page: &mut String) {
        let mut below = 0;
        for (bound, count) in self.bounds.iter().zip(&self.counts) {
            below += count.load(Relaxed);
            // Writing to a string cannot fail.
            let _ = writeln!(page, "{name}_bucket{{{labels}le=\"{}\"}} {below}", number(*bound));
        }
        below += self.counts[self.bounds.len()].load(Relaxed);
        let _ = writeln!(page, "{name}_bucket{{{labels}le=\"+Inf\"}} {below}");
        let own = match labels.trim_end_matches(',') {
            "" => String::new(),
            labels => format!("{{{labels}}}"),
        };
        let sum = number(f64::from_bits(self.sum.load(Relaxed)));
        let _ = writeln!(page, "{name}_sum{own} {sum}\n{name}_count{own} {below}");
    }
}

/// A number as Go writes it: large ones with an exponent.
pub(crate) fn number(value: f64) -> String {
    let plain = value.to_string();
    if value.abs() < 1e21 && (value.abs() < 1e6 || value.fract() != 0.0) {
        return plain;
    }
    let scientific = format!("{value:e}");
    match scientific.split_once('e') {
        Some((digits, exponent)) => format!("{digits}e+{exponent:0>2}"),
        None => plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_fall_into_the_bucket_that_they_do_not_exceed() {
        static BOUNDS: [f64; 3] = doubling(0.5);
        let histogram = Histogram::new(&BOUNDS);
        for size in [0.1, 0.5, 0.6, 2.0, 9.0] {
            histogram.record(size);
        }
        let mut page = String::new();
        histogram.render("x", "", &mut page);
        let expected = "x_bucket{le=\"0.5\"} 2\nx_bucket{le=\"1\"} 3\nx_bucket{le=\"2\"} 4\nx_bucket{le=\"+Inf\"} 5\n\
                        x_sum 12.2\nx_count 5\n";
        assert_eq!((page.as_str(), histogram.count()), (expected, 5));
        page.clear();
        histogram.render("x", "a=\"b\",", &mut page);
        assert!(
            page.starts_with("x_bucket{a=\"b\",le=\"0.5\"} 2\n") && page.ends_with("x_count{a=\"b\"} 5\n"),
            "{page}"
        );
    }

    #[test]
    fn numbers_are_written_as_go_does() {
        assert_eq!(number(8.388608e6), "8.388608e+06");
        assert_eq!(number(524288.0), "524288");
        assert_eq!(number(0.001), "0.001");
        assert_eq!(number(1.8446744073709552e19), "1.8446744073709552e+19");
    }
}
