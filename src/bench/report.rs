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

/// Result of `kelson bench cluster`. CPU and memory are those of the whole control plane's process.
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
        let mib = |bytes: u64| format!("{:.0} MiB", bytes as f64 / (1 << 20) as f64);
        let latency =
            |of: &Percentiles| format!("{:.0} / {:.0} / {:.0} / {:.0} ms", of.p50_ms, of.p90_ms, of.p99_ms, of.max_ms);
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(["kelson bench cluster", &format!("{} nodes, {} pods", self.nodes, self.pods)]);
        for (what, figure) in [
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
        ] {
            table.add_row([what.to_string(), figure]);
        }
        if let Some(figures) = table.column_mut(1) {
            figures.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}
