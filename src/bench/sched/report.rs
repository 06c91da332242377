//! What was measured, as a table and as JSON.

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

/// One workload at one size.
#[derive(Debug, Serialize)]
pub struct Row {
    pub workload: &'static str,
    pub nodes: usize,
    pub pods: usize,
    pub threads: usize,
    pub seconds: f64,
    pub setup_seconds: f64,
    pub pods_per_second: f64,
    pub us_per_pod: f64,
    /// One pod alone, of a class that is known, through a scheduler that does nothing else.
    pub single_p50_us: f64,
    pub single_p99_us: f64,
    pub single_max_us: f64,
    /// By what its own benchmark demands of kube-scheduler at 5,000 nodes.
    pub times_kube_scheduler_floor: Option<f64>,
    /// Of the process since it started: larger runs before this one count.
    pub peak_rss_bytes: u64,
}

/// All of them.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub rows: Vec<Row>,
}

impl Report {
    /// For people.
    pub fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header([
            "workload",
            "nodes",
            "pods",
            "threads",
            "pods/s",
            "us per pod",
            "x floor",
            "one pod p50",
            "p99",
            "max",
            "peak RSS",
        ]);
        for row in &self.rows {
            table.add_row([
                row.workload.to_string(),
                row.nodes.to_string(),
                row.pods.to_string(),
                row.threads.to_string(),
                format!("{:.0}", row.pods_per_second),
                format!("{:.2}", row.us_per_pod),
                row.times_kube_scheduler_floor.map_or(String::new(), |times| format!("{times:.0}")),
                format!("{:.1} us", row.single_p50_us),
                format!("{:.1} us", row.single_p99_us),
                format!("{:.0} us", row.single_max_us),
                format!("{:.0} MiB", row.peak_rss_bytes as f64 / f64::from(1 << 20)),
            ]);
        }
        for figures in table.column_iter_mut().skip(1) {
            figures.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}
