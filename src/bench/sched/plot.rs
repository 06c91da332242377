//! The time per pod over the number of nodes, as a picture: both axes logarithmic, one line per workload and threads.

use std::fmt::Write;

use super::report::{Report, Row};

const COLOURS: [&str; 9] =
    ["#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2", "#9d755d", "#eeca3b", "#777777"];

/// Sizes in pixels.
const LEFT: f64 = 64.0;
const WIDTH: f64 = 520.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 40.0;
const HEIGHT: f64 = 300.0;
const BOTTOM: f64 = 44.0;

/// A logarithmic axis between powers of ten.
struct Axis {
    from: f64,
    to: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64> + Clone) -> Axis {
        let least = values.clone().fold(f64::INFINITY, f64::min).max(1e-3);
        let most = values.fold(least, f64::max);
        let (from, to) = (least.log10().floor(), most.log10().ceil());
        Axis { from, to: if to > from { to } else { from + 1.0 } }
    }

    /// 0 to 1.
    fn at(&self, value: f64) -> f64 {
        (value.log10() - self.from) / (self.to - self.from)
    }

    fn marks(&self) -> impl Iterator<Item = f64> {
        (self.from as i32..=self.to as i32).map(|power| 10f64.powi(power))
    }
}

/// The picture, as an SVG document.
pub fn svg(report: &Report) -> String {
    let nodes = Axis::over(report.rows.iter().map(|row| row.nodes as f64));
    let times = Axis::over(report.rows.iter().map(|row| row.us_per_pod));
    let x = |value: f64| LEFT + nodes.at(value) * WIDTH;
    let y = |value: f64| TOP + (1.0 - times.at(value)) * HEIGHT;
    let mut out = String::new();
    let mut line = |text: std::fmt::Arguments<'_>| {
        // Writing to a string does not fail.
        let _ = writeln!(out, "{text}");
    };
    let (width, height) = (LEFT + WIDTH + RIGHT, TOP + HEIGHT + BOTTOM);
    line(format_args!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">"#
    ));
    line(format_args!(r#"<rect width="{width}" height="{height}" fill="white"/>"#));
    line(format_args!(
        r#"<text x="{LEFT}" y="20" font-size="14">Scheduler core: microseconds per pod over nodes</text>"#
    ));
    for mark in nodes.marks() {
        let at = x(mark);
        line(format_args!(r##"<line x1="{at:.1}" y1="{TOP}" x2="{at:.1}" y2="{}" stroke="#ddd"/>"##, TOP + HEIGHT));
        line(format_args!(r#"<text x="{at:.1}" y="{}" text-anchor="middle">{mark}</text>"#, TOP + HEIGHT + 16.0));
    }
    for mark in times.marks() {
        let at = y(mark);
        line(format_args!(r##"<line x1="{LEFT}" y1="{at:.1}" x2="{}" y2="{at:.1}" stroke="#ddd"/>"##, LEFT + WIDTH));
        line(format_args!(r#"<text x="{}" y="{:.1}" text-anchor="end">{mark}</text>"#, LEFT - 6.0, at + 4.0));
    }
    for (at, rows) in lines(report).into_iter().enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        let points: Vec<String> =
            rows.iter().map(|row| format!("{:.1},{:.1}", x(row.nodes as f64), y(row.us_per_pod))).collect();
        line(format_args!(
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"#,
            points.join(" ")
        ));
        for row in &rows {
            let (cx, cy) = (x(row.nodes as f64), y(row.us_per_pod));
            line(format_args!(r#"<circle cx="{cx:.1}" cy="{cy:.1}" r="3" fill="{colour}"/>"#));
            line(format_args!(r#"<text x="{cx:.1}" y="{:.1}" font-size="9">{:.2}</text>"#, cy - 6.0, row.us_per_pod));
        }
        let (legend, down) = (LEFT + WIDTH + 16.0, TOP + 10.0 + at as f64 * 18.0);
        let threads = if rows[0].threads == 1 { String::new() } else { format!(", {} threads", rows[0].threads) };
        line(format_args!(r#"<rect x="{legend}" y="{}" width="10" height="10" fill="{colour}"/>"#, down - 9.0));
        line(format_args!(r#"<text x="{}" y="{down}">{}{threads}</text>"#, legend + 16.0, rows[0].workload));
    }
    line(format_args!("</svg>"));
    out
}

/// Rows of one workload and number of threads, in order of nodes.
fn lines(report: &Report) -> Vec<Vec<&Row>> {
    let mut lines: Vec<Vec<&Row>> = Vec::new();
    for row in &report.rows {
        match lines.iter_mut().find(|line| (line[0].workload, line[0].threads) == (row.workload, row.threads)) {
            Some(line) => line.push(row),
            None => lines.push(vec![row]),
        }
    }
    lines.iter_mut().for_each(|line| line.sort_by_key(|row| row.nodes));
    lines
}
