//! Measurements against real processes, each a command that anyone can run.

mod cluster;
mod sched;
mod store;
mod svg;

use anyhow::Result;

use crate::cli::Bench;

pub use cluster::ClusterBench;
pub use sched::SchedBench;
pub use store::StoreBench;

/// Runs one benchmark and prints its result.
pub async fn run(bench: Bench) -> Result<()> {
    match bench {
        Bench::Cluster(options) => cluster::run(options).await,
        Bench::Sched(options) => tokio::task::block_in_place(|| sched::run(&options)),
        Bench::Store(options) => store::run(options).await,
    }
}
