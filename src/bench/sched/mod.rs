//! `kelson bench sched`: the scheduler core alone, on kube-scheduler's own workloads.
//!
//! Nodes and pods are those of kube-scheduler's `scheduler_perf`: 4 CPUs, 32 GiB and 110 pods a node, 100m and 500 MiB a
//! pod, the same constraints, the same share of pods that are there already. What is measured is deciding: from pods that
//! are ready to the nodes that they are claimed on.

mod plot;
mod report;
mod workload;

use std::time::Instant;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;

use report::{Report, Row};
use workload::{Scene, Workload};

use crate::memory;
use crate::process::peak_memory;

/// Pods that are placed one at a time for the latency.
const SINGLES: usize = 2_000;

/// `kelson bench sched`.
#[derive(Args)]
pub struct SchedBench {
    /// What to place; several separated by commas, `all` for everything.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "basic", value_name = "NAMES")]
    workload: Vec<Workload>,
    /// Numbers of nodes, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "5000", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=2_000_000))]
    nodes: Vec<u32>,
    /// Pods to place [default: as many for the number of nodes as kube-scheduler's benchmark has].
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pods: Option<u32>,
    /// Numbers of worker threads, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "1", value_name = "T", value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: Vec<u16>,
    /// Runs of each, after one that is not measured; the median is reported.
    #[arg(long, default_value_t = 1, value_name = "R", value_parser = clap::value_parser!(u16).range(1..=99))]
    runs: u16,
    /// How to print the result.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// A picture of the time per pod over the number of nodes.
    Svg,
}

/// Runs what was asked for and prints it.
pub fn run(options: &SchedBench) -> Result<()> {
    memory::keep_what_is_freed();
    let mut report = Report::default();
    for workload in workload::chosen(&options.workload) {
        for &nodes in &options.nodes {
            let pods = options.pods.map_or_else(|| workload.pods(nodes as usize), |pods| pods as usize);
            for &threads in &options.threads {
                let mut rows = Vec::new();
                Scene::new(workload, nodes as usize, pods, usize::from(threads), 0)?.act();
                for run in 0..options.runs {
                    rows.push(measure(workload, nodes as usize, pods, usize::from(threads), u64::from(run))?);
                }
                rows.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
                report.rows.push(rows.swap_remove(rows.len() / 2));
            }
        }
    }
    match options.output {
        Format::Table => println!("{}", report.table()),
        Format::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Format::Svg => print!("{}", plot::svg(&report)),
    }
    Ok(())
}

fn measure(workload: Workload, nodes: usize, pods: usize, threads: usize, seed: u64) -> Result<Row> {
    let began = Instant::now();
    let mut scene = Scene::new(workload, nodes, pods, threads, seed)?;
    let setup_seconds = began.elapsed().as_secs_f64();
    let began = Instant::now();
    let placed = scene.act();
    let seconds = began.elapsed().as_secs_f64();
    if placed != pods {
        bail!("{}: {placed} of {pods} pods were placed on {nodes} nodes", workload.name());
    }
    // Up to a minute.
    let mut latency = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3)?;
    for _ in 0..workload.singles(nodes, SINGLES.min(pods)) {
        let began = Instant::now();
        scene.place_one()?;
        latency.saturating_record(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
        scene.take_one_back();
    }
    let at = |quantile| latency.value_at_quantile(quantile) as f64 / 1e3;
    Ok(Row {
        workload: workload.name(),
        nodes,
        pods,
        threads,
        seconds,
        setup_seconds,
        pods_per_second: pods as f64 / seconds,
        us_per_pod: seconds * 1e6 / pods as f64,
        single_p50_us: at(0.5),
        single_p99_us: at(0.99),
        single_max_us: latency.max() as f64 / 1e3,
        times_kube_scheduler_floor: workload.floor().map(|floor| pods as f64 / seconds / floor),
        peak_rss_bytes: peak_memory(),
    })
}
