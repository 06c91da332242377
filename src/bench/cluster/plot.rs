//! Pods bound over time, as a picture.

use std::fmt::Write;

use super::report::Scheduling;

/// Sizes in pixels.
const LEFT: f64 = 64.0;
const WIDTH: f64 = 560.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 56.0;
const HEIGHT: f64 = 280.0;
const BOTTOM: f64 = 44.0;
/// Marks on each axis.
const MARKS: u32 = 5;
/// The pace that the scheduler is to keep, in pods per second.
const AIM: f64 = 10_000.0;

/// The picture, as an SVG document.
pub fn svg(report: &Scheduling) -> String {
    let pods = f64::from(report.pods);
    let span = report.seconds.max(pods / AIM);
    let x = |seconds: f64| LEFT + seconds / span * WIDTH;
    let y = |bound: f64| TOP + (1.0 - bound / pods) * HEIGHT;
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
        r#"<text x="{LEFT}" y="20" font-size="14">Pods durably bound over time: {} pods, {} nodes</text>"#,
        report.pods, report.nodes
    ));
    let one = &report.single_bound;
    line(format_args!(
        r#"<text x="{LEFT}" y="40">{:.0} pods/s, {:.0} us of CPU a pod; one pod alone {:.2} ms (p50), {:.2} ms (p99)</text>"#,
        report.pods_per_second, report.cpu_us_per_pod, one.p50_ms, one.p99_ms
    ));
    for mark in 0..=MARKS {
        let share = f64::from(mark) / f64::from(MARKS);
        let (across, up) = (x(span * share), y(pods * share));
        line(format_args!(r##"<line x1="{LEFT}" y1="{up:.1}" x2="{}" y2="{up:.1}" stroke="#ddd"/>"##, LEFT + WIDTH));
        line(format_args!(
            r#"<text x="{}" y="{:.1}" text-anchor="end">{:.0}</text>"#,
            LEFT - 6.0,
            up + 4.0,
            pods * share
        ));
        let below = TOP + HEIGHT + 16.0;
        line(format_args!(r#"<text x="{across:.1}" y="{below}" text-anchor="middle">{:.2} s</text>"#, span * share));
    }
    let (to, top) = (x(pods / AIM), y(pods));
    let from = y(0.0);
    line(format_args!(
        r##"<line x1="{LEFT}" y1="{from:.1}" x2="{to:.1}" y2="{top:.1}" stroke="#999" stroke-dasharray="4 3"/>"##
    ));
    line(format_args!(r##"<text x="{to:.1}" y="{:.1}" text-anchor="end" fill="#666">{AIM}/s</text>"##, top - 4.0));
    let points: Vec<String> =
        report.curve.iter().map(|(at, bound)| format!("{:.1},{:.1}", x(*at), y((*bound as f64).min(pods)))).collect();
    line(format_args!(r##"<polyline points="{}" fill="none" stroke="#4c78a8" stroke-width="2"/>"##, points.join(" ")));
    line(format_args!("</svg>"));
    out
}
