//! Leases.

use anyhow::{Context, Result};
use kelson_benches::Pace;
use kelson_benches::lease::{Grant, KeepAlive, Revoke};

use super::{FILLERS, LATENCY, Run, WARM_UP, clients, note_peak};
use crate::bench::store::figures::Figures;
use crate::bench::store::workload::Workload;

/// Seconds to live: longer than any run.
const TTL: i64 = 7 * 24 * 3_600;
/// Keep-alives of each stream that wait for their answers.
const IN_FLIGHT: usize = 16;

impl Run<'_> {
    /// Grants as many leases as the workload has keys, then keeps random ones alive.
    pub fn keep_alive(&mut self) -> Result<Figures> {
        let Workload { keys: leases, clients: streams, operations, .. } = self.workload;
        self.load("granting", Pace::Closed { operations: leases }, clients(FILLERS, |_| Grant { ttl: TTL }))?;
        let keep = KeepAlive { leases, streams, in_flight: IN_FLIGHT };
        self.kept("warming up", operations.div_ceil(WARM_UP), keep)?;
        let meter = self.meter()?;
        let outcome = self.kept("closed loop", operations, keep)?;
        let cost = self.cost(&meter)?;
        let mut figures = Figures::default();
        note_peak(&mut figures, &outcome);
        cost.note(&mut figures, outcome.answered as f64);
        figures.set_latency(LATENCY, &outcome.latencies);
        self.note_memory(&mut figures)?;
        if self.server.usage()?.is_none() {
            self.next = 0;
            self.load("revoking", Pace::Closed { operations: leases }, clients(FILLERS, |_| Revoke))?;
        }
        Ok(figures)
    }

    fn kept(&self, what: &str, operations: u64, keep: KeepAlive) -> Result<kelson_benches::Outcome> {
        let load = self.usual(Pace::Closed { operations });
        let kept = self.fleet.keep_alive(load, keep, &mut self.tick(what, operations));
        kept.with_context(|| format!("{what} (see --deadline and --scale)"))
    }
}
