//! What a benchmark found, as a table for people and JSON for programs.

use comfy_table::{CellAlignment, Table, presets};
use hdrhistogram::Histogram;
use serde::Serialize;

/// Latencies in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Percentiles {
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

impl Percentiles {
    /// Of a histogram in microseconds.
    pub fn of(histogram: &Histogram<u64>) -> Percentiles {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Percentiles { p50_ms: at(0.5), p90_ms: at(0.9), p99_ms: at(0.99), max_ms: histogram.max() as f64 / 1e3 }
    }
}

/// The scheduler end to end. CPU and memory are those of this process: store, API server, scheduler, and what little
/// the benchmark itself does.
#[derive(Debug, Serialize)]
pub struct Scheduling {
    pub nodes: u32,
    pub pods: u32,
    /// From when the scheduler has read the cluster to the answer to the last binding.
    pub seconds: f64,
    pub pods_per_second: f64,
    pub cpu_us_per_pod: f64,
    /// What came before: pods created in a second, and the CPU of each.
    pub created_per_second: f64,
    pub cpu_us_per_creation: f64,
    /// From the answer to a pod's creation until a watcher sees it bound.
    pub single_bound: Percentiles,
    pub peak_rss_bytes: u64,
    /// Seconds, and pods bound by then.
    #[serde(skip)]
    pub curve: Vec<(f64, u64)>,
}

impl Scheduling {
    /// Two columns, for a person.
    pub fn table(&self) -> Table {
        let one = &self.single_bound;
        table(
            &format!("{} nodes, {} pods", self.nodes, self.pods),
            [
                ("all bound after", format!("{:.3} s", self.seconds)),
                ("pods bound per second", format!("{:.0}", self.pods_per_second)),
                ("CPU time per pod bound", format!("{:.0} us", self.cpu_us_per_pod)),
                ("pods created per second", format!("{:.0}", self.created_per_second)),
                ("CPU time per pod created", format!("{:.0} us", self.cpu_us_per_creation)),
                (
                    "one pod, created to bound, p50/p90/p99/max",
                    format!("{:.2} / {:.2} / {:.2} / {:.2} ms", one.p50_ms, one.p90_ms, one.p99_ms, one.max_ms),
                ),
                ("memory, at most (RSS)", mib(self.peak_rss_bytes)),
            ],
        )
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.0} MiB", bytes as f64 / (1 << 20) as f64)
}

fn table<const N: usize>(size: &str, rows: [(&str, String); N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["kelson bench cluster", size]);
    for (what, figure) in rows {
        table.add_row([what.to_string(), figure]);
    }
    if let Some(figures) = table.column_mut(1) {
        figures.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Result of a rollout. CPU and memory are those of the whole control plane's process.
#[derive(Debug, Serialize)]
pub struct Report {
    pub nodes: u32,
    pub pods: u32,
    pub ready_seconds: f64,
    pub ready_cpu_seconds: f64,
    pub idle_cores: f64,
    pub idle_rss_bytes: u64,
    pub rollout_seconds: f64,
    pub pods_per_second: f64,
    pub create_to_bound: Percentiles,
    pub create_to_running: Percentiles,
    pub rollout_cpu_seconds: f64,
    pub cpu_milliseconds_per_pod: f64,
    pub loaded_rss_bytes: u64,
    pub list_cpu_seconds: f64,
}

impl Report {
    /// Two columns, for a person.
    pub fn table(&self) -> Table {
        let latency =
            |of: &Percentiles| format!("{:.0} / {:.0} / {:.0} / {:.0} ms", of.p50_ms, of.p90_ms, of.p99_ms, of.max_ms);
        table(
            &format!("{} nodes, {} pods", self.nodes, self.pods),
            [
                ("every node Ready after", format!("{:.1} s", self.ready_seconds)),
                ("… for CPU time of", format!("{:.1} s", self.ready_cpu_seconds)),
                ("idle CPU", format!("{:.3} cores", self.idle_cores)),
                ("idle memory (RSS)", mib(self.idle_rss_bytes)),
                ("apply to all Running", format!("{:.1} s", self.rollout_seconds)),
                ("pods per second", format!("{:.0}", self.pods_per_second)),
                ("created to bound, p50/p90/p99/max", latency(&self.create_to_bound)),
                ("created to Running, p50/p90/p99/max", latency(&self.create_to_running)),
                ("CPU time per pod", format!("{:.2} ms", self.cpu_milliseconds_per_pod)),
                ("memory with the pods Running (RSS)", mib(self.loaded_rss_bytes)),
                ("CPU of one list of all pods as a table", format!("{:.2} s", self.list_cpu_seconds)),
            ],
        )
    }
}
