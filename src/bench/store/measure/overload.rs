//! What is left of a server's throughput when much more is asked of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kelson_benches::source::Put;
use kelson_benches::{Failures, Fleet, Load, Pace};

use super::{FOLDER, LATENCY, Run, clients};
use crate::bench::store::figures::Figures;
use crate::bench::store::workload::Workload;

/// What is offered, in peaks.
const TIMES: f64 = 10.0;
/// Clients under overload, on as many connections as here.
const CLIENTS: usize = 10_000;
const CONNECTIONS: usize = 10;
/// How long a client waits for an answer.
const TIMEOUT: Duration = Duration::from_secs(1);

impl Run<'_> {
    /// The peak by a closed loop, then ten times as many requests as that, from clients that give up after a second. A
    /// request that is due while every client waits is not sent.
    pub fn overload(&mut self) -> Result<Figures> {
        let Workload { keys, length, clients: count, operations, seconds, .. } = self.workload;
        let put = Put { folder: FOLDER, keys, length };
        let (peak, _) = self.load("closed loop", Pace::Closed { operations }, clients(count, |_| put.clone()))?;

        let crowd = Fleet::connect(self.server.url(), CONNECTIONS, self.bench.threads, self.bench.deadline)?;
        let rate = peak.throughput() * TIMES;
        let total = ((rate * seconds) as u64).max(1);
        let pace = Pace::Open { rate, operations: total };
        let window = Duration::from_secs_f64(total as f64 / rate);
        let usual = self.usual(pace);
        let load = Load { failures: Failures::Counted, timeout: Some(TIMEOUT), drop_late: true, window, ..usual };
        self.next += total;
        let meter = self.meter()?;
        let run = crowd.run(load, clients(CLIENTS, |_| put.clone()), &mut self.tick("overload", total));
        let (outcome, _) = run.context("overload (see --deadline and --scale)")?;
        let cost = self.cost(&meter)?;
        ensure!(outcome.answered + outcome.failed + outcome.dropped == total, "requests are missing: {outcome:?}");

        let mut figures = Figures::default();
        // What is answered after the last request was due is not goodput of that time.
        let goodput = outcome.within as f64 / window.as_secs_f64();
        figures.set("operations", outcome.answered as f64);
        figures.set("seconds", window.as_secs_f64());
        figures.set("throughput", goodput);
        cost.note(&mut figures, outcome.answered as f64);
        figures.set("peak_throughput", peak.throughput());
        figures.set("goodput_share", goodput / peak.throughput());
        figures.set("offered", rate);
        let sent = (outcome.answered + outcome.failed) as f64;
        figures.set("sent", sent / outcome.elapsed.as_secs_f64());
        figures.set("refused", outcome.failed as f64);
        figures.set("not_sent", outcome.dropped as f64);
        figures.set_latency(LATENCY, &outcome.latencies);
        self.note_memory(&mut figures)?;
        Ok(figures)
    }
}
