//! What the demonstration tells: what lumpd found, held against the truth that it was not told. Pure: it is given what was seen
//! and gives back lines.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

use crate::daemon::answers::{Neighbours, Status, TaskStatus};
use crate::stream::camera::{Camera, Product, Script};

/// How many frames early a boundary may be placed and still count as the change that follows.
const SLACK_FRAMES: u64 = 32;

/// Frames of the camera by the id that the daemon gave them. Both count from what was sent; neither is ever reused.
pub(super) type Shots = HashMap<u64, u64>;

/// Where the daemon says that a stretch of the stream begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    task: u32,
    /// The task had been seen before.
    returns: bool,
    /// The change of the script that it is taken for.
    change: Option<u64>,
    /// Frames sent when it was heard of.
    heard_at: u64,
}

impl Found {
    /// Takes in that the stretch from `start` on is of `task`, and says so where this one has been seen before: a task that
    /// comes back is a new one until enough of it has been seen.
    fn again(&mut self, start: u64, task: u32, returns: bool) -> Option<String> {
        if !returns || self.returns {
            return None;
        }
        let provisional = std::mem::replace(&mut self.task, task);
        self.returns = true;
        let first = start + 1;
        Some(format!(
            "RETURN    task {provisional} is task {task} again: the pictures from frame {first} on are like those of before."
        ))
    }
}

/// The demonstration so far. Frames are counted from 0 inside and from 1 in what is told.
pub(super) struct Story {
    camera: Camera,
    changes: Vec<u64>,
    /// By first frame.
    found: BTreeMap<u64, Found>,
    votes: Votes,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Votes {
    asked: usize,
    right: usize,
}

impl Story {
    pub(super) fn new(camera: Camera) -> Self {
        let changes = camera.script().boundaries();
        Self { camera, changes, found: BTreeMap::new(), votes: Votes::default() }
    }

    /// The script as a table.
    pub(super) fn truth(&self) -> String {
        let mut text = String::from("What the camera will see, which nobody tells lumpd:\n");
        let mut first = 1;
        for (index, phase) in self.camera.script().phases().iter().enumerate() {
            let products: Vec<&str> = phase.products.iter().map(|product| product.name()).collect();
            let last = first + phase.frames - 1;
            let _ = write!(text, "  phase {}  frames {first:>5} to {last:>5}  {:<16}", index + 1, products.join(", "));
            let _ = write!(text, " on {}", phase.belt.name());
            for (what, [from, to]) in [("light", phase.light), ("blur", phase.blur)] {
                if from != to {
                    let _ = write!(text, ", {what} {from} to {to}");
                }
            }
            if let Some(earlier) = earlier(self.camera.script(), index) {
                let _ = write!(text, ", as in phase {}", earlier + 1);
            }
            text.push('\n');
            first = last + 1;
        }
        text
    }

    /// Lines about stretches of the stream that were not known before, or turned out to be of an earlier task, oldest first.
    pub(super) fn tasks(&mut self, sent: u64, tasks: &[TaskStatus], shots: &Shots) -> Vec<String> {
        let spans =
            tasks.iter().flat_map(|task| task.spans.iter().enumerate().map(move |(nth, span)| (task, nth, span)));
        let mut starts: Vec<(u64, u32, bool)> =
            spans.filter_map(|(task, nth, span)| Some((*shots.get(&span.first_frame)?, task.id, nth > 0))).collect();
        starts.sort_unstable();
        let mut lines = Vec::new();
        for (start, task, returns) in starts {
            if let Some(found) = self.found.get_mut(&start) {
                lines.extend(found.again(start, task, returns));
                continue;
            }
            let change = self.change_of(start);
            let first = self.found.is_empty();
            self.found.insert(start, Found { task, returns, change, heard_at: sent });
            lines.push(if first { format!("task {task} begins with the first frame") } else { self.boundary(start) });
        }
        lines
    }

    /// The change that a boundary at `start` is taken for: the latest one before it, where nothing was taken for that one yet.
    fn change_of(&self, start: u64) -> Option<u64> {
        let change = *self.changes.iter().rfind(|&&change| change <= start + SLACK_FRAMES)?;
        let taken = self.found.values().any(|found| found.change == Some(change));
        (!taken).then_some(change)
    }

    fn boundary(&self, start: u64) -> String {
        let Some(found) = self.found.get(&start) else { return String::new() };
        let task = found.task;
        let what = if found.returns { format!("task {task} is back") } else { format!("task {task} is new") };
        match found.change {
            Some(change) => format!(
                "BOUNDARY  {what}, from frame {} on.  Truth: {}  Heard of {} frames after it.",
                start + 1,
                self.change(change),
                found.heard_at.saturating_sub(change),
            ),
            None => format!("BOUNDARY  {what}, from frame {} on.  Truth: there was none.", start + 1),
        }
    }

    fn change(&self, change: u64) -> String {
        let index = self.changes.iter().position(|&other| other == change).map_or(0, |index| index + 1);
        let phase = &self.camera.script().phases()[index];
        let products: Vec<&str> = phase.products.iter().map(|product| product.name()).collect();
        format!("{} from frame {}.", products.join(" and "), change + 1)
    }

    /// The products whose neighbours were asked for, told against the true one.
    pub(super) fn answer(&mut self, product: Product, answer: &Neighbours, shots: &Shots) -> String {
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for neighbour in &answer.neighbours {
            if let Some(shot) = shots.get(&neighbour.image.id) {
                *votes.entry(self.camera.truth(*shot).product.name()).or_default() += 1;
            }
        }
        let mut ranking: Vec<(&str, usize)> = votes.into_iter().collect();
        ranking.sort_by_key(|(_, votes)| std::cmp::Reverse(*votes));
        let listed: Vec<String> = ranking.iter().map(|(name, votes)| format!("{votes} {name}")).collect();
        let right = ranking.first().is_some_and(|(name, _)| *name == product.name());
        self.votes.asked += 1;
        self.votes.right += usize::from(right);
        format!(
            "query     a new picture of a {}.  Nearest {}: {}.  {} (encoder version {})",
            product.name(),
            answer.neighbours.len(),
            listed.join(", "),
            if right { "Right." } else { "Wrong." },
            answer.encoder_version,
        )
    }

    /// Counts at the end of the script.
    pub(super) fn summary(&self) -> String {
        let delays: Vec<u64> = self.taken().map(|(_, found, change)| found.heard_at.saturating_sub(change)).collect();
        let false_alarms = self.found.iter().skip(1).filter(|(_, found)| found.change.is_none()).count();
        let mut text = format!("  changes    {} of {} found", delays.len(), self.changes.len());
        if let Some(median) = median(delays) {
            let _ = write!(text, ", heard of {median} frames later in the median");
        }
        let _ = writeln!(text, "; {false_alarms} found where there was none");
        let returned = self.found.values().filter(|found| found.returns).count();
        let _ = writeln!(text, "  returns    {returned} of {} recognised as an earlier task", self.returns());
        let Votes { asked, right } = self.votes;
        let _ =
            writeln!(text, "  queries    {right} of {asked} pictures never seen before are nearest to their own kind");
        text
    }

    /// Boundaries with the change that each is taken for.
    fn taken(&self) -> impl Iterator<Item = (u64, &Found, u64)> {
        self.found.iter().filter_map(|(start, found)| Some((*start, found, found.change?)))
    }

    /// Phases of the script whose products were there before.
    fn returns(&self) -> usize {
        let script = self.camera.script();
        (0..script.phases().len()).filter(|&index| earlier(script, index).is_some()).count()
    }
}

/// The first phase with the same products on the same belt, if it is before this one.
fn earlier(script: &Script, index: usize) -> Option<usize> {
    let phase = &script.phases()[index];
    let same = |other: &&crate::stream::camera::Phase| other.products == phase.products && other.belt == phase.belt;
    script.phases()[..index].iter().position(|other| same(&other))
}

fn median(mut values: Vec<u64>) -> Option<u64> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

/// One line about how it goes.
pub(super) fn progress(status: &Status) -> String {
    let loss = status.learn.loss.map_or("-".to_string(), |loss| format!("{loss:.3}"));
    let mut line = format!(
        "          loss {loss} after {} steps, {:.0} images/s through training; buffer {} of {}",
        status.learn.steps, status.learn.images_per_second, status.buffer.used, status.buffer.slots,
    );
    if status.learn.skipped_for_training > 0 {
        let _ = write!(line, "; {} frames not trained on", status.learn.skipped_for_training);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Seed;
    use crate::daemon::answers::{Neighbour, StoredImage, TaskSpan, timestamp};

    /// Frame ids are 1000 more than the shots' numbers.
    fn shots() -> Shots {
        (0..3000).map(|shot| (shot + 1000, shot)).collect()
    }

    fn story() -> Story {
        Story::new(Camera::new(Script::default(), Seed(0)))
    }

    fn task(id: u32, starts: &[u64]) -> TaskStatus {
        let span = |&start: &u64| TaskSpan {
            first_frame: start + 1000,
            last_frame: None,
            started_at: None,
            ended_at: None,
            uncertainty_frames: 0,
        };
        TaskStatus {
            id,
            name: String::new(),
            spans: starts.iter().map(span).collect(),
            first_frame: starts[0] + 1000,
            last_frame: starts[0] + 1000,
            frames: 1,
            current: false,
            returns: 0,
            probes: 0,
            exemplars: vec![],
            varied_exemplars: vec![],
            duplicates: 0,
            parent: None,
        }
    }

    #[test]
    fn the_truth_names_every_phase_and_the_return() {
        let text = story().truth();
        assert_eq!(text.lines().count(), 6);
        assert!(text.contains("phase 2  frames   601 to  1200  can, biscuit"), "{text}");
        assert!(text.lines().last().unwrap().ends_with("as in phase 1"), "{text}");
    }

    #[test]
    fn a_boundary_is_told_once_with_its_delay() {
        let mut story = story();
        assert_eq!(story.tasks(100, &[task(1, &[0])], &shots()), ["task 1 begins with the first frame"]);
        let lines = story.tasks(640, &[task(1, &[0]), task(2, &[608])], &shots());
        assert_eq!(
            lines,
            [
                "BOUNDARY  task 2 is new, from frame 609 on.  Truth: can and biscuit from frame 601.  Heard of 40 frames after it."
            ]
        );
        assert!(story.tasks(660, &[task(1, &[0]), task(2, &[608])], &shots()).is_empty());
    }

    #[test]
    fn a_second_boundary_for_one_change_is_a_false_alarm() {
        let mut story = story();
        let tasks = [task(1, &[0]), task(2, &[590]), task(3, &[800])];
        let lines = story.tasks(820, &tasks, &shots());
        assert!(lines[1].contains("from frame 591 on.  Truth: can and biscuit"), "{lines:?}");
        assert!(lines[2].ends_with("Truth: there was none."), "{lines:?}");
        let summary = story.summary();
        assert!(summary.contains("1 of 4 found"), "{summary}");
        assert!(summary.contains("1 found where there was none"), "{summary}");
    }

    #[test]
    fn a_task_that_was_new_at_first_is_told_when_it_is_known_again() {
        let mut story = story();
        story.tasks(2411, &[task(1, &[0]), task(5, &[2403])], &shots());
        assert!(story.summary().contains("0 of 1 recognised"), "{}", story.summary());
        let lines = story.tasks(2680, &[task(1, &[0, 2403])], &shots());
        assert_eq!(
            lines,
            ["RETURN    task 5 is task 1 again: the pictures from frame 2404 on are like those of before."]
        );
        assert!(story.summary().contains("1 of 1 recognised"), "{}", story.summary());
        assert!(story.tasks(2690, &[task(1, &[0, 2403])], &shots()).is_empty());
    }

    #[test]
    fn a_return_is_recognised() {
        let mut story = story();
        let lines = story.tasks(2500, &[task(1, &[0, 2403])], &shots());
        assert!(lines[1].contains("task 1 is back"), "{lines:?}");
        assert!(story.summary().contains("1 of 1 recognised"), "{}", story.summary());
    }

    #[test]
    fn an_answer_is_held_against_the_truth() {
        let mut story = story();
        let of = |product: Product| (0..3000).find(|&shot| story.camera.truth(shot).product == product).unwrap();
        let (gear, nut) = (of(Product::Gear), of(Product::Nut));
        let neighbour = |shot: u64| Neighbour {
            image: StoredImage::new(shot + 1000, Some(1), timestamp(0), "camera".into(), None),
            score: 0.9,
        };
        let neighbours = vec![neighbour(gear), neighbour(gear), neighbour(nut)];
        let answer = Neighbours { encoder: "ab".into(), encoder_version: 3, neighbours, next: None };
        let line = story.answer(Product::Gear, &answer, &shots());
        assert!(line.contains("Nearest 3: 2 gear, 1 nut.  Right. (encoder version 3)"), "{line}");
        let line = story.answer(Product::Nut, &answer, &shots());
        assert!(line.contains("Wrong."), "{line}");
        assert!(story.summary().contains("1 of 2 pictures"), "{}", story.summary());
    }
}
