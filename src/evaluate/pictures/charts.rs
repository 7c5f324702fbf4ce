//! Charts: heat maps, lines, and points in the plane.

use super::svg::{COLOURS, Canvas, number, ramp, tick_name, ticks};

/// A table of values with the names of rows and columns; what is not defined stays empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HeatMap {
    pub title: String,
    pub rows: Vec<String>,
    pub columns: Vec<String>,
    /// `[row][column]`.
    pub values: Vec<Vec<Option<f64>>>,
    /// Values at the ends of the colours; those of the table where not given.
    pub range: Option<(f64, f64)>,
}

/// Values along an axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// A point and the group it is coloured by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    pub x: f64,
    pub y: f64,
    pub group: usize,
}

const CELL: f64 = 46.0;
const LEFT: f64 = 110.0;
const TOP: f64 = 56.0;

/// A heat map with the value written in each cell.
pub fn heat_map(map: &HeatMap) -> String {
    let (rows, columns) = (map.rows.len() as f64, map.columns.len() as f64);
    let mut canvas = Canvas::new((LEFT + columns * CELL + 16.0).max(260.0), TOP + rows * CELL * 0.6 + 16.0, &map.title);
    let known = || map.values.iter().flatten().flatten().copied().filter(|value| value.is_finite());
    let (low, high) =
        map.range.unwrap_or_else(|| (known().fold(f64::INFINITY, f64::min), known().fold(f64::NEG_INFINITY, f64::max)));
    let every = map.columns.len().div_ceil(24).max(1);
    for (column, name) in map.columns.iter().enumerate().step_by(every) {
        canvas.text(LEFT + (column as f64 + 0.5) * CELL, TOP - 8.0, "middle", name, "");
    }
    for (row, name) in map.rows.iter().enumerate() {
        let y = TOP + row as f64 * CELL * 0.6;
        canvas.text(LEFT - 8.0, y + CELL * 0.38, "end", name, "");
        for (column, value) in map.values.get(row).into_iter().flatten().enumerate() {
            let x = LEFT + column as f64 * CELL;
            let Some(value) = value.filter(|value| value.is_finite()) else { continue };
            let share = if high > low { (value - low) / (high - low) } else { 0.5 };
            let [r, g, b] = ramp(share);
            let ink = if share > 0.6 { "#111" } else { "#fff" };
            canvas.raw(&format!(
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"rgb({r},{g},{b})\"/>",
                CELL - 1.0,
                CELL * 0.6 - 1.0
            ));
            canvas.text(x + CELL / 2.0, y + CELL * 0.38, "middle", &number(value), &format!("style=\"fill:{ink}\""));
        }
    }
    canvas.finish()
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const MARGIN: (f64, f64, f64, f64) = (64.0, 36.0, 150.0, 48.0);

/// The place of values on the canvas.
struct Axes {
    x: (f64, f64),
    y: (f64, f64),
}

impl Axes {
    fn of(points: impl Iterator<Item = (f64, f64)> + Clone) -> Self {
        let range = |values: &mut dyn Iterator<Item = f64>| {
            let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
            match high - low {
                spread if spread > 0.0 => (low, high),
                0.0 => (low - 0.5, high + 0.5),
                _ => (0.0, 1.0),
            }
        };
        let (x, y) = (range(&mut points.clone().map(|p| p.0)), range(&mut points.map(|p| p.1)));
        let air = 0.05 * (y.1 - y.0);
        Self { x, y: (y.0 - air, y.1 + air) }
    }

    fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let (left, top, right, bottom) = MARGIN;
        let along = |value: f64, (low, high): (f64, f64)| (value - low) / (high - low);
        (left + along(x, self.x) * (WIDTH - left - right), HEIGHT - bottom - along(y, self.y) * (HEIGHT - top - bottom))
    }

    fn draw(&self, canvas: &mut Canvas, (x_name, y_name): (&str, &str)) {
        let (left, top, right, bottom) = MARGIN;
        let rows = ticks(self.y.0, self.y.1);
        for &tick in &rows {
            let (_, y) = self.place((self.x.0, tick));
            canvas.line((left, y), (WIDTH - right, y), "g");
            canvas.text(left - 6.0, y + 4.0, "end", &tick_name(tick, &rows), "");
        }
        let columns = ticks(self.x.0, self.x.1);
        for &tick in &columns {
            let (x, _) = self.place((tick, self.y.0));
            canvas.text(x, HEIGHT - bottom + 16.0, "middle", &tick_name(tick, &columns), "");
        }
        canvas.line((left, HEIGHT - bottom), (WIDTH - right, HEIGHT - bottom), "a");
        canvas.line((left, top), (left, HEIGHT - bottom), "a");
        canvas.text((left + WIDTH - right) / 2.0, HEIGHT - 10.0, "middle", x_name, "");
        canvas.text(left, top - 4.0, "start", y_name, "");
    }
}

/// Lines of one colour each, with a legend.
pub fn lines(title: &str, axes: (&str, &str), series: &[Series]) -> String {
    let mut canvas = Canvas::new(WIDTH, HEIGHT, title);
    let finite = |point: &(f64, f64)| point.0.is_finite() && point.1.is_finite();
    let all = series.iter().flat_map(|series| series.points.iter().copied()).filter(finite);
    let place = Axes::of(all);
    place.draw(&mut canvas, axes);
    for (index, Series { name, points }) in series.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let dash = ["", "6 3", "2 3"][index / COLOURS.len() % 3];
        let path: Vec<String> = points
            .iter()
            .filter(|point| finite(point))
            .map(|point| place.place(*point))
            .map(|(x, y)| format!("{x:.1} {y:.1}"))
            .collect();
        if path.is_empty() {
            continue;
        }
        canvas.raw(&format!(
            "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dash}\"/>",
            path.join("L")
        ));
        let y = MARGIN.1 + 14.0 + 18.0 * index as f64;
        let x = WIDTH - MARGIN.2 + 10.0;
        canvas.raw(&format!(
            "<path d=\"M{x:.1} {:.1}h18\" stroke=\"{colour}\" stroke-width=\"3\" stroke-dasharray=\"{dash}\"/>",
            y - 4.0
        ));
        canvas.text(x + 24.0, y, "start", name, "");
    }
    canvas.finish()
}

/// Points coloured by their group; `groups` names those.
pub fn scatter(title: &str, groups: &[String], points: &[Point]) -> String {
    let mut canvas = Canvas::new(WIDTH, HEIGHT, title);
    let place = Axes::of(points.iter().map(|point| (point.x, point.y)));
    for Point { x, y, group } in points {
        mark(&mut canvas, place.place((*x, *y)), *group, ".75");
    }
    for (index, name) in groups.iter().enumerate().take(18) {
        let (x, y) = (WIDTH - MARGIN.2 + 10.0, MARGIN.1 + 14.0 + 16.0 * index as f64);
        mark(&mut canvas, (x + 4.0, y - 4.0), index, "1");
        canvas.text(x + 14.0, y, "start", name, "");
    }
    canvas.finish()
}

/// The sign of a group: a dot, or a square where the colours begin anew.
fn mark(canvas: &mut Canvas, (x, y): (f64, f64), group: usize, opacity: &str) {
    let colour = COLOURS[group % COLOURS.len()];
    canvas.raw(&match group / COLOURS.len() % 2 {
        0 => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\" fill-opacity=\"{opacity}\"/>"),
        _ => format!(
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"5\" height=\"5\" fill=\"{colour}\" fill-opacity=\"{opacity}\"/>",
            x - 2.5,
            y - 2.5
        ),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(svg: &str, what: &str) -> usize {
        svg.matches(what).count()
    }

    #[test]
    fn a_heat_map_has_a_cell_for_each_value_that_is_defined() {
        let map = HeatMap {
            title: "a < b".into(),
            rows: vec!["1".into(), "2".into()],
            columns: vec!["1".into(), "2".into()],
            values: vec![vec![Some(0.5), None], vec![Some(f64::NAN), Some(1.0)]],
            range: None,
        };
        let svg = heat_map(&map);
        assert_eq!(count(&svg, "fill=\"rgb("), 2);
        assert!(svg.contains("a &lt; b") && svg.contains("prefers-color-scheme:dark"));
        assert!(svg.contains("rgb(68,1,84)") && svg.contains("rgb(253,231,37)"), "{svg}");
    }

    #[test]
    fn every_line_and_point_is_within_the_frame() {
        let series = [
            Series { name: "a".into(), points: vec![(0.0, -5.0), (10.0, 7.0), (20.0, f64::NAN)] },
            Series { name: "b".into(), points: vec![] },
        ];
        let svg = lines("t", ("x", "y"), &series);
        assert_eq!(count(&svg, "fill=\"none\" stroke=\""), 1);
        let place = Axes::of(series[0].points[..2].iter().copied());
        for point in [(0.0, -5.0), (10.0, 7.0)] {
            let (x, y) = place.place(point);
            assert!((MARGIN.0..=WIDTH - MARGIN.2).contains(&x) && (MARGIN.1..=HEIGHT - MARGIN.3).contains(&y));
        }
        let svg =
            scatter("t", &["a".into()], &[Point { x: 1.0, y: 1.0, group: 0 }, Point { x: 1.0, y: 1.0, group: 9 }]);
        assert_eq!((count(&svg, "r=\"3\""), count(&svg, "width=\"5\"")), (2, 1), "{svg}");
        assert!(!svg.contains("NaN") && !lines("t", ("x", "y"), &[]).contains("NaN"));
    }
}
