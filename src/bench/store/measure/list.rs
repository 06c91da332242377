//! Reads of many keys, alone and while others write.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, anyhow};
use kelson_benches::source::{List, Pages, Put};
use kelson_benches::{Fleet, Outcome, Pace, Wish};

use super::{FOLDER, LATENCY, Run, Sources, WARM_UP, clients, note_peak};
use crate::bench::store::figures::Figures;
use crate::bench::store::workload::{Kind, Workload};

impl Run<'_> {
    /// The same list again and again, whole or in pages.
    pub fn list(&mut self) -> Result<Figures> {
        let Workload { kind, keys, clients: count, operations, .. } = self.workload;
        self.fill(0, keys)?;
        let sources: Sources = match kind {
            Kind::Pages { limit } => clients(count, |_| Pages::new(FOLDER, keys, limit)),
            _ => clients(count, |_| List { folder: FOLDER, keys }),
        };
        let (_, sources) =
            self.load("warming up", Pace::Closed { operations: operations.div_ceil(WARM_UP) }, sources)?;
        let meter = self.meter()?;
        let (outcome, _) = self.load("closed loop", Pace::Closed { operations }, sources)?;
        let cost = self.cost(&meter)?;
        let mut figures = Figures::default();
        note_peak(&mut figures, &outcome);
        cost.note(&mut figures, outcome.answered as f64);
        figures.set_latency(LATENCY, &outcome.latencies);
        self.note_memory(&mut figures)?;
        Ok(figures)
    }

    /// Puts at a fixed rate, first alone, then while one client lists the folder beside theirs without a pause.
    pub fn list_under_writes(&mut self) -> Result<Figures> {
        let Workload { keys, length, clients: count, seconds, rate, .. } = self.workload;
        self.fill(0, keys)?;
        // Of the same connection a put would wait for the list's bytes before it.
        let listing = Fleet::connect(self.server.url(), 1, 1, self.bench.deadline)?;
        let pace = Pace::Open { rate, operations: ((rate * seconds) as u64).max(1) };
        let sources = clients(count, |_| Put { folder: "writes", keys, length });
        let (_, sources) = self.load("warming up", Pace::Closed { operations: 4 * count as u64 }, sources)?;
        let meter = self.meter()?;
        let (idle, sources) = self.load("writes alone", pace, sources)?;
        let alone = self.cost(&meter)?;

        let (done, meter) = (AtomicBool::new(false), self.meter()?);
        let load = self.usual(Pace::Closed { operations: u64::MAX });
        let stop = self.bench.stop.clone();
        let (busy, lists) = std::thread::scope(|scope| {
            let lists = scope.spawn(|| {
                let mut tick = |_| match (stop.is_cancelled(), done.load(Ordering::Relaxed)) {
                    (true, _) => Wish::Abort,
                    (false, true) => Wish::Finish,
                    (false, false) => Wish::Continue,
                };
                listing.run(load, clients(1, |_| List { folder: FOLDER, keys }), &mut tick)
            });
            let busy = self.load("writes beside a list", pace, sources);
            done.store(true, Ordering::Relaxed);
            (busy, lists.join())
        });
        let cost = self.cost(&meter)?;
        let (busy, _): (Outcome, _) = busy?;
        let lists = lists.map_err(|_| anyhow!("the list's thread is gone"))?;
        let (lists, _) = lists.context("listing beside writes (see --deadline and --scale)")?;

        let mut figures = Figures::default();
        note_peak(&mut figures, &lists);
        figures.set("rate", rate);
        figures.set_latency(LATENCY, &busy.latencies);
        figures.set_latency(["idle_p50_ms", "idle_p99_ms", "idle_p99_9_ms"], &idle.latencies);
        if let (Some(during), Some(idle)) = (figures.get("p99_ms"), figures.get("idle_p99_ms")) {
            figures.set("p99_growth", during / idle);
        }
        // What the writes cost anyhow is not the lists'.
        let lists = lists.answered as f64;
        figures.set("client_cpu_us", (cost.client_seconds - alone.client_seconds) * 1e6 / lists);
        if let (Some(both), Some(alone)) = (cost.cpu_seconds, alone.cpu_seconds) {
            figures.set("cpu_us", (both - alone) * 1e6 / lists);
        }
        self.note_memory(&mut figures)?;
        Ok(figures)
    }
}
