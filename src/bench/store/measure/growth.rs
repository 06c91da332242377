//! Whether puts become slower as the store fills.

use anyhow::Result;
use kelson_benches::Pace;
use kelson_benches::source::Put;

use super::{FOLDER, LATENCY, Run, clients, note_peak};
use crate::bench::store::figures::Figures;
use crate::bench::store::workload::Workload;

/// Keys at the first look.
const FIRST: u64 = 10_000;

/// The numbers of keys at which puts are measured: ten times as many each time, and the last as asked for.
fn stages(keys: u64) -> Vec<u64> {
    let mut stages: Vec<_> = std::iter::successors(Some(FIRST), |stage| stage.checked_mul(10)).collect();
    stages.retain(|stage| *stage < keys);
    stages.push(keys);
    stages
}

impl Run<'_> {
    /// Fills the store to each stage, and measures puts to random keys of it there.
    pub fn growth(&mut self) -> Result<Figures> {
        let Workload { keys: most, length, clients: count, operations, .. } = self.workload;
        let mut figures = Figures::default();
        let (mut filled, mut first) = (0, None);
        for keys in stages(most) {
            self.fill(filled, keys)?;
            filled = keys;
            let sources = clients(count, |_| Put { folder: FOLDER, keys, length });
            let meter = self.meter()?;
            let (outcome, _) = self.load("closed loop", Pace::Closed { operations }, sources)?;
            let cost = self.cost(&meter)?;
            note_peak(&mut figures, &outcome);
            cost.note(&mut figures, outcome.answered as f64);
            cost.note_written(&mut figures, operations, length);
            figures.set_latency(LATENCY, &outcome.latencies);
            figures.set(&format!("throughput_at_{keys}"), outcome.throughput());
            let first = *first.get_or_insert(outcome.throughput());
            figures.set("throughput_kept", outcome.throughput() / first);
        }
        self.note_memory(&mut figures)?;
        Ok(figures)
    }
}

#[cfg(test)]
mod tests {
    use super::stages;

    #[test]
    fn stages_grow_tenfold_up_to_the_bound() {
        assert_eq!(stages(1_000_000), [10_000, 100_000, 1_000_000]);
        assert_eq!(stages(250_000), [10_000, 100_000, 250_000]);
        assert_eq!(stages(10_000), [10_000]);
        assert_eq!(stages(100), [100]);
        assert_eq!(stages(u64::MAX).last(), Some(&u64::MAX));
    }
}
