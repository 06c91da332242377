//! The comparison, as a table for people and JSON for programs.

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Map, Value, json};

use super::figures::{Figures, ratios};
use super::workload::Workload;

/// One workload, measured.
pub struct Comparison {
    pub workload: Workload,
    /// Runs of each side, ours first.
    pub sides: Vec<Vec<Figures>>,
}

/// Everything that was measured.
pub struct Report {
    /// Name and version of each side, ours first.
    pub sides: Vec<(String, String)>,
    pub comparisons: Vec<Comparison>,
}

/// Columns of the table: heading, figure, digits behind the point.
const COLUMNS: &[(&str, &str, usize)] = &[
    ("per second", "throughput", 0),
    ("p50 ms", "p50_ms", 2),
    ("p99 ms", "p99_ms", 2),
    ("p99.9 ms", "p99_9_ms", 2),
    ("peak p99 ms", "peak_p99_ms", 2),
    ("CPU µs", "cpu_us", 1),
    ("RSS MiB", "rss_mib", 0),
    ("written/stored", "written_per_stored", 2),
    ("client CPU µs", "client_cpu_us", 1),
];

/// The ratios under a workload's rows, in the order of [`COLUMNS`].
const RATIOS: &[&str] = &[
    "throughput_ratio",
    "p50_ratio",
    "p99_ratio",
    "p99_9_ratio",
    "peak_p99_ratio",
    "cpu_ratio",
    "rss_ratio",
    "written_ratio",
    "",
];

impl Comparison {
    fn medians(&self) -> Vec<Figures> {
        self.sides.iter().map(|runs| Figures::median(runs)).collect()
    }

    /// Every ratio of the medians of two sides; none of one side.
    pub fn ratios(&self) -> Vec<(&'static str, Option<f64>)> {
        match self.medians().as_slice() {
            [ours, peer] => ratios(ours, peer),
            _ => Vec::new(),
        }
    }

    fn json(&self, sides: &[(String, String)]) -> Value {
        let mut fields = Map::new();
        fields.insert("workload".into(), self.workload.name.into());
        fields.insert("about".into(), self.workload.about.into());
        for (name, ratio) in self.ratios() {
            fields.insert(name.into(), json!(ratio));
        }
        let medians = self.medians();
        for (at, runs) in self.sides.iter().enumerate() {
            // Two kelsons are told apart by their places.
            let name = if at == 0 { &sides[0].0 } else { "peer" };
            fields.insert(name.into(), json!({ "median": medians[at], "runs": runs }));
        }
        fields.into()
    }
}

impl Report {
    /// For programs.
    pub fn json(&self) -> Value {
        let comparisons: Vec<_> = self.comparisons.iter().map(|comparison| comparison.json(&self.sides)).collect();
        let sides: Vec<_> =
            self.sides.iter().map(|(name, version)| json!({"name": name, "version": version})).collect();
        json!({ "comparisons": comparisons, "sides": sides, "cores": cores() })
    }

    /// For people: a row for each side, and below them how much better ours is.
    pub fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(["workload", "side"].into_iter().chain(COLUMNS.iter().map(|(heading, _, _)| *heading)));
        for comparison in &self.comparisons {
            for (at, median) in comparison.medians().iter().enumerate() {
                let name = if at == 0 { comparison.workload.name } else { "" };
                let figures = COLUMNS.iter().map(|(_, figure, digits)| match median.get(figure) {
                    Some(figure) => format!("{figure:.digits$}"),
                    None => String::new(),
                });
                table.add_row([name.to_owned(), self.sides[at].0.clone()].into_iter().chain(figures));
            }
            let ratios = comparison.ratios();
            if !ratios.is_empty() {
                let cells = RATIOS.iter().map(|wanted| {
                    let found = ratios.iter().find(|(name, _)| name == wanted).and_then(|(_, ratio)| *ratio);
                    found.map_or(String::new(), |ratio| format!("{ratio:.2}x"))
                });
                table.add_row([String::new(), "better".to_owned()].into_iter().chain(cells));
            }
        }
        for column in 2..COLUMNS.len() + 2 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
