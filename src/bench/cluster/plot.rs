//! Pods bound over time, as a picture.

use super::report::Scheduling;
use crate::bench::svg::{COLOURS, Frame, Svg, polyline};

/// Sizes in pixels.
const FRAME: Frame = Frame { left: 64.0, top: 56.0, width: 560.0, height: 280.0 };
const RIGHT: f64 = 24.0;
const BOTTOM: f64 = 44.0;
/// Marks on each axis.
const MARKS: u32 = 5;
/// The pace that the scheduler is to keep, in pods per second.
const AIM: f64 = 10_000.0;

/// The picture, as an SVG document.
pub fn svg(report: &Scheduling) -> String {
    let Frame { left, top, width, height } = FRAME;
    let pods = f64::from(report.pods);
    let span = report.seconds.max(pods / AIM);
    let x = |seconds: f64| left + seconds / span * width;
    let y = |bound: f64| top + (1.0 - bound / pods) * height;
    let mut svg = Svg::new(left + width + RIGHT, top + height + BOTTOM);
    svg.line(format_args!(
        r#"<text x="{left}" y="20" font-size="14">Pods durably bound over time: {} pods, {} nodes</text>"#,
        report.pods, report.nodes
    ));
    let one = &report.single_bound;
    svg.line(format_args!(
        r#"<text x="{left}" y="40">{:.0} pods/s, {:.0} us of CPU a pod; one pod alone {:.2} ms (p50), {:.2} ms (p99)</text>"#,
        report.pods_per_second, report.cpu_us_per_pod, one.p50_ms, one.p99_ms
    ));
    for mark in 0..=MARKS {
        let share = f64::from(mark) / f64::from(MARKS);
        FRAME.mark_left(&mut svg, y(pods * share), format_args!("{:.0}", pods * share));
        FRAME.mark_below(&mut svg, x(span * share), format_args!("{:.2} s", span * share));
    }
    let (to, high, low) = (x(pods / AIM), y(pods), y(0.0));
    svg.line(format_args!(
        r##"<line x1="{left}" y1="{low:.1}" x2="{to:.1}" y2="{high:.1}" stroke="#999" stroke-dasharray="4 3"/>"##
    ));
    svg.line(format_args!(r##"<text x="{to:.1}" y="{:.1}" text-anchor="end" fill="#666">{AIM}/s</text>"##, high - 4.0));
    let curve = report.curve.iter().map(|(at, bound)| (x(*at), y((*bound as f64).min(pods))));
    polyline(&mut svg, curve, COLOURS[0]);
    svg.finish()
}
