//! Single requests: the peak by a closed loop, latencies by an open one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, ensure};
use kelson_benches::source::{Get, Guarded, Mixed, Put};
use kelson_benches::{Pace, Watch};

use super::{FOLDER, LATENCY, Run, Sources, WARM_UP, clients, note_peak};
use crate::bench::store::figures::Figures;
use crate::bench::store::server::revision;
use crate::bench::store::workload::{Kind, Workload};

/// Keys of each client of the guarded updates.
const OWN_KEYS: usize = 8;

impl Run<'_> {
    /// Warm-up, closed loop, open loop.
    pub fn requests(&mut self, rate: Option<f64>) -> Result<Figures> {
        let Workload { kind, keys, length, clients: count, operations, seconds, .. } = self.workload;
        let (written, folder) = (Arc::new(AtomicU64::new(0)), FOLDER);
        if matches!(kind, Kind::Get { .. } | Kind::Mixed) {
            self.fill(0, keys)?;
        }
        let watch = Watch { folder, streams: 1, each: 1 };
        let watching = match kind {
            Kind::Guarded => Some(self.fleet.watch(watch, self.bench.deadline)?),
            _ => None,
        };
        let sources: Sources = match kind {
            Kind::Get { serializable } => clients(count, |_| Get { folder, keys, length, serializable }),
            Kind::Mixed => clients(count, |_| Mixed::new(folder, keys, length)),
            Kind::Guarded => {
                clients(count, |client| Guarded::new(folder, client as u64, OWN_KEYS, length, written.clone()))
            }
            _ => clients(count, |_| Put { folder, keys, length }),
        };
        let (first_revision, first) = (revision(&self.fleet)?, self.next);
        let (_, sources) =
            self.load("warming up", Pace::Closed { operations: operations.div_ceil(WARM_UP) }, sources)?;

        let (meter, begun) = (self.meter()?, self.next);
        let (peak, sources) = self.load("closed loop", Pace::Closed { operations }, sources)?;
        let cost = self.cost(&meter)?;
        let mut figures = Figures::default();
        note_peak(&mut figures, &peak);
        cost.note(&mut figures, peak.answered as f64);
        let puts = |numbers: std::ops::Range<u64>| match kind {
            Kind::Get { .. } => 0,
            Kind::Mixed => numbers.filter(|number| !Mixed::reads(*number)).count() as u64,
            _ => numbers.end - numbers.start,
        };
        cost.note_written(&mut figures, puts(begun..self.next), length);

        if seconds > 0.0 {
            let rate = rate.unwrap_or(peak.throughput() * self.bench.share).max(1.0);
            let operations = ((rate * seconds) as u64).max(1);
            let (open, _) = self.load("open loop", Pace::Open { rate, operations }, sources)?;
            figures.set("rate", rate);
            figures.set_latency(LATENCY, &open.latencies);
            figures.set_latency(["peak_p50_ms", "peak_p99_ms", "peak_p99_9_ms"], &peak.latencies);
        } else {
            figures.set_latency(LATENCY, &peak.latencies);
        }
        self.note_memory(&mut figures)?;

        let acknowledged = match kind {
            Kind::Guarded => written.load(Ordering::Relaxed),
            _ => puts(first..self.next),
        };
        let revisions = revision(&self.fleet)?.abs_diff(first_revision);
        ensure!(
            acknowledged == revisions,
            "{acknowledged} writes were acknowledged, but the revision grew by {revisions}: is somebody else writing?"
        );
        figures.set("acknowledged_writes", acknowledged as f64);
        figures.set("revisions", revisions as f64);
        if let Some(watching) = watching {
            self.await_events(&watching, acknowledged)?;
            figures.set("events", watching.seen.events() as f64);
            figures.set_latency(["event_p50_ms", "event_p99_ms", "event_p99_9_ms"], &watching.seen.latencies()?);
        }
        Ok(figures)
    }
}
