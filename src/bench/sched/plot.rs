//! The time per pod over the number of nodes, as a picture: both axes logarithmic, one line per workload and threads.

use super::report::{Report, Row};
use crate::bench::svg::{COLOURS, Frame, Svg, polyline};

/// Sizes in pixels.
const FRAME: Frame = Frame { left: 64.0, top: 40.0, width: 520.0, height: 300.0 };
const RIGHT: f64 = 190.0;
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
    let Frame { left, top, width, height } = FRAME;
    let nodes = Axis::over(report.rows.iter().map(|row| row.nodes as f64));
    let times = Axis::over(report.rows.iter().map(|row| row.us_per_pod));
    let x = |value: f64| left + nodes.at(value) * width;
    let y = |value: f64| top + (1.0 - times.at(value)) * height;
    let mut svg = Svg::new(left + width + RIGHT, top + height + BOTTOM);
    svg.line(format_args!(
        r#"<text x="{left}" y="20" font-size="14">Scheduler core: microseconds per pod over nodes</text>"#
    ));
    for mark in nodes.marks() {
        let (at, bottom) = (x(mark), top + height);
        svg.line(format_args!(r##"<line x1="{at:.1}" y1="{top}" x2="{at:.1}" y2="{bottom}" stroke="#ddd"/>"##));
        FRAME.mark_below(&mut svg, at, format_args!("{mark}"));
    }
    times.marks().for_each(|mark| FRAME.mark_left(&mut svg, y(mark), format_args!("{mark}")));
    for (at, rows) in lines(report).into_iter().enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        polyline(&mut svg, rows.iter().map(|row| (x(row.nodes as f64), y(row.us_per_pod))), colour);
        for row in &rows {
            let (cx, cy) = (x(row.nodes as f64), y(row.us_per_pod));
            svg.line(format_args!(r#"<circle cx="{cx:.1}" cy="{cy:.1}" r="3" fill="{colour}"/>"#));
            let above = cy - 6.0;
            svg.line(format_args!(r#"<text x="{cx:.1}" y="{above:.1}" font-size="9">{:.2}</text>"#, row.us_per_pod));
        }
        let (legend, down) = (left + width + 16.0, top + 10.0 + at as f64 * 18.0);
        let threads = if rows[0].threads == 1 { String::new() } else { format!(", {} threads", rows[0].threads) };
        svg.line(format_args!(r#"<rect x="{legend}" y="{}" width="10" height="10" fill="{colour}"/>"#, down - 9.0));
        svg.line(format_args!(r#"<text x="{}" y="{down}">{}{threads}</text>"#, legend + 16.0, rows[0].workload));
    }
    svg.finish()
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
