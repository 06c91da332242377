//! `kelson bench cluster`: what a whole cluster costs and how fast it is.

mod plot;
mod report;
mod rollout;
mod scheduling;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

/// `kelson bench cluster`.
#[derive(Args)]
pub struct ClusterBench {
    /// What to do.
    #[arg(long, value_enum, default_value_t = Workload::Rollout, value_name = "NAME")]
    workload: Workload,
    /// Number of nodes.
    #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    nodes: u32,
    /// Number of pods.
    #[arg(long, default_value_t = 5_000, value_name = "M", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pods: u32,
    /// Seconds over which the idle cluster of a rollout is watched.
    #[arg(long, default_value_t = 10, value_name = "S", value_parser = clap::value_parser!(u32).range(1..=3_600))]
    idle: u32,
    /// Pods that are placed one after another for the latency of one.
    #[arg(long, default_value_t = 2_000, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    singles: u32,
    /// Where the data directory is made: the disk that bindings are durable on [default: the directory for temporary files].
    #[arg(long, value_name = "DIR")]
    dir: Option<std::path::PathBuf>,
    /// How to print the result.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Workload {
    /// Simulated nodes, and a Deployment from apply to every pod Running, in a process of its own.
    Rollout,
    /// The scheduler end to end with durable bindings: pods that wait when it starts, then one pod at a time.
    Scheduling,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// A picture of pods bound over time, for `scheduling`.
    Svg,
}

impl ClusterBench {
    /// A folder on the disk that is to be measured.
    fn folder(&self) -> Result<tempfile::TempDir> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("kelson-bench-");
        Ok(match &self.dir {
            Some(dir) => builder.tempdir_in(dir)?,
            None => builder.tempdir()?,
        })
    }
}

/// Runs the workload and prints what was found.
pub async fn run(options: ClusterBench) -> Result<()> {
    match (options.workload, options.output) {
        (Workload::Rollout, Format::Svg) => bail!("-o svg draws --workload scheduling alone"),
        (Workload::Rollout, Format::Json) => {
            println!("{}", serde_json::to_string_pretty(&rollout::run(&options).await?)?);
        }
        (Workload::Rollout, Format::Table) => println!("{}", rollout::run(&options).await?.table()),
        (Workload::Scheduling, Format::Json) => {
            println!("{}", serde_json::to_string_pretty(&scheduling::run(&options).await?)?);
        }
        (Workload::Scheduling, Format::Table) => println!("{}", scheduling::run(&options).await?.table()),
        (Workload::Scheduling, Format::Svg) => print!("{}", plot::svg(&scheduling::run(&options).await?)),
    }
    Ok(())
}
