//! Compactions that nobody has to ask for: what is to be kept, and when the next one is due. Pure: the time comes in.

use std::collections::VecDeque;
use std::time::Duration;

use crate::options::AutoCompaction;

const HOUR: Duration = Duration::from_secs(3600);
/// Looks at the revision within one compaction interval (or retries of a compaction that failed).
const LOOKS: u32 = 10;
/// Pause between two looks when revisions are counted.
const REVISION_INTERVAL: Duration = Duration::from_secs(300);

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
}
