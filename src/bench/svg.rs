//! What the pictures of all benchmarks have in common.

use std::fmt::{Arguments, Write};

/// Colours of lines and bars, told apart by most people.
pub const COLOURS: [&str; 9] =
    ["#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2", "#9d755d", "#eeca3b", "#777777"];

/// An SVG document that is being written.
pub struct Svg(String);

impl Svg {
    /// A white one, in pixels.
    pub fn new(width: f64, height: f64) -> Svg {
        let mut svg = Svg(String::new());
        svg.line(format_args!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">"#
        ));
        svg.line(format_args!(r#"<rect width="{width}" height="{height}" fill="white"/>"#));
        svg
    }

    /// One element, whose text is escaped already.
    pub fn line(&mut self, element: Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "{element}");
    }

    /// The whole document.
    pub fn finish(mut self) -> String {
        self.line(format_args!("</svg>"));
        self.0
    }
}

/// Where the axes of a picture are, in pixels.
pub struct Frame {
    pub left: f64,
    pub top: f64,
    pub width: f64,
    pub height: f64,
}

impl Frame {
    /// Names a place on the axis below.
    pub fn mark_below(&self, svg: &mut Svg, x: f64, text: Arguments<'_>) {
        let y = self.top + self.height + 16.0;
        svg.line(format_args!(r#"<text x="{x:.1}" y="{y}" text-anchor="middle">{text}</text>"#));
    }

    /// Names a place on the axis on the left, with a line across.
    pub fn mark_left(&self, svg: &mut Svg, y: f64, text: Arguments<'_>) {
        let (from, to) = (self.left, self.left + self.width);
        svg.line(format_args!(r##"<line x1="{from}" y1="{y:.1}" x2="{to}" y2="{y:.1}" stroke="#ddd"/>"##));
        svg.line(format_args!(r#"<text x="{}" y="{:.1}" text-anchor="end">{text}</text>"#, from - 6.0, y + 4.0));
    }
}

/// A line through points.
pub fn polyline(svg: &mut Svg, points: impl IntoIterator<Item = (f64, f64)>, colour: &str) {
    let points: Vec<String> = points.into_iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    svg.line(format_args!(
        r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"#,
        points.join(" ")
    ));
}

/// Text between tags.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
