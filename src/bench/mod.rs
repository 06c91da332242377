//! Measurements against real processes, each a command that anyone can run.

mod cluster;
mod report;

use anyhow::Result;

use crate::cli::Bench;

/// Runs one benchmark and prints its result.
pub async fn run(bench: Bench) -> Result<()> {
    match bench {
        Bench::Cluster(options) => cluster::run(options).await,
    }
}
