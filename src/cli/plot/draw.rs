//! The few shapes that the pictures are made of.

use std::fmt::Write;

/// Colours of tasks, told apart on white by most eyes; they repeat.
const COLOURS: [&str; 10] =
    ["#3b7dd8", "#e0772f", "#2b9a6b", "#c4477f", "#8862d4", "#b3941a", "#1b98b3", "#a85a3c", "#6f8a2a", "#d0566a"];

const INK: &str = "#1c1b19";
pub(super) const MUTED: &str = "#66635c";
pub(super) const LINE: &str = "#e3e0d8";

/// The colour of a task; grey for none.
pub(super) fn colour(task: Option<u32>) -> &'static str {
    task.map_or("#8a8780", |task| COLOURS[(task as usize + COLOURS.len() - 1) % COLOURS.len()])
}

/// How a text lies at its point.
#[derive(Debug, Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A picture under way.
pub(super) struct Picture {
    body: String,
    width: f64,
    height: f64,
}

impl Picture {
    /// White, with a title and a line below it.
    pub(super) fn new(width: f64, height: f64, title: &str, note: &str) -> Self {
        let mut picture = Self { body: String::new(), width, height };
        picture.rectangle([0.0, 0.0, width, height], "#ffffff", 0.0, "");
        picture.write(&format!(
            "<text x=\"24\" y=\"34\" font-size=\"17\" font-weight=\"600\" fill=\"{INK}\">{}</text>",
            escaped(title)
        ));
        picture.text(24.0, 54.0, Anchor::Start, MUTED, note);
        picture
    }

    fn write(&mut self, element: &str) {
        self.body.push_str(element);
        self.body.push('\n');
    }

    /// `[x, y, width, height]`; `title` is shown where a pointer rests on it.
    pub(super) fn rectangle(&mut self, [x, y, width, height]: [f64; 4], fill: &str, radius: f64, title: &str) {
        self.write(&format!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"{radius}\" fill=\"{fill}\"><title>{}</title></rect>",
            escaped(title)
        ));
    }

    pub(super) fn dot(&mut self, x: f64, y: f64, fill: &str, title: &str) {
        self.write(&format!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{fill}\" fill-opacity=\"0.75\"><title>{}</title></circle>",
            escaped(title)
        ));
    }

    pub(super) fn line(&mut self, [x1, y1, x2, y2]: [f64; 4]) {
        self.write(&format!("<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{LINE}\"/>"));
    }

    pub(super) fn text(&mut self, x: f64, y: f64, anchor: Anchor, fill: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        self.write(&format!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"12\" fill=\"{fill}\">{}</text>",
            escaped(text)
        ));
    }

    pub(super) fn finish(self) -> String {
        let Self { body, width, height } = self;
        let mut text = String::new();
        // Writing into a text does not fail.
        let _ = write!(
            text,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" \
             font-family=\"system-ui, sans-serif\">\n{body}</svg>\n"
        );
        text
    }
}

/// Names may hold anything that people write.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            control if control.is_control() => safe.push('\u{fffd}'),
            plain => safe.push(plain),
        }
    }
    safe
}

/// From red (0) through sand to green (1).
pub(super) fn shade(ratio: f64) -> String {
    let mix = |a: [f64; 3], b: [f64; 3], t: f64| std::array::from_fn::<u8, 3, _>(|i| (a[i] + (b[i] - a[i]) * t) as u8);
    let (red, sand, green) = ([179.0, 55.0, 44.0], [242.0, 217.0, 166.0], [31.0, 127.0, 118.0]);
    let ratio = ratio.clamp(0.0, 1.0);
    let [r, g, b] = if ratio < 0.5 { mix(red, sand, 2.0 * ratio) } else { mix(sand, green, 2.0 * ratio - 1.0) };
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// Ink that can be read on [`shade`].
pub(super) fn ink_on(ratio: f64) -> &'static str {
    if (0.25..0.75).contains(&ratio) { INK } else { "#ffffff" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_out_of_the_picture() {
        let mut picture = Picture::new(100.0, 100.0, "a<b>", "");
        picture.text(0.0, 0.0, Anchor::Start, MUTED, "\"x\" & </text><script>\u{7}");
        let text = picture.finish();
        assert!(text.contains("&lt;/text&gt;&lt;script&gt;\u{fffd}") && !text.contains("<script>"), "{text}");
    }

    #[test]
    fn shades_go_from_red_to_green_and_colours_repeat() {
        assert_eq!((shade(0.0), shade(1.0), shade(7.0)), ("#b3372c".into(), "#1f7f76".into(), "#1f7f76".into()));
        assert_eq!((colour(Some(1)), colour(Some(11))), ("#3b7dd8", "#3b7dd8"));
    }
}
