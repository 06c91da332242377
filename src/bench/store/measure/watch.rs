//! Watches: how many events are delivered, and how late.

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use kelson_benches::source::Put;
use kelson_benches::{Pace, Watch, Watching};

use super::{FOLDER, LATENCY, PAUSE, Run, clients};
use crate::bench::store::figures::Figures;
use crate::bench::store::workload::Workload;

/// Watchers that share a stream.
const EACH: usize = 10;

impl Run<'_> {
    /// Waits until the watchers have been told of `events` events, and fails if they are told of more.
    pub fn await_events(&self, watching: &Watching, events: u64) -> Result<()> {
        let end = Instant::now() + self.bench.deadline;
        while watching.seen.events() < events {
            if Instant::now() >= end || self.bench.stop.is_cancelled() {
                watching.seen.latencies().context("watching")?;
                bail!("{} of {events} events were delivered (see --deadline)", watching.seen.events());
            }
            watching.seen.check().context("watching")?;
            std::thread::sleep(PAUSE);
        }
        ensure!(watching.seen.events() == events, "{} events were delivered of {events}", watching.seen.events());
        Ok(())
    }

    /// Puts under one prefix that many watch: as many as the server takes, until every watcher has every event; then at
    /// a fixed rate.
    pub fn fan_out(&mut self, watchers: usize, rate: Option<f64>) -> Result<Figures> {
        let Workload { keys, length, clients: count, operations, seconds, .. } = self.workload;
        let watch = Watch { folder: FOLDER, streams: watchers.div_ceil(EACH), each: EACH };
        let each = (watch.streams * watch.each) as u64;
        let watching = self.fleet.watch(watch, self.bench.deadline)?;
        let sources = clients(count, |_| Put { folder: FOLDER, keys, length });

        let (meter, began) = (self.meter()?, Instant::now());
        let (_, sources) = self.load("closed loop", Pace::Closed { operations }, sources)?;
        self.await_events(&watching, each * operations)?;
        let (cost, took) = (self.cost(&meter)?, began.elapsed());
        let events = (each * operations) as f64;
        let mut figures = Figures::default();
        figures.set("operations", events);
        figures.set("seconds", took.as_secs_f64());
        figures.set("throughput", events / took.as_secs_f64());
        cost.note(&mut figures, events);
        figures.set_latency(["peak_p50_ms", "peak_p99_ms", "peak_p99_9_ms"], &watching.seen.latencies()?);

        let rate = rate.unwrap_or(operations as f64 / took.as_secs_f64() * self.bench.share).max(1.0);
        let more = ((rate * seconds) as u64).max(1);
        self.load("open loop", Pace::Open { rate, operations: more }, sources)?;
        self.await_events(&watching, each * (operations + more))?;
        figures.set("rate", rate);
        figures.set_latency(LATENCY, &watching.seen.latencies()?);
        self.note_memory(&mut figures)?;
        Ok(figures)
    }

    /// Puts at a modest fixed rate: from when each was due to its delivery.
    pub fn watch_latency(&mut self, watchers: usize) -> Result<Figures> {
        let Workload { keys, length, clients: count, seconds, rate, .. } = self.workload;
        let watch = Watch { folder: FOLDER, streams: watchers, each: 1 };
        let watching = self.fleet.watch(watch, self.bench.deadline)?;
        let sources = clients(count, |_| Put { folder: FOLDER, keys, length });
        let operations = ((rate * seconds) as u64).max(1);
        let events = operations * watchers as u64;
        let meter = self.meter()?;
        let (open, _) = self.load("open loop", Pace::Open { rate, operations }, sources)?;
        self.await_events(&watching, events)?;
        let cost = self.cost(&meter)?;
        let mut figures = Figures::default();
        figures.set("operations", events as f64);
        figures.set("seconds", open.elapsed.as_secs_f64());
        figures.set("throughput", events as f64 / open.elapsed.as_secs_f64());
        figures.set("rate", rate);
        cost.note(&mut figures, events as f64);
        figures.set_latency(LATENCY, &watching.seen.latencies()?);
        figures.set_latency(["put_p50_ms", "put_p99_ms", "put_p99_9_ms"], &open.latencies);
        self.note_memory(&mut figures)?;
        Ok(figures)
    }
}
