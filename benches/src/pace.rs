//! When requests are due, and how late their answers are.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::error::Error;

/// Longest latency that is told apart from longer ones, in microseconds: ten minutes.
pub const LONGEST: u64 = 600_000_000;

/// An empty histogram of microseconds, exact to three digits.
///
/// # Errors
/// None with these bounds.
pub fn histogram() -> Result<Histogram<u64>, Error> {
    Ok(Histogram::new_with_bounds(1, LONGEST, 3)?)
}

/// Records how long it was from `due` to `answered`, both since the start of the run.
pub fn record(latencies: &mut Histogram<u64>, due: Duration, answered: Duration) {
    let micros = u64::try_from(answered.saturating_sub(due).as_micros()).unwrap_or(LONGEST);
    latencies.saturating_record(micros.max(1));
}

/// A fixed rate: request `n` is due `n / rate` seconds after the start, whatever became of those before it.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    per_second: f64,
    total: u64,
}

impl Schedule {
    /// `total` requests, `per_second` of them each second; a rate that is no positive number counts as one.
    pub fn new(per_second: f64, total: u64) -> Schedule {
        let per_second = if per_second.is_finite() && per_second > 0.0 { per_second } else { 1.0 };
        Schedule { per_second, total }
    }

    /// When request `number` (from 0) is due, since the start.
    pub fn due(&self, number: u64) -> Duration {
        Duration::from_secs_f64(number as f64 / self.per_second)
    }

    /// How many requests are due at `elapsed` since the start.
    pub fn count(&self, elapsed: Duration) -> u64 {
        // The first one is due at once.
        ((elapsed.as_secs_f64() * self.per_second) as u64).saturating_add(1).min(self.total)
    }

    /// Requests in all.
    pub fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_due_at_a_fixed_rate() {
        let schedule = Schedule::new(1_000.0, 5_000);
        assert_eq!(schedule.due(0), Duration::ZERO);
        assert_eq!(schedule.due(2_500), Duration::from_millis(2_500));
        assert_eq!(schedule.count(Duration::ZERO), 1);
        assert_eq!(schedule.count(Duration::from_micros(1_500)), 2);
        assert_eq!(schedule.count(Duration::from_secs(60)), 5_000);
        for number in [0, 1, 7, 4_999] {
            let due = schedule.due(number);
            assert!(schedule.count(due + Duration::from_nanos(100)) > number, "{number} is due at its time");
            assert!(due.is_zero() || schedule.count(due - Duration::from_nanos(100)) <= number, "{number} not before");
        }
    }

    #[test]
    fn a_rate_that_is_none_is_slow_and_not_endless() {
        for rate in [0.0, -3.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Schedule::new(rate, 3).due(2), Duration::from_secs(2));
        }
    }

    /// A server that answers one request at a time in 1 ms, but stalls for 500 ms once. With one worker and a rate of
    /// 500/s the stall holds up 250 requests; a client that measures from the sending sees a single slow one.
    #[test]
    fn a_stall_counts_for_every_request_that_it_held_up() {
        let schedule = Schedule::new(500.0, 5_000);
        let (mut from_due, mut from_sending) = (histogram().unwrap(), histogram().unwrap());
        let mut now = Duration::ZERO;
        for number in 0..schedule.total() {
            let due = schedule.due(number);
            let sent = now.max(due);
            now = sent + Duration::from_millis(if number == 1_000 { 500 } else { 1 });
            record(&mut from_due, due, now);
            record(&mut from_sending, sent, now);
        }
        assert_eq!(from_due.len(), 5_000);
        assert!(from_sending.value_at_quantile(0.99) <= 1_001, "{}", from_sending.value_at_quantile(0.99));
        // The queue drains at 1,000 - 500 a second: 500 requests wait, evenly between 0 and 500 ms.
        let late = from_due.len() - from_due.count_between(0, 100_000);
        assert!((380..=420).contains(&late), "{late} later than 100 ms");
        assert!((440_000..=500_500).contains(&from_due.value_at_quantile(0.99)));
    }
}
