//! `kelson snapshot status`.

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use serde_json::json;

use super::file::{self, Sum};
use crate::cli::Output;
use crate::progress::Progress;

/// Prints the five figures, as `etcdutl snapshot status` does.
pub fn run(options: &super::Status) -> Result<()> {
    let db = file::open(&options.file, Sum::Welcome)?;
    let mut progress = Progress::bytes("reading", db.size());
    let status = db.status(|read| progress.set(read))?;
    progress.finish();
    let kelson_bolt::Status { hash, revision, total_keys, total_size, version } = status;
    match options.output {
        // In etcdutl's order and names; serde_json's own map would sort them.
        Output::Json => println!(
            "{{\"hash\":{hash},\"revision\":{revision},\"totalKey\":{total_keys},\"totalSize\":{total_size},\"version\":{}}}",
            json!(version)
        ),
        Output::Table => {
            let mut table = Table::new();
            table.load_preset(UTF8_FULL_CONDENSED);
            table.set_header(["HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE", "VERSION"]);
            let row = [format!("{hash:x}"), revision.to_string(), total_keys.to_string(), size(total_size), version];
            table.add_row(row);
            table.column_iter_mut().for_each(|column| column.set_cell_alignment(CellAlignment::Right));
            println!("{table}");
        }
    }
    Ok(())
}

/// Bytes as etcdutl prints them: powers of a thousand, two digits at least.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let value = (value * 10.0 + 0.5).floor() / 10.0;
    if value < 10.0 { format!("{value:.1} {}", UNITS[unit]) } else { format!("{value:.0} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_are_etcdutls() {
        // Expected values are those of etcd's library (github.com/dustin/go-humanize), from its documentation.
        for (bytes, text) in
            [(9, "9 B"), (20_480, "20 kB"), (24_576, "25 kB"), (1_500_000, "1.5 MB"), (82_854_982, "83 MB")]
        {
            assert_eq!(super::size(bytes), text);
        }
    }
}
