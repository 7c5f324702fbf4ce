//! The four pictures.

use std::collections::BTreeSet;

use serde_json::Value;

use super::draw::{Anchor, MUTED, Picture, colour, ink_on, shade};
use crate::daemon::answers::{EmbeddingMap, TaskStatus};

const WIDTH: f64 = 900.0;

/// Below title and note.
const TOP: f64 = 76.0;

const LEFT: f64 = 150.0;

/// Columns of a heat map; more are thinned out.
const COLUMNS: usize = 24;

fn name_of(tasks: &[TaskStatus], id: u64) -> String {
    let known = tasks.iter().find(|task| u64::from(task.id) == id);
    known.map_or_else(|| format!("task {id}"), |task| task.name.clone())
}

/// A row for each task, a bar for each time that it was current.
pub(super) fn timeline(tasks: &[TaskStatus]) -> String {
    let row = 30.0;
    let height = TOP + row * tasks.len().max(1) as f64 + 40.0;
    let first = tasks.iter().map(|task| task.first_frame).min().unwrap_or(0);
    let last = tasks.iter().map(|task| task.last_frame).max().unwrap_or(first).max(first + 1);
    let frames = tasks.iter().map(|task| task.last_frame + 1).max().map_or(0, |end| end - first);
    let note = format!("{} tasks over {frames} frames", tasks.len());
    let mut picture = Picture::new(WIDTH, height, "Tasks", &note);
    let x = |frame: u64| LEFT + (WIDTH - LEFT - 30.0) * (frame.saturating_sub(first)) as f64 / (last - first) as f64;
    for (at, task) in tasks.iter().enumerate() {
        let y = TOP + row * at as f64;
        picture.line([LEFT, y + 23.0, WIDTH - 30.0, y + 23.0]);
        picture.text(LEFT - 12.0, y + 16.0, Anchor::End, MUTED, &task.name);
        for span in &task.spans {
            let (from, to) = (span.first_frame, span.last_frame.unwrap_or(task.last_frame));
            let bar = [x(from), y + 2.0, (x(to) - x(from)).max(2.0), 19.0];
            picture.rectangle(bar, colour(Some(task.id)), 4.0, &format!("{}: frames {from} to {to}", task.name));
        }
    }
    picture.text(LEFT, height - 14.0, Anchor::Start, MUTED, &format!("frame {first}"));
    picture.text(WIDTH - 30.0, height - 14.0, Anchor::End, MUTED, &format!("frame {last}"));
    picture.finish()
}

/// A table of ratios as colours.
struct Heat {
    rows: Vec<String>,
    columns: Vec<String>,
    /// One for each row and column; none where undefined.
    cells: Vec<Vec<Option<f64>>>,
}

impl Heat {
    fn draw(&self, title: &str, note: &str) -> String {
        let row = 32.0;
        let height = TOP + 24.0 + row * self.rows.len().max(1) as f64 + 24.0;
        let mut picture = Picture::new(WIDTH, height, title, note);
        if self.rows.is_empty() {
            picture.text(24.0, TOP + 20.0, Anchor::Start, MUTED, "Nothing was measured yet.");
        }
        let width = (WIDTH - LEFT - 30.0) / self.columns.len().max(1) as f64;
        for (at, column) in self.columns.iter().enumerate() {
            picture.text(LEFT + width * (at as f64 + 0.5), TOP + 12.0, Anchor::Middle, MUTED, column);
        }
        for (at, (name, cells)) in self.rows.iter().zip(&self.cells).enumerate() {
            let y = TOP + 24.0 + row * at as f64;
            picture.text(LEFT - 12.0, y + 20.0, Anchor::End, MUTED, name);
            for (column, ratio) in cells.iter().enumerate() {
                let x = LEFT + width * column as f64;
                let fill = ratio.map_or_else(|| "#f0eee8".into(), shade);
                let words = ratio.map_or("not defined".into(), |ratio| format!("{:.1} %", 100.0 * ratio));
                picture.rectangle([x + 1.0, y + 1.0, width - 2.0, row - 2.0], &fill, 4.0, &format!("{name}: {words}"));
                if let Some(ratio) = ratio {
                    let middle = x + width / 2.0;
                    picture.text(middle, y + 20.5, Anchor::Middle, ink_on(*ratio), &format!("{:.0}", 100.0 * ratio));
                }
            }
        }
        picture.finish()
    }
}

/// Rows: after which task; columns: accuracy on which.
pub(super) fn accuracy(accuracy: &Value, tasks: &[TaskStatus]) -> String {
    let rows = accuracy["rows"].as_array().cloned().unwrap_or_default();
    let known = |row: &Value| row["accuracies"].as_object().cloned().unwrap_or_default();
    let columns: BTreeSet<u64> =
        rows.iter().flat_map(|row| known(row).into_iter()).filter_map(|(id, _)| id.parse().ok()).collect();
    let shown: Vec<&Value> = rows.iter().filter(|row| !known(row).is_empty()).collect();
    let shown = &shown[shown.len().saturating_sub(COLUMNS)..];
    let heat = Heat {
        rows: shown
            .iter()
            .map(|row| row["trained"].as_u64().map_or("later".into(), |id| format!("after {}", name_of(tasks, id))))
            .collect(),
        columns: columns.iter().map(|id| name_of(tasks, *id)).collect(),
        cells: shown
            .iter()
            .map(|row| columns.iter().map(|id| row["accuracies"][id.to_string()].as_f64()).collect())
            .collect(),
    };
    heat.draw("Accuracy", "On each task in %, by the vote of labelled neighbours, after each task's end")
}

/// Rows: tasks; columns: versions of the encoder by their gradient step.
pub(super) fn forgetting(history: &Value, tasks: &[TaskStatus]) -> String {
    let of_tasks: Vec<&Value> = history
        .as_array()
        .into_iter()
        .flatten()
        .filter(|task| task["measurements"].as_array().is_some_and(|m| !m.is_empty()))
        .collect();
    let measured = |task: &Value| task["measurements"].as_array().cloned().unwrap_or_default();
    let all: Vec<u64> = {
        let steps = of_tasks.iter().flat_map(|task| measured(task)).filter_map(|one| one["version"]["step"].as_u64());
        steps.collect::<BTreeSet<u64>>().into_iter().collect()
    };
    let stride = all.len().div_ceil(COLUMNS).max(1);
    // The latest is always there.
    let mut steps: Vec<u64> = all.iter().rev().step_by(stride).copied().collect();
    steps.reverse();
    let cell = |task: &Value, step: u64| {
        let found = measured(task).into_iter().find(|one| one["version"]["step"].as_u64() == Some(step));
        found.and_then(|one| one["retained"].as_f64())
    };
    let heat = Heat {
        rows: of_tasks.iter().map(|task| name_of(tasks, task["task"].as_u64().unwrap_or(0))).collect(),
        columns: steps.iter().map(u64::to_string).collect(),
        cells: of_tasks.iter().map(|task| steps.iter().map(|step| cell(task, *step)).collect()).collect(),
    };
    heat.draw(
        "What is still there",
        "Of each task since its end, in %, from neighbourhoods of held-out images; columns are gradient steps",
    )
}

/// The stored images on the first two principal components.
pub(super) fn embedding(map: &EmbeddingMap, tasks: &[TaskStatus]) -> String {
    let (width, height) = (WIDTH, 680.0);
    let share = |at: usize| {
        map.explained.get(at).copied().flatten().map_or("-".into(), |share| format!("{:.0} %", 100.0 * share))
    };
    let note = format!(
        "{} of {} stored images by version {} of the encoder ({}); the axes show {} and {} of the variance",
        map.points.len(),
        map.rows,
        map.encoder_version,
        map.encoder,
        share(0),
        share(1)
    );
    let mut picture = Picture::new(width, height, "The embedding", &note);
    let range = |values: Vec<f32>| {
        let (low, high) = values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), v| (l.min(*v), h.max(*v)));
        (f64::from(low), f64::from((high - low).max(f32::MIN_POSITIVE)))
    };
    let (left, across) = range(map.points.iter().map(|point| point.x).collect());
    let (bottom, up) = range(map.points.iter().map(|point| point.y).collect());
    for point in &map.points {
        let x = 30.0 + (width - 210.0) * (f64::from(point.x) - left) / across;
        let y = height - 30.0 - (height - TOP - 40.0) * (f64::from(point.y) - bottom) / up;
        let label = point.label.as_ref().map(|label| format!(", {label}")).unwrap_or_default();
        picture.dot(x, y, colour(point.task), &format!("image {}{label}", point.id));
    }
    let shown: BTreeSet<Option<u32>> = map.points.iter().map(|point| point.task).collect();
    for (at, task) in shown.into_iter().enumerate() {
        let y = TOP + 20.0 * at as f64;
        picture.rectangle([width - 150.0, y, 11.0, 11.0], colour(task), 3.0, "");
        let name = task.map_or("no task".into(), |id| name_of(tasks, u64::from(id)));
        picture.text(width - 132.0, y + 10.0, Anchor::Start, MUTED, &name);
    }
    picture.finish()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::daemon::answers::fake::Fake;
    use crate::daemon::answers::{Answers, Surveys};

    fn tasks() -> Vec<TaskStatus> {
        Fake::new().tasks()
    }

    #[test]
    fn the_timeline_has_a_bar_for_each_time() {
        let picture = timeline(&tasks());
        assert!(picture.contains("task-1: frames 1 to 3") && picture.contains("task-2: frames 4 to 6"), "{picture}");
        assert!(timeline(&[]).contains("0 tasks over 0 frames"), "{}", timeline(&[]));
    }

    #[test]
    fn heat_maps_show_what_is_defined_and_leave_the_rest_empty() {
        let rows = json!({"rows": [{"trained": 1, "accuracies": {"1": 0.9}}, {"trained": 2, "accuracies": {"1": 0.8, "2": 0.7}}]});
        let picture = accuracy(&rows, &tasks());
        assert!(picture.contains(">90</text>") && picture.contains("after task-1: not defined"), "{picture}");
        let at = |step: u64, retained: Option<f64>| json!({"version": {"step": step}, "retained": retained});
        let history = json!([{"task": 1, "measurements": [at(10, Some(1.0)), at(20, Some(0.4))]}, {"task": 2, "measurements": []}]);
        let picture = forgetting(&history, &tasks());
        assert!(
            picture.contains(">100</text>") && picture.contains(">40</text>") && !picture.contains("task-2"),
            "{picture}"
        );
        assert!(forgetting(&Value::Null, &[]).contains("Nothing was measured yet."));
    }

    #[test]
    fn the_embedding_has_a_dot_for_each_image() {
        let map = Fake::new().map(10).unwrap();
        let picture = embedding(&map, &tasks());
        assert_eq!(picture.matches("<circle").count(), 1);
        assert!(picture.contains("50 % and 25 % of the variance") && !picture.contains("NaN"), "{picture}");
    }
}
