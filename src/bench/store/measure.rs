//! One run: one workload on one side.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kelson_benches::data::{KEY_LENGTH, range};
use kelson_benches::source::{Fill, Get, Guarded, Mixed, Put};
use kelson_benches::{Failures, Fleet, Load, Method, Outcome, Pace, Source, Watch, Watching, frame};
use kelson_wire::pb::etcdserverpb::DeleteRangeRequest;
use tokio_util::sync::CancellationToken;

use super::figures::Figures;
use super::server::{Server, Side, revision};
use super::workload::{Kind, Workload};
use crate::process::{Usage, usage};

/// Where the keys of a run lie.
const FOLDER: &str = "load";
/// Clients that write the keys that a run needs.
const FILLERS: usize = 256;
/// Share of the closed loop that is run before it is measured.
const WARM_UP: u64 = 10;
/// Keys of each client of the guarded updates.
const OWN_KEYS: usize = 8;
/// Pause between two looks at watchers that are behind.
const PAUSE: Duration = Duration::from_millis(2);

/// What all runs have in common.
pub struct Bench<'a> {
    /// Where data directories are made.
    pub folder: &'a Path,
    /// Longest that a phase of a run may take.
    pub deadline: Duration,
    /// Share of a peak that open loops send.
    pub share: f64,
    /// Threads of the load generator.
    pub threads: usize,
    /// Cancelled when the user wants an end.
    pub stop: CancellationToken,
    /// Told what is under way, and its progress from 0 to 1.
    pub show: &'a dyn Fn(&str, f64),
}

/// A run that is under way.
struct Run<'a> {
    bench: &'a Bench<'a>,
    workload: &'a Workload,
    server: Server,
    fleet: Fleet,
    /// Number of the next request.
    next: u64,
}

/// A closed loop with what it cost.
struct Peak {
    outcome: Outcome,
    server: Option<(Usage, Usage)>,
    client_seconds: f64,
}

impl Bench<'_> {
    /// Runs `workload` on `side`, on an empty store. The open loop sends `rate` requests a second, or, where none is
    /// given, the share of the peak that this run finds.
    ///
    /// # Errors
    /// If the server misbehaves, a deadline passes, or the figures contradict each other.
    pub fn run(&self, workload: &Workload, side: &Side, rate: Option<f64>) -> Result<Figures> {
        (self.show)("starting", 0.0);
        let server = side.start(self.folder, self.deadline)?;
        let fleet = Fleet::connect(server.url(), workload.connections, self.threads, self.deadline)?;
        let mut run = Run { bench: self, workload, server, fleet, next: 0 };
        let result = run.requests(rate);
        if !side.is_program() {
            run.clean()?;
        }
        let figures = result?;
        let Run { server, fleet, .. } = run;
        drop(fleet);
        (self.show)("ending", 1.0);
        server.stop()?;
        Ok(figures)
    }
}

impl Run<'_> {
    fn load(
        &mut self,
        what: &str,
        pace: Pace,
        sources: Vec<Box<dyn Source>>,
    ) -> Result<(Outcome, Vec<Box<dyn Source>>)> {
        let load = Load {
            pace,
            first: self.next,
            failures: Failures::Fatal,
            patience: Duration::MAX,
            deadline: self.bench.deadline,
        };
        let total = pace.operations();
        self.next += total;
        let mut tick = |done: u64| {
            (self.bench.show)(what, done as f64 / total.max(1) as f64);
            if self.bench.stop.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let (outcome, sources) =
            self.fleet.run(load, sources, &mut tick).with_context(|| format!("{what} (see --deadline and --scale)"))?;
        ensure!(
            outcome.answered == total,
            "{what}: {} of {total} requests were answered, and none was refused",
            outcome.answered
        );
        Ok((outcome, sources))
    }

    /// Clients of `count` sources.
    fn clients(count: usize, make: impl Fn(usize) -> Box<dyn Source>) -> Vec<Box<dyn Source>> {
        (0..count).map(make).collect()
    }

    /// Writes the keys that the run reads.
    fn fill(&mut self) -> Result<()> {
        let Workload { keys, length, .. } = *self.workload;
        let before = self.next;
        self.next = 0;
        let sources = Self::clients(FILLERS, |_| Box::new(Fill { folder: FOLDER, length }));
        self.load("filling", Pace::Closed { operations: keys }, sources)?;
        self.next = before.max(keys);
        Ok(())
    }

    /// A closed loop between two readings of the processes.
    fn peak(&mut self, sources: Vec<Box<dyn Source>>) -> Result<(Peak, Vec<Box<dyn Source>>)> {
        let operations = self.workload.operations;
        let (before, client) = (self.server.usage()?, usage(std::process::id())?);
        let (outcome, sources) = self.load("closed loop", Pace::Closed { operations }, sources)?;
        let (after, client_after) = (self.server.usage()?, usage(std::process::id())?);
        let client_seconds = client_after.cpu_seconds - client.cpu_seconds;
        Ok((Peak { outcome, server: before.zip(after), client_seconds }, sources))
    }

    /// Warm-up, closed loop, open loop.
    fn requests(&mut self, rate: Option<f64>) -> Result<Figures> {
        let Workload { keys, length, clients, operations, seconds, .. } = *self.workload;
        let written = Arc::new(AtomicU64::new(0));
        let folder = FOLDER;
        if matches!(self.workload.kind, Kind::Get { .. } | Kind::Mixed) {
            self.fill()?;
        }
        let watching = match self.workload.kind {
            Kind::Guarded => Some(self.fleet.watch(Watch { folder, streams: 1, each: 1 }, self.bench.deadline)?),
            _ => None,
        };
        let sources = Self::clients(clients, |client| match self.workload.kind {
            Kind::Put => Box::new(Put { folder, keys, length }),
            Kind::Get { serializable } => Box::new(Get { folder, keys, length, serializable }),
            Kind::Mixed => Box::new(Mixed::new(folder, keys, length)),
            Kind::Guarded => Box::new(Guarded::new(folder, client as u64, OWN_KEYS, length, written.clone())),
        });
        let first = revision(&self.fleet)?;
        let begun = self.next;
        let (_, sources) =
            self.load("warming up", Pace::Closed { operations: operations.div_ceil(WARM_UP) }, sources)?;
        let (peak, sources) = self.peak(sources)?;
        let mut figures = Figures::default();
        self.note_peak(&mut figures, &peak);
        if seconds > 0.0 {
            let rate = rate.unwrap_or(peak.outcome.throughput() * self.bench.share).max(1.0);
            let operations = ((rate * seconds) as u64).max(1);
            let (open, _) = self.load("open loop", Pace::Open { rate, operations }, sources)?;
            figures.set("rate", rate);
            figures.set_latency(["p50_ms", "p99_ms", "p99_9_ms"], &open.latencies);
            figures.set_latency(["peak_p50_ms", "peak_p99_ms", "peak_p99_9_ms"], &peak.outcome.latencies);
        } else {
            figures.set_latency(["p50_ms", "p99_ms", "p99_9_ms"], &peak.outcome.latencies);
        }
        if let Some(usage) = self.server.usage()? {
            figures.set("rss_mib", usage.rss_bytes as f64 / f64::from(1 << 20));
        }
        let acknowledged = match self.workload.kind {
            Kind::Put => self.next - begun,
            Kind::Get { .. } => 0,
            Kind::Mixed => (begun..self.next).filter(|number| !Mixed::reads(*number)).count() as u64,
            Kind::Guarded => written.load(Ordering::Relaxed),
        };
        let revisions = revision(&self.fleet)?.abs_diff(first);
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

    fn note_peak(&self, figures: &mut Figures, peak: &Peak) {
        let operations = peak.outcome.answered as f64;
        figures.set("operations", operations);
        figures.set("seconds", peak.outcome.elapsed.as_secs_f64());
        figures.set("throughput", peak.outcome.throughput());
        figures.set("client_cpu_us", peak.client_seconds * 1e6 / operations);
        if let Some((before, after)) = &peak.server {
            figures.set("cpu_us", (after.cpu_seconds - before.cpu_seconds) * 1e6 / operations);
            let writes = match self.workload.kind {
                Kind::Put | Kind::Guarded => operations,
                Kind::Mixed | Kind::Get { .. } => 0.0,
            };
            let stored = writes * (KEY_LENGTH + self.workload.length) as f64;
            figures.set("written_per_stored", (after.written_bytes - before.written_bytes) as f64 / stored);
        }
    }

    /// Waits until the watchers have been told of `events` events, and fails if they are told of more.
    fn await_events(&self, watching: &Watching, events: u64) -> Result<()> {
        let end = Instant::now() + self.bench.deadline;
        while watching.seen.events() < events {
            if Instant::now() >= end || self.bench.stop.is_cancelled() {
                watching.seen.latencies().context("watching")?;
                bail!("{} of {events} events were delivered (see --deadline)", watching.seen.events());
            }
            std::thread::sleep(PAUSE);
        }
        ensure!(watching.seen.events() == events, "{} events were delivered of {events}", watching.seen.events());
        Ok(())
    }

    /// Takes the keys out of a store that goes on after the run.
    fn clean(&self) -> Result<()> {
        let (key, range_end) = range(FOLDER);
        let request = DeleteRangeRequest { key, range_end, ..DeleteRangeRequest::default() };
        self.fleet.call(Method::DeleteRange, frame(&request), self.bench.deadline)?;
        Ok(())
    }
}
