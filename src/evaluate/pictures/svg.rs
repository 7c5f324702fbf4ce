//! The frame of every picture, and the colours.

use std::fmt::Write;

/// Eight colours that stay apart for the colour-blind (after Okabe and Ito 2008), legible on white and on black.
pub(super) const COLOURS: [&str; 8] =
    ["#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f"];

/// Text and lines by the reader's preference.
const STYLE: &str = "<style>text{font-family:system-ui,sans-serif;font-size:12px;fill:#222}.t{font-size:14px;font-weight:600}\
    .a{stroke:#888;stroke-width:1;fill:none}.g{stroke:#8884;stroke-width:1;fill:none}.b{fill:#fff}\
    @media(prefers-color-scheme:dark){text{fill:#ddd}.b{fill:#16181d}}</style>";

/// A picture that is being drawn.
pub(super) struct Canvas {
    body: String,
    width: f64,
    height: f64,
}

impl Canvas {
    pub(super) fn new(width: f64, height: f64, title: &str) -> Self {
        // Wide enough for its title: about eight pixels a letter.
        let width = width.max(24.0 + 8.0 * title.chars().count() as f64);
        let mut canvas = Self { body: String::new(), width, height };
        canvas.text(12.0, 20.0, "start", title, "class=\"t\"");
        canvas
    }

    pub(super) fn raw(&mut self, markup: &str) {
        self.body.push_str(markup);
        self.body.push('\n');
    }

    /// `anchor`: start, middle or end.
    pub(super) fn text(&mut self, x: f64, y: f64, anchor: &str, text: &str, attributes: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(
            self.body,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {attributes}>{}</text>",
            escaped(text)
        );
    }

    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.raw(&format!("<path class=\"{class}\" d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\"/>"));
    }

    pub(super) fn finish(self) -> String {
        let Self { body, width, height } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
             height=\"{height:.0}\" role=\"img\">{STYLE}<rect class=\"b\" width=\"100%\" height=\"100%\"/>\n{body}</svg>\n"
        )
    }
}

pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A colour for a value of 0 to 1: dark blue over green to yellow, even steps of lightness.
pub(super) fn ramp(value: f64) -> [u8; 3] {
    const STOPS: [[f64; 3]; 5] =
        [[68.0, 1.0, 84.0], [59.0, 82.0, 139.0], [33.0, 145.0, 140.0], [94.0, 201.0, 98.0], [253.0, 231.0, 37.0]];
    let at = value.clamp(0.0, 1.0) * (STOPS.len() - 1) as f64;
    let below = (at as usize).min(STOPS.len() - 2);
    let share = at - below as f64;
    std::array::from_fn(|channel| (STOPS[below][channel] * (1.0 - share) + STOPS[below + 1][channel] * share) as u8)
}

/// Round values for an axis from low to high: about five.
pub(super) fn ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / 5.0;
    if !(rough > 0.0 && rough.is_finite()) {
        return vec![low];
    }
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|step| *step >= rough).unwrap_or(rough);
    let first = (low / step).ceil() as i64;
    (first..).map(|n| n as f64 * step).take_while(|tick| *tick <= high + 1e-9 * step).collect()
}

/// A value of an axis, whole where its neighbours are.
pub(super) fn tick_name(value: f64, ticks: &[f64]) -> String {
    if ticks.iter().all(|tick| tick.fract() == 0.0) { format!("{value:.0}") } else { number(value) }
}

/// A number with as many digits as it needs.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
