//! Compactions that nobody has to ask for: what is to be kept, and when the next one is due. Pure: the time comes in.

use std::collections::VecDeque;
use std::time::Duration;

use crate::options::AutoCompaction;

const HOUR: Duration = Duration::from_secs(3600);
/// Looks at the revision within one compaction interval (or retries of a compaction that failed).
const LOOKS: u32 = 10;
/// Pause between two looks when revisions are counted.
const REVISION_INTERVAL: Duration = Duration::from_secs(300);

/// Reads the flags; see [`AutoCompaction::parse`].
pub(crate) fn parse(mode: &str, retention: &str) -> Result<AutoCompaction, String> {
    let retention = if retention.is_empty() { "0" } else { retention };
    let number = retention.parse::<i64>().ok().filter(|number| *number >= 0);
    let kept = match (mode, number) {
        ("periodic" | "revision", Some(0)) => AutoCompaction::Off,
        ("", _) => return Err("--auto-compaction-mode is undefined".into()),
        ("periodic", Some(hours)) => {
            let seconds = u64::try_from(hours).unwrap_or(0).checked_mul(HOUR.as_secs());
            AutoCompaction::Periodic(Duration::from_secs(seconds.ok_or_else(|| invalid(retention))?))
        }
        ("periodic", None) => match duration(retention).ok_or_else(|| invalid(retention))? {
            Duration::ZERO => AutoCompaction::Off,
            period => AutoCompaction::Periodic(period),
        },
        ("revision", Some(revisions)) => AutoCompaction::Revision(revisions),
        ("revision", None) => return Err(format!("{}: a number of revisions is expected", invalid(retention))),
        (other, _) => return Err(format!("unknown auto-compaction-mode {other:?}")),
    };
    Ok(kept)
}

fn invalid(text: &str) -> String {
    format!("error parsing CompactionRetention: time: invalid duration {text:?}")
}

/// A duration as Go writes them: numbers, maybe with fractions, each with a unit. `None` where it is none, negative or
/// beyond what fits.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut sum = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        rest = &rest[unit..];
        sum = sum.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
    }
    // What Go's durations hold.
    (sum.as_nanos() <= i64::MAX as u128).then_some(sum)
}

/// When to compact to what. It is asked once per [`Schedule::interval`].
#[derive(Debug)]
pub(crate) enum Schedule {
    Periodic(Periodic),
    Revision { keep: i64, last: i64 },
}

/// Remembers the revision at each look, so as to know the one of a period ago (as etcd does, of one look before that).
#[derive(Debug)]
pub(crate) struct Periodic {
    period: Duration,
    revisions: VecDeque<i64>,
    /// Revision and time of the last compaction; the time of the start before the first.
    last: (i64, Duration),
    compacted: bool,
}

impl Schedule {
    /// `None` where nothing is ever to be done. `revision` is the one at the start, from which time counts.
    pub(crate) fn new(kept: AutoCompaction, revision: i64) -> Option<Self> {
        match kept {
            AutoCompaction::Off | AutoCompaction::Periodic(Duration::ZERO) => None,
            AutoCompaction::Revision(keep) if keep <= 0 => None,
            AutoCompaction::Revision(keep) => Some(Schedule::Revision { keep, last: 0 }),
            AutoCompaction::Periodic(period) => Some(Schedule::Periodic(Periodic {
                period,
                revisions: VecDeque::from([revision]),
                last: (0, Duration::ZERO),
                compacted: false,
            })),
        }
    }

    /// Pause between two looks.
    pub(crate) fn interval(&self) -> Duration {
        match self {
            Schedule::Periodic(periodic) => periodic.interval(),
            Schedule::Revision { .. } => REVISION_INTERVAL,
        }
    }

    /// The revision to compact to now, if any. `now` counts from the start.
    pub(crate) fn due(&mut self, now: Duration, revision: i64) -> Option<i64> {
        match self {
            Schedule::Periodic(periodic) => periodic.due(now),
            Schedule::Revision { keep, last } => {
                let target = revision.saturating_sub(*keep);
                (target > 0 && target != *last).then_some(target)
            }
        }
    }

    /// Ends a look: notes the compaction that was made, if one was, and the revision reached.
    pub(crate) fn looked(&mut self, now: Duration, revision: i64, compacted: Option<i64>) {
        match self {
            Schedule::Periodic(periodic) => periodic.looked(now, revision, compacted),
            Schedule::Revision { last, .. } => *last = compacted.unwrap_or(*last),
        }
    }
}

impl Periodic {
    /// Compactions are an hour apart, or a period where that is shorter.
    fn interval(&self) -> Duration {
        // The bound is only reached by periods of less than ten nanoseconds.
        (self.period.min(HOUR) / LOOKS).max(Duration::from_millis(1))
    }

    fn due(&mut self, now: Duration) -> Option<i64> {
        let oldest = *self.revisions.front()?;
        let pause = if self.compacted { self.period.min(HOUR) } else { self.period };
        (now.saturating_sub(self.last.1) >= pause && oldest != self.last.0).then_some(oldest)
    }

    fn looked(&mut self, now: Duration, revision: i64, compacted: Option<i64>) {
        if let Some(compacted) = compacted {
            self.last = (compacted, now);
            self.compacted = true;
        }
        self.revisions.push_back(revision);
        let most = (self.period.as_nanos() / self.interval().as_nanos()) as usize + 1;
        if self.revisions.len() > most {
            self.revisions.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// Looks for so long, one revision a minute having been written; returns when which revision was compacted to.
    fn run(kept: AutoCompaction, until: Duration) -> Vec<(u64, i64)> {
        let mut schedule = Schedule::new(kept, 1).unwrap();
        let (mut now, mut done) = (Duration::ZERO, Vec::new());
        while now < until {
            now += schedule.interval();
            let revision = 1 + (now.as_secs() / 60) as i64;
            let due = schedule.due(now, revision);
            done.extend(due.map(|target| (now.as_secs() / 60, target)));
            schedule.looked(now, revision, due);
        }
        done
    }

    #[test]
    fn a_short_period_is_kept_and_compacted_once_per_period() {
        let done = run(AutoCompaction::Periodic(10 * MINUTE), 40 * MINUTE);
        assert_eq!(done, [(10, 1), (20, 10), (30, 20), (40, 30)]);
    }

    #[test]
    fn a_long_period_is_kept_and_compacted_every_hour() {
        let done = run(AutoCompaction::Periodic(3 * HOUR), 6 * HOUR);
        assert_eq!(done, [(180, 1), (240, 55), (300, 115), (360, 175)]);
    }

    #[test]
    fn revisions_are_counted_every_five_minutes() {
        assert_eq!(run(AutoCompaction::Revision(7), 20 * MINUTE), [(10, 4), (15, 9), (20, 14)]);
    }

    #[test]
    fn a_compaction_that_failed_is_tried_again_at_the_next_look() {
        let mut schedule = Schedule::new(AutoCompaction::Periodic(HOUR), 5).unwrap();
        let at = |look: u32| schedule_interval() * look;
        for look in 1..10 {
            assert_eq!(schedule.due(at(look), 9), None, "{look}");
            schedule.looked(at(look), 9, None);
        }
        assert_eq!(schedule.due(at(10), 9), Some(5));
        schedule.looked(at(10), 9, None);
        assert_eq!(schedule.due(at(11), 9), Some(5));
        schedule.looked(at(11), 9, Some(5));
        assert_eq!(schedule.due(at(12), 9), None);
    }

    fn schedule_interval() -> Duration {
        6 * MINUTE
    }

    #[test]
    fn an_idle_store_is_not_compacted_again() {
        let mut schedule = Schedule::new(AutoCompaction::Periodic(MINUTE), 5).unwrap();
        let mut done = 0;
        for look in 1..100 {
            let now = schedule.interval() * look;
            let due = schedule.due(now, 5);
            done += usize::from(due.is_some());
            schedule.looked(now, 5, due);
        }
        assert_eq!(done, 1);
    }

    #[test]
    fn flags_are_read_as_etcd_reads_them() {
        let periodic = |seconds: u64| Ok(AutoCompaction::Periodic(Duration::from_secs(seconds)));
        assert_eq!(parse("periodic", "1"), periodic(3600));
        assert_eq!(parse("periodic", "1h"), periodic(3600));
        assert_eq!(parse("periodic", "1h30m"), periodic(5400));
        assert_eq!(parse("periodic", "1.5h"), periodic(5400));
        assert_eq!(parse("periodic", "500ms"), Ok(AutoCompaction::Periodic(Duration::from_millis(500))));
        assert_eq!(parse("revision", "1000"), Ok(AutoCompaction::Revision(1000)));
        for (mode, retention) in [("periodic", "0"), ("revision", "0"), ("periodic", ""), ("periodic", "0s")] {
            assert_eq!(parse(mode, retention), Ok(AutoCompaction::Off), "{mode} {retention}");
        }
        for (mode, retention) in [
            ("", "1"),
            ("sometimes", "1"),
            ("periodic", "1x"),
            ("periodic", "-1"),
            ("periodic", "-1h"),
            ("periodic", "h"),
            ("periodic", "1h2"),
            ("periodic", "9999999999h"),
            ("periodic", "9223372036854775807"),
            ("revision", "1h"),
            ("revision", "-5"),
        ] {
            assert!(parse(mode, retention).is_err(), "{mode} {retention}");
        }
    }
}
