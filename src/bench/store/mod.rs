//! `kelson bench store`: the store beside an etcd, on the same work in one run.
//!
//! Both are processes, started with the same flags on empty directories, in turns, and driven by one load generator
//! (`kelson-benches`). What is reported of them is the kernel's accounting of each process, so that the load generator
//! is in the throughput (it shares the cores) but not in the CPU of an operation.

mod figures;
mod measure;
mod plot;
mod report;
mod server;
mod workload;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use tokio_util::sync::CancellationToken;

use self::figures::Figures;
use self::measure::Bench;
use self::report::{Comparison, Report, cores};
use self::server::Side;
use self::workload::{WORKLOADS, Workload};

/// Share of the full sizes that `--quick` takes.
const QUICK: f64 = 0.1;
/// Alternations of a comparison that is not quick.
const ALTERNATIONS: u32 = 3;

/// Options of `kelson bench store`.
#[derive(Args)]
pub struct StoreBench {
    /// An etcd to compare with, or another kelson; without it, our side alone is measured.
    #[arg(long, value_name = "BINARY", conflicts_with = "endpoint")]
    pub peer: Option<PathBuf>,
    /// Drive a server that runs already, in place of one that is started here; its keys under /registry/bench/ are removed.
    #[arg(long, value_name = "URL", conflicts_with = "server")]
    pub endpoint: Option<String>,
    /// The kelson to measure [default: this program].
    #[arg(long, value_name = "BINARY")]
    pub server: Option<PathBuf>,
    /// What to run, separated by commas [default: everything].
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = workload_names())]
    pub workload: Vec<String>,
    /// A tenth of every size, and one alternation: about two minutes.
    #[arg(long, conflicts_with = "scale")]
    pub quick: bool,
    /// Share of every size.
    #[arg(long, default_value_t = 1.0, value_name = "S", value_parser = scale)]
    pub scale: f64,
    /// Keys of restart and the most keys of put-growth [default: 1,000,000 times the scale].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    pub keys: Option<u64>,
    /// Members of each server, all on this machine; clients go to the one that leads, and CPU and memory are those of all.
    #[arg(long, default_value_t = 1, value_name = "N", conflicts_with = "endpoint", value_parser = clap::value_parser!(u8).range(1..=7))]
    pub members: u8,
    /// How often the sides take turns [default: 3, with --quick 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub alternations: Option<u32>,
    /// Share of the peak that the open loop sends: of the peer's peak, where there is a peer.
    #[arg(long, default_value_t = 0.5, value_name = "SHARE", value_parser = share)]
    pub rate: f64,
    /// Seconds that each phase of a run may take.
    #[arg(long, default_value_t = 300, value_name = "S", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub deadline: u32,
    /// Where data directories are made: on the disk to be measured [default: the directory for temporary files].
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// How to print the result.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

/// How to print the result.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// A picture of the ratios, for documents; needs a peer.
    Svg,
}

fn workload_names() -> clap::builder::PossibleValuesParser {
    WORKLOADS.iter().map(|row| clap::builder::PossibleValue::new(row.name).help(row.about)).collect::<Vec<_>>().into()
}

fn bounded(text: &str, least: f64, most: f64) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("{text} is not a number from {least} to {most}")),
    }
}

fn scale(text: &str) -> Result<f64, String> {
    bounded(text, 0.001, 100.0)
}

fn share(text: &str) -> Result<f64, String> {
    bounded(text, 0.01, 1.0)
}

/// Runs the comparison and prints it.
///
/// # Errors
/// If a server cannot be started, misbehaves, or does not keep a deadline; nothing is printed then.
pub async fn run(options: StoreBench) -> Result<()> {
    let stop = crate::shutdown::token().context("listening for signals")?;
    // The load generator blocks; its connections have threads of their own.
    tokio::task::spawn_blocking(move || compare(&options, stop)).await?
}

fn sides(options: &StoreBench) -> Result<Vec<Side>> {
    let ours = match (&options.endpoint, &options.server) {
        (Some(url), _) => Side::endpoint(url),
        (None, Some(program)) => Side::program(program).context("--server")?,
        (None, None) => Side::program(&std::env::current_exe().context("this program's path")?)?,
    };
    let peer = options.peer.as_deref().map(|program| Side::program(program).context("--peer")).transpose()?;
    Ok([Some(ours), peer].into_iter().flatten().collect())
}

fn compare(options: &StoreBench, stop: CancellationToken) -> Result<()> {
    if options.output == Format::Svg && options.peer.is_none() {
        bail!("--output svg draws ratios: it needs --peer");
    }
    let sides = sides(options)?;
    let (scale, usual) = if options.quick { (QUICK, 1) } else { (options.scale, ALTERNATIONS) };
    let alternations = options.alternations.unwrap_or(usual);
    let chosen = |row: &&Workload| options.workload.is_empty() || options.workload.iter().any(|name| name == row.name);
    let mut workloads: Vec<_> = WORKLOADS.iter().filter(chosen).copied().collect();
    if options.endpoint.is_some() {
        if let Some(row) = workloads.iter().find(|row| !row.suits_endpoint() && !options.workload.is_empty()) {
            bail!("{} restarts its server, which --endpoint leaves to others: leave it out of --workload", row.name);
        }
        workloads.retain(Workload::suits_endpoint);
    }
    if let Some(row) = workloads.iter().find(|row| !row.suits_members(options.members) && !options.workload.is_empty())
    {
        bail!("{} is about a cluster: it needs --members 3 or more", row.name);
    }
    workloads.retain(|row| row.suits_members(options.members));
    let workloads: Vec<_> = workloads.into_iter().map(|row| row.scaled(scale).with_keys(options.keys)).collect();
    let folder = options.dir.clone().unwrap_or_else(std::env::temp_dir);

    let runs = workloads.len() as u64 * u64::from(alternations) * sides.len() as u64;
    let bar = Bar::new(runs);
    let mut comparisons = Vec::with_capacity(workloads.len());
    for workload in workloads {
        let mut found = vec![Vec::new(); sides.len()];
        let mut rate = None;
        for alternation in 1..=alternations {
            // The peer first, so that both open loops can be at a rate that is known to be in its reach.
            for (side, runs) in sides.iter().zip(&mut found).rev() {
                let what = format!("{} · {} · {alternation}/{alternations}", workload.name, side.name);
                let bench = Bench {
                    folder: &folder,
                    members: options.members.into(),
                    deadline: Duration::from_secs(options.deadline.into()),
                    share: options.rate,
                    threads: (cores() / 2).max(1),
                    stop: stop.clone(),
                    show: &|phase, done| bar.show(&what, phase, done),
                };
                let figures = bench.run(workload, side, rate).with_context(|| what.clone())?;
                if stop.is_cancelled() {
                    bail!("interrupted");
                }
                rate = rate.or(figures.get("rate"));
                bar.done(&what, &figures);
                runs.push(figures);
            }
        }
        comparisons.push(Comparison { workload, sides: found });
    }
    bar.finish();
    let sides = sides.iter().map(|side| (side.name.clone(), side.version.clone())).collect();
    let report = Report { sides, comparisons };
    match options.output {
        Format::Json => println!("{}", serde_json::to_string_pretty(&report.json())?),
        Format::Svg => print!("{}", plot::svg(&report)),
        Format::Table => println!("{}", report.table()),
    }
    Ok(())
}

/// Thousandths of a run on the bar.
const STEPS: u64 = 1_000;

/// What is under way: a bar on a terminal, a line for each run elsewhere.
struct Bar {
    bar: ProgressBar,
    terminal: bool,
}

impl Bar {
    fn new(runs: u64) -> Bar {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(runs * STEPS), target);
        if let Ok(style) = ProgressStyle::with_template("{bar:30.cyan/blue} {percent:>3}% {elapsed} {msg}") {
            bar.set_style(style.progress_chars("━╸─"));
        }
        if terminal {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        Bar { bar, terminal }
    }

    fn show(&self, what: &str, phase: &str, done: f64) {
        let run = self.bar.position() / STEPS * STEPS;
        // A run has several phases; the bar shows the end of one only when the run is over.
        self.bar.set_position(run + (done.clamp(0.0, 0.999) * STEPS as f64) as u64);
        self.bar.set_message(format!("{what} · {phase}"));
    }

    fn done(&self, what: &str, figures: &Figures) {
        let run = self.bar.position() / STEPS;
        self.bar.set_position((run + 1) * STEPS);
        if !self.terminal {
            let of = |name| figures.get(name).map_or("-".to_owned(), |figure| format!("{figure:.1}"));
            eprintln!("{what}: {}/s, CPU {} µs, p99 {} ms", of("throughput"), of("cpu_us"), of("p99_ms"));
        }
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
