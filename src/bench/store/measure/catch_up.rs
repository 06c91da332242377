//! A member that comes back far behind, while clients write.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use kelson_benches::source::Put;
use kelson_benches::{Pace, Wish};

use super::{LATENCY, Run, clients};
use crate::bench::store::figures::Figures;
use crate::bench::store::workload::Workload;

impl Run<'_> {
    /// Ends a member that does not lead, writes what it will lack, then writes at a fixed rate: first without it, then while
    /// it starts again and catches up.
    pub fn catch_up(&mut self) -> Result<Figures> {
        let Workload { keys, length, clients: count, operations, seconds, rate, .. } = self.workload;
        let late = self.server.end_follower()?;
        let source = |_| Put { folder: "writes", keys, length };
        let (_, sources) =
            self.load("writing what it will lack", Pace::Closed { operations }, clients(count, source))?;
        let pace = |seconds: f64| Pace::Open { rate, operations: ((rate * seconds) as u64).max(1) };
        let (idle, sources) = self.load("writes without the member", pace(seconds), sources)?;

        let (caught_up, began, least) = (AtomicBool::new(false), Instant::now(), Duration::from_secs_f64(seconds));
        let load = self.usual(pace(self.bench.deadline.as_secs_f64()));
        let deadline = self.bench.deadline;
        let Run { bench, server, fleet, .. } = self;
        let (busy, took) = std::thread::scope(|scope| {
            let starting = scope.spawn(|| {
                let took = server.start_follower(late, deadline);
                caught_up.store(true, Ordering::Relaxed);
                took
            });
            let mut tick = |_| {
                (bench.show)("writes while it catches up", began.elapsed().as_secs_f64() / deadline.as_secs_f64());
                match bench.wish() {
                    Wish::Continue if caught_up.load(Ordering::Relaxed) && began.elapsed() >= least => Wish::Finish,
                    wish => wish,
                }
            };
            (fleet.run(load, sources, &mut tick), starting.join())
        });
        let (busy, _) = busy.context("writes while a member catches up (see --deadline and --scale)")?;
        let took = took.map_err(|_| anyhow!("the thread that starts the member is gone"))??;

        let mut figures = Figures::default();
        figures.set("operations", busy.answered as f64);
        figures.set("rate", rate);
        figures.set("throughput", busy.throughput());
        figures.set("caught_up_seconds", took.as_secs_f64());
        if let Some(sent) = self.server.states_sent() {
            figures.set("states_sent", sent);
        }
        figures.set_latency(LATENCY, &busy.latencies);
        figures.set_latency(["idle_p50_ms", "idle_p99_ms", "idle_p99_9_ms"], &idle.latencies);
        if let (Some(during), Some(idle)) = (figures.get("p99_ms"), figures.get("idle_p99_ms")) {
            figures.set("p99_growth", during / idle);
        }
        self.note_memory(&mut figures)?;
        Ok(figures)
    }
}
