//! The ratios as a picture: one group of bars for each workload, for documents.

use super::report::Report;
use crate::bench::svg::{COLOURS, Svg, escape};

/// What is drawn: ratio, its word in the legend, its colour.
const BARS: &[(&str, &str, &str)] = &[
    ("throughput_ratio", "throughput", COLOURS[0]),
    ("cpu_ratio", "CPU per operation", COLOURS[1]),
    ("p99_ratio", "p99 latency", COLOURS[2]),
    ("rss_ratio", "memory", COLOURS[3]),
];

/// Sizes in pixels.
const LABELS: f64 = 150.0;
const WIDTH: f64 = 560.0;
const RIGHT: f64 = 60.0;
const TOP: f64 = 64.0;
const BAR: f64 = 11.0;
const GAP: f64 = 12.0;
const BOTTOM: f64 = 28.0;

/// Marks of the axis, of which those within the picture are drawn.
const MARKS: &[f64] =
    &[0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0];

/// Where ratios are on a logarithmic axis: half and twice are equally far from one.
struct Axis {
    least: f64,
    most: f64,
}

impl Axis {
    /// Wide enough for all of `ratios`, and for one at least from a half to two.
    fn around(ratios: impl Iterator<Item = f64>) -> Axis {
        let (mut least, mut most) = (0.5_f64, 2.0_f64);
        for ratio in ratios.filter(|ratio| ratio.is_finite() && *ratio > 0.0) {
            (least, most) = (least.min(ratio), most.max(ratio));
        }
        Axis { least: least.max(MARKS[0]), most: most.min(1_000.0) }
    }

    fn at(&self, ratio: f64) -> f64 {
        let share = (ratio.clamp(self.least, self.most) / self.least).ln() / (self.most / self.least).ln();
        LABELS + share * WIDTH
    }
}

/// The picture of a report with two sides, as an SVG document. Bars to the right of the line at 1 are ours to boast of,
/// bars to the left of it are not.
pub fn svg(report: &Report) -> String {
    let groups: Vec<(&str, Vec<(f64, &str)>)> = report
        .comparisons
        .iter()
        .map(|comparison| {
            let ratios = comparison.ratios();
            let of = |wanted| ratios.iter().find(|(name, _)| *name == wanted).and_then(|(_, ratio)| *ratio);
            let bars = BARS.iter().filter_map(|(name, _, colour)| Some((of(*name)?, *colour))).collect();
            (comparison.workload.name, bars)
        })
        .collect();
    let axis = Axis::around(groups.iter().flat_map(|(_, bars)| bars.iter().map(|(ratio, _)| *ratio)));
    let bars: usize = groups.iter().map(|(_, bars)| bars.len()).sum();
    let bottom = TOP + bars as f64 * BAR + groups.len() as f64 * GAP;
    let (width, height) = (LABELS + WIDTH + RIGHT, bottom + BOTTOM);

    let mut svg = Svg::new(width, height);
    let sides: Vec<_> = report.sides.iter().map(|(name, version)| escape(&format!("{name} {version}"))).collect();
    svg.line(format_args!(
        r#"<text x="{LABELS}" y="18" font-size="14">{}: how many times better (log scale)</text>"#,
        sides.join(" beside ")
    ));
    for (at, (_, word, colour)) in BARS.iter().enumerate() {
        let x = LABELS + at as f64 * 135.0;
        svg.line(format_args!(r#"<rect x="{x}" y="30" width="10" height="10" fill="{colour}"/>"#));
        svg.line(format_args!(r#"<text x="{}" y="39">{word}</text>"#, x + 15.0));
    }
    for mark in MARKS.iter().filter(|mark| (axis.least..=axis.most).contains(*mark)) {
        let (x, one) = (axis.at(*mark), *mark == 1.0);
        let (colour, thick) = if one { ("#333", 1.5) } else { ("#ddd", 1.0) };
        svg.line(format_args!(
            r#"<line x1="{x:.1}" y1="{}" x2="{x:.1}" y2="{bottom}" stroke="{colour}" stroke-width="{thick}"/>"#,
            TOP - 8.0
        ));
        svg.line(format_args!(r#"<text x="{x:.1}" y="{}" text-anchor="middle">{mark}x</text>"#, bottom + 16.0));
    }
    let mut y = TOP;
    for (name, bars) in &groups {
        let middle = y + bars.len() as f64 * BAR / 2.0 + 4.0;
        svg.line(format_args!(
            r#"<text x="{}" y="{middle:.1}" text-anchor="end">{}</text>"#,
            LABELS - 10.0,
            escape(name)
        ));
        for (ratio, colour) in bars {
            let (one, end) = (axis.at(1.0), axis.at(*ratio));
            let (left, long) = (one.min(end), (one - end).abs().max(1.0));
            svg.line(format_args!(
                r#"<rect x="{left:.1}" y="{y:.1}" width="{long:.1}" height="{}" fill="{colour}"/>"#,
                BAR - 2.0
            ));
            svg.line(format_args!(
                r#"<text x="{:.1}" y="{:.1}" font-size="9">{ratio:.2}</text>"#,
                one.max(end) + 4.0,
                y + 8.0
            ));
            y += BAR;
        }
        y += GAP;
    }
    svg.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::store::figures::Figures;
    use crate::bench::store::report::Comparison;
    use crate::bench::store::workload::WORKLOADS;

    fn report(throughput: [f64; 2]) -> Report {
        let side = |figure| {
            let mut figures = Figures::default();
            figures.set("throughput", figure);
            vec![figures]
        };
        let sides = throughput.map(side).to_vec();
        let names = vec![("kelson".into(), "1".into()), ("<etcd>".into(), "2".into())];
        Report { sides: names, comparisons: vec![Comparison { workload: WORKLOADS[0], sides }] }
    }

    /// Left edge and width of each bar.
    fn bars(svg: &str) -> Vec<(f64, f64)> {
        let field = |line: &str, name: &str| {
            let (_, rest) = line.split_once(&format!(" {name}=\"")).unwrap();
            rest.split('"').next().unwrap().parse::<f64>().unwrap()
        };
        let bars = svg.lines().filter(|line| line.contains("height=\"9\""));
        bars.map(|line| (field(line, "x"), field(line, "width"))).collect()
    }

    #[test]
    fn what_is_worse_is_drawn_to_the_left_and_as_far() {
        let (better, worse) = (svg(&report([40.0, 10.0])), svg(&report([10.0, 40.0])));
        let ([right], [left]) = (&*bars(&better), &*bars(&worse)) else { panic!("one bar each") };
        let one = |svg: &str| bars(svg)[0].0;
        assert!((right.1 - left.1).abs() < 0.2, "four times is as far as a quarter");
        assert!(right.1 > 100.0 && left.0 + left.1 < LABELS + WIDTH && one(&better) >= LABELS);
        assert!(better.contains(">4.00<") && worse.contains(">0.25<"));
    }

    #[test]
    fn names_are_escaped_and_every_extreme_has_a_place() {
        for throughput in [[1e9, 1.0], [1.0, 1e9], [1.0, 1.0], [0.0, 5.0]] {
            let svg = svg(&report(throughput));
            assert!(svg.contains("&lt;etcd&gt;") && !svg.contains("<etcd>"));
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
            for (x, width) in bars(&svg) {
                assert!(x >= LABELS && x + width <= LABELS + WIDTH + 1.0, "{throughput:?}: {x} {width}");
            }
        }
    }
}
