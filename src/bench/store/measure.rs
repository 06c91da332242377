//! One run: one workload on one side.

mod catch_up;
mod growth;
mod lease;
mod list;
mod overload;
mod requests;
mod restart;
mod watch;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kelson_benches::data::{KEY_LENGTH, range};
use kelson_benches::source::Fill;
use kelson_benches::{Failures, Fleet, Load, Method, Outcome, Pace, Source, Wish, frame};
use kelson_wire::pb::etcdserverpb::DeleteRangeRequest;
use tokio_util::sync::CancellationToken;

use super::figures::Figures;
use super::server::{Server, Side};
use super::workload::{Kind, Workload};
use crate::process::{Usage, usage};

/// Where the keys of a run lie.
const FOLDER: &str = "load";
/// Clients that write the keys that a run needs.
const FILLERS: usize = 256;
/// A closed loop is preceded by one of this part of its size, which is not measured.
const WARM_UP: u64 = 10;
/// Pause between two looks at something that is behind.
const PAUSE: Duration = Duration::from_millis(2);
/// Names of the percentiles that are compared.
const LATENCY: [&str; 3] = ["p50_ms", "p99_ms", "p99_9_ms"];

/// What all runs have in common.
pub struct Bench<'a> {
    /// Where data directories are made.
    pub folder: &'a Path,
    /// Members of a server.
    pub members: usize,
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

type Sources = Vec<Box<dyn Source>>;

/// A run that is under way.
struct Run<'a> {
    bench: &'a Bench<'a>,
    workload: Workload,
    server: Server,
    fleet: Fleet,
    /// Number of the next request.
    next: u64,
}

/// Readings of the server and of this process at one moment.
struct Meter {
    server: Option<Usage>,
    client: Usage,
}

/// What was used between two readings.
struct Cost {
    /// CPU of the server, in seconds; none for an endpoint.
    cpu_seconds: Option<f64>,
    /// Bytes that it had written to disks.
    written: Option<u64>,
    /// CPU of the load generator.
    client_seconds: f64,
}

impl Cost {
    /// Notes the CPU of each of `operations`.
    fn note(&self, figures: &mut Figures, operations: f64) {
        figures.set("client_cpu_us", self.client_seconds * 1e6 / operations);
        if let Some(seconds) = self.cpu_seconds {
            figures.set("cpu_us", seconds * 1e6 / operations);
        }
    }

    /// Notes the bytes written for each byte of `puts` keys and values of `length`.
    fn note_written(&self, figures: &mut Figures, puts: u64, length: usize) {
        if let Some(written) = self.written {
            figures.set("written_per_stored", written as f64 / (puts as f64 * (KEY_LENGTH + length) as f64));
        }
    }
}

impl Bench<'_> {
    /// Runs `workload` on `side`, on an empty store. The open loop sends `rate` requests a second, or, where none is
    /// given, the share of the peak that this run finds.
    ///
    /// # Errors
    /// If the server misbehaves, a deadline passes, or the figures contradict each other.
    pub fn run(&self, workload: Workload, side: &Side, rate: Option<f64>) -> Result<Figures> {
        (self.show)("starting", 0.0);
        let short = (workload.kind == Kind::CatchUp).then(|| side.with_short_log());
        let server = short.as_ref().unwrap_or(side).start(self.members, self.folder, self.deadline)?;
        let fleet = Fleet::connect(server.url(), workload.connections, self.threads, self.deadline)?;
        let mut run = Run { bench: self, workload, server, fleet, next: 0 };
        let result = match workload.kind {
            Kind::Put | Kind::Get { .. } | Kind::Guarded | Kind::Mixed => run.requests(rate),
            Kind::List | Kind::Pages { .. } => run.list(),
            Kind::ListUnderWrites => run.list_under_writes(),
            Kind::FanOut { watchers } => run.fan_out(watchers, rate),
            Kind::WatchLatency { watchers } => run.watch_latency(watchers),
            Kind::KeepAlive => run.keep_alive(),
            Kind::Restart => run.restart(),
            Kind::Growth => run.growth(),
            Kind::Overload => run.overload(),
            Kind::CatchUp => run.catch_up(),
        };
        if !side.is_program() {
            run.clean()?;
        }
        let figures = result?;
        let Run { mut server, fleet, .. } = run;
        drop(fleet);
        (self.show)("ending", 1.0);
        server.end()?;
        Ok(figures)
    }

    fn wish(&self) -> Wish {
        if self.stop.is_cancelled() { Wish::Abort } else { Wish::Continue }
    }
}

/// `count` clients.
fn clients<S: Source + 'static>(count: usize, make: impl Fn(usize) -> S) -> Sources {
    (0..count).map(|client| Box::new(make(client)) as Box<dyn Source>).collect()
}

impl Run<'_> {
    /// A load whose every request is to be answered.
    fn usual(&self, pace: Pace) -> Load {
        Load {
            pace,
            first: self.next,
            failures: Failures::Fatal,
            timeout: None,
            drop_late: false,
            window: Duration::MAX,
            deadline: self.bench.deadline,
        }
    }

    /// Shows progress through `total` requests, and passes on that the user wants an end.
    fn tick(&self, what: &str, total: u64) -> impl FnMut(u64) -> Wish {
        move |done| {
            (self.bench.show)(what, done as f64 / total.max(1) as f64);
            self.bench.wish()
        }
    }

    /// Runs a load whose every request is to be answered.
    fn load(&mut self, what: &str, pace: Pace, sources: Sources) -> Result<(Outcome, Sources)> {
        let (load, total) = (self.usual(pace), pace.operations());
        self.next += total;
        let run = self.fleet.run(load, sources, &mut self.tick(what, total));
        let (outcome, sources) = run.with_context(|| format!("{what} (see --deadline and --scale)"))?;
        let answered = outcome.answered;
        ensure!(answered == total, "{what}: {answered} of {total} requests were answered, and none was refused");
        Ok((outcome, sources))
    }

    /// Writes keys `from..to`, each once.
    fn fill(&mut self, from: u64, to: u64) -> Result<Outcome> {
        let length = self.workload.length;
        let sources = clients(FILLERS, |_| Fill { folder: FOLDER, length });
        let next = std::mem::replace(&mut self.next, from);
        let (outcome, _) = self.load("filling", Pace::Closed { operations: to.saturating_sub(from) }, sources)?;
        self.next = next.max(to);
        Ok(outcome)
    }

    fn meter(&self) -> Result<Meter> {
        Ok(Meter { server: self.server.usage()?, client: usage(std::process::id())? })
    }

    fn cost(&self, since: &Meter) -> Result<Cost> {
        let now = self.meter()?;
        let both = since.server.zip(now.server);
        Ok(Cost {
            cpu_seconds: both.map(|(before, after)| after.cpu_seconds - before.cpu_seconds),
            written: both.map(|(before, after)| after.written_bytes - before.written_bytes),
            client_seconds: now.client.cpu_seconds - since.client.cpu_seconds,
        })
    }

    fn note_memory(&self, figures: &mut Figures) -> Result<()> {
        if let Some(usage) = self.server.usage()? {
            figures.set("rss_mib", usage.rss_bytes as f64 / f64::from(1 << 20));
        }
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

/// Notes what a closed loop found.
fn note_peak(figures: &mut Figures, outcome: &Outcome) {
    figures.set("operations", outcome.answered as f64);
    figures.set("seconds", outcome.elapsed.as_secs_f64());
    figures.set("throughput", outcome.throughput());
}
