//! The monitor from a task's end to the report, with an encoder whose forgetting is known.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::features::testing::{noisy, normal, rotated};
use super::*;
use crate::config::Seed;
use crate::segment::TaskId;
use crate::stream::FrameId;

type Labelling = fn(FrameId) -> (&'static str, &'static str);

/// An encoder that knows each frame as a random point, under a rotation, with some of it drowned in noise.
struct Meter {
    width: usize,
    rotation: Option<u64>,
    noise: f32,
    loss: f64,
    /// Label of a frame, and what the vote says of it.
    labels: Option<Labelling>,
    fails: bool,
}

const SHARP: Meter = Meter { width: 16, rotation: None, noise: 0.0, loss: 2.0, labels: None, fails: false };

impl ProbeMeter for Meter {
    fn embed(&mut self, probes: &[FrameId]) -> Result<Features, MeterError> {
        if self.fails {
            return Err("the disk is gone".into());
        }
        let mut values = Vec::new();
        for probe in probes {
            let mut random = Seed(1).random("point", probe.0);
            values.extend((0..self.width).map(|_| random.normal() as f32));
        }
        let features = noisy(&Features::new(self.width, values)?, self.noise, 77);
        Ok(self.rotation.map_or(features.clone(), |seed| rotated(&features, seed)))
    }

    fn views(&mut self, probes: &[FrameId]) -> Result<Views, MeterError> {
        let first = self.embed(probes)?;
        Ok(Views { second: noisy(&first, 0.05 + self.noise, 5), first })
    }

    fn loss(&mut self, probes: &[FrameId]) -> Result<Option<f64>, MeterError> {
        Ok(Some(self.loss + probes.len() as f64))
    }

    fn label(&self, probe: FrameId) -> Option<Arc<str>> {
        self.labels.map(|of| of(probe).0.into())
    }

    fn classify(&self, probe: FrameId, _embedding: &[f32]) -> Option<Arc<str>> {
        self.labels.map(|of| of(probe).1.into())
    }
}

fn version(number: u64) -> Version {
    Version { encoder: format!("v{number}"), step: 10 * number, frames: 100 * number, wall_time_ns: 0 }
}

fn probes(sets: &[(u32, usize)]) -> BTreeMap<TaskId, Vec<FrameId>> {
    let frames = |task: u32, n: usize| (0..n as u64).map(|i| FrameId(u64::from(task) * 1000 + i)).collect();
    sets.iter().map(|&(task, n)| (TaskId(task), frames(task, n))).collect()
}

fn monitor() -> ForgettingMonitor {
    ForgettingMonitor::new(16)
}

/// Task 1 with 80 probes, ended and measured at version 1.
fn after_one_task() -> ForgettingMonitor {
    let mut monitor = monitor();
    monitor.task_opened(TaskId(1));
    monitor.task_closed(TaskId(1));
    monitor.observe(&version(1), &probes(&[(1, 80)]), &mut { SHARP }, 8);
    monitor
}

fn last(monitor: &ForgettingMonitor, task: u32) -> &Measurement {
    monitor.history(TaskId(task)).last().unwrap()
}

#[test]
fn a_rotation_forgets_nothing_and_noise_does() {
    let mut monitor = after_one_task();
    assert_eq!(monitor.report().tasks[0].retained, Some(1.0));
    let probes = probes(&[(1, 80)]);
    monitor.observe(&version(2), &probes, &mut Meter { rotation: Some(4), ..SHARP }, 8);
    assert!(last(&monitor, 1).forgetting_index.unwrap() < 0.01);
    assert!(last(&monitor, 1).cka_debiased.unwrap() > 0.999);
    monitor.observe(&version(3), &probes, &mut Meter { noise: 0.5, loss: 2.25, ..SHARP }, 8);
    let (some, report) = (last(&monitor, 1).clone(), monitor.report());
    let interval = report.tasks[0].retained_interval.unwrap();
    let retained = report.tasks[0].retained.unwrap();
    assert!((0.2..0.9).contains(&retained) && interval.low < retained && retained < interval.high, "{report:?}");
    assert!(
        report.tasks[0].summary.contains(" of what was known at its end is still there"),
        "{}",
        report.tasks[0].summary
    );
    assert!((some.loss_change.unwrap() - 0.25).abs() < 1e-12);
    assert_eq!(some.view_recall_change, Some(0.0), "so much noise does not hide a probe from its other view");
    // A re-initialised encoder: other points for the same frames.
    monitor.observe(&version(4), &probes, &mut Meter { noise: 1e4, ..SHARP }, 8);
    assert!(monitor.report().tasks[0].retained.unwrap() < 0.06);
    assert!(last(&monitor, 1).cka_debiased.unwrap().abs() < 0.05);
    assert!(last(&monitor, 1).view_recall_change.unwrap() < 0.0);
}

#[test]
fn what_is_not_defined_is_null_and_says_why() {
    let mut monitor = monitor();
    assert_eq!(monitor.report().version, None);
    (1..4).for_each(|task| monitor.task_opened(TaskId(task)));
    monitor.task_closed(TaskId(2));
    monitor.task_closed(TaskId(3));
    let reason = |monitor: &ForgettingMonitor, at: usize| monitor.report().tasks[at].reason.clone().unwrap();
    assert_eq!((reason(&monitor, 0), reason(&monitor, 1)), (Reason::Open, Reason::AwaitsVersion));
    monitor.observe(&version(1), &probes(&[(1, 40), (2, 23), (3, 40)]), &mut { SHARP }, 8);
    assert_eq!(reason(&monitor, 0), Reason::Open);
    assert!(last(&monitor, 1).view_recall.is_some(), "a level needs no end");
    assert_eq!(reason(&monitor, 1), Reason::TooFewProbes { found: 23, needed: 24 });
    let json = serde_json::to_value(monitor.report()).unwrap();
    assert!(json["tasks"][0]["retained"].is_null() && json["accuracy"]["average_accuracy"].is_null());
    assert_eq!(json["tasks"][0]["reason"]["code"], "open");
    assert_eq!(json["tasks"][2]["retained"], 1.0);
    monitor.observe(&version(2), &probes(&[(3, 40)]), &mut Meter { noise: f32::NAN, ..SHARP }, 8);
    assert_eq!((reason(&monitor, 2), monitor.report().tasks[2].retained), (Reason::NotFinite, None));
    let failed = monitor.observe(&version(3), &probes(&[(3, 40)]), &mut Meter { fails: true, ..SHARP }, 8).failed;
    assert_eq!((failed[0].0, failed[0].1.to_string()), (TaskId(3), "the disk is gone".to_owned()));
    assert_eq!(reason(&monitor, 2), Reason::MeasuringFailed);
}

#[test]
fn a_set_that_shrinks_is_compared_on_what_is_left() {
    let mut monitor = after_one_task();
    let before = monitor.reference_bytes();
    monitor.observe(&version(2), &probes(&[(1, 40)]), &mut Meter { loss: 2.5, ..SHARP }, 8);
    assert_eq!(last(&monitor, 1).probes, 40);
    assert_eq!(last(&monitor, 1).forgetting_index, Some(0.0));
    assert!((last(&monitor, 1).loss_change.unwrap() - 0.5).abs() < 1e-12, "on the same 32 probes as at the end");
    assert_eq!(monitor.reference_bytes(), before / 2);
    monitor.observe(&version(3), &probes(&[(1, 30)]), &mut { SHARP }, 8);
    assert_eq!((last(&monitor, 1).loss_change, last(&monitor, 1).forgetting_index), (None, Some(0.0)));
    monitor.observe(&version(4), &probes(&[]), &mut { SHARP }, 8);
    assert_eq!(monitor.report().tasks[0].reason, Some(Reason::TooFewProbes { found: 0, needed: 24 }));
}

#[test]
fn a_task_starts_over_when_it_returns_and_when_the_width_changes() {
    let mut monitor = after_one_task();
    let probes = probes(&[(1, 80)]);
    let mut blurred = Meter { noise: 0.5, ..SHARP };
    monitor.observe(&version(2), &probes, &mut blurred, 8);
    monitor.task_opened(TaskId(1));
    monitor.task_closed(TaskId(1));
    monitor.observe(&version(3), &probes, &mut blurred, 8);
    assert_eq!((monitor.history(TaskId(1)).len(), monitor.report().tasks[0].retained), (1, Some(1.0)));
    monitor.observe(&version(4), &probes, &mut Meter { width: 24, ..SHARP }, 8);
    let report = monitor.report();
    assert_eq!((report.tasks[0].retained, report.tasks[0].reference.clone()), (Some(1.0), Some(version(4))));
}

#[test]
fn a_small_budget_goes_round_and_staleness_is_told() {
    let mut monitor = monitor();
    let probes = probes(&[(1, 30), (2, 30), (3, 30)]);
    (1..4).for_each(|task| monitor.task_closed(TaskId(task)));
    assert_eq!(monitor.observe(&version(1), &probes, &mut { SHARP }, 1).measured.len(), 3, "ends are never put off");
    let rounds: Vec<u32> =
        (2..6).map(|number| monitor.observe(&version(number), &probes, &mut { SHARP }, 1).measured[0].0).collect();
    assert_eq!(rounds, [1, 2, 3, 1]);
    let staleness: Vec<_> = monitor.report().tasks.iter().map(|task| task.staleness_frames.unwrap()).collect();
    assert_eq!(staleness, [0, 200, 100]);
}

#[test]
fn labels_give_accuracies_and_their_forgetting() {
    let mut monitor = monitor();
    let (one, two) = (probes(&[(1, 40)]), probes(&[(1, 40), (2, 40)]));
    let right = Meter { labels: Some(|_| ("cat", "cat")), ..SHARP };
    // Of task 1 every fourth is taken for something else later on.
    let worse: Labelling = |probe| ("cat", if probe.0 < 2000 && probe.0 % 4 == 0 { "dog" } else { "cat" });
    monitor.task_closed(TaskId(1));
    monitor.observe(&version(1), &one, &mut { right }, 8);
    assert_eq!(monitor.report().accuracy.average_accuracy, Some(1.0));
    assert_eq!(monitor.report().accuracy.forgetting_max, None);
    monitor.task_closed(TaskId(2));
    monitor.observe(&version(2), &two, &mut Meter { labels: Some(worse), ..SHARP }, 8);
    let accuracy = monitor.report().accuracy;
    assert_eq!((accuracy.tasks, accuracy.average_accuracy), (2, Some(0.875)));
    assert_eq!((accuracy.forgetting_max, accuracy.backward_transfer), (Some(0.25), Some(-0.25)));
    monitor.task_removed(TaskId(1));
    assert_eq!(monitor.report().accuracy.tasks, 1);
}

#[test]
fn the_state_comes_back_to_the_bit_and_damage_is_named() {
    let mut monitor = after_one_task();
    monitor.observe(&version(2), &probes(&[(1, 80)]), &mut Meter { noise: 0.3, ..SHARP }, 8);
    let bytes = monitor.to_bytes().unwrap();
    let mut again = ForgettingMonitor::from_bytes(&bytes, 16).unwrap();
    assert_eq!(again, monitor);
    for monitor in [&mut monitor, &mut again] {
        monitor.observe(&version(3), &probes(&[(1, 80)]), &mut Meter { noise: 0.7, ..SHARP }, 8);
    }
    assert_eq!(again.report(), monitor.report());
    for cut in [0, 4, 100, bytes.len() - 1] {
        let error = ForgettingMonitor::from_bytes(&bytes[..cut], 16).unwrap_err();
        assert_eq!(error.code(), "forgetting-state");
    }
    let named = |key: &[u8]| {
        let at = bytes.windows(18).position(|part| part == b"lumpd.forgetting.3").unwrap();
        ForgettingMonitor::from_bytes(&[&bytes[..at], key, &bytes[at + 18..]].concat(), 16).unwrap_err()
    };
    assert!(matches!(named(b"lumpd.forgetting.2"), EvaluateError::OtherVersion));
    assert!(matches!(named(b"other.programs.own"), EvaluateError::State { .. }));
    let empty = ForgettingMonitor::new(16);
    assert_eq!(ForgettingMonitor::from_bytes(&empty.to_bytes().unwrap(), 16).unwrap(), empty);
}

#[test]
fn the_history_is_bounded_and_begins_at_the_end_of_the_task() {
    let mut monitor = after_one_task();
    let probes = probes(&[(1, 24)]);
    (2..60).for_each(|number| _ = monitor.observe(&version(number), &probes, &mut { SHARP }, 8));
    let history = monitor.history(TaskId(1));
    assert_eq!((history.len(), &history[0].version, &history[15].version), (16, &version(1), &version(59)));
}

#[test]
fn where_no_view_confirmed_anything_nothing_can_be_lost() {
    struct Blind;
    impl ProbeMeter for Blind {
        fn embed(&mut self, probes: &[FrameId]) -> Result<Features, MeterError> {
            Ok(normal(1, probes.len(), 16))
        }
        fn views(&mut self, probes: &[FrameId]) -> Result<Views, MeterError> {
            Ok(Views { first: normal(2, probes.len(), 16), second: normal(3, probes.len(), 16) })
        }
        fn loss(&mut self, _probes: &[FrameId]) -> Result<Option<f64>, MeterError> {
            Ok(None)
        }
    }
    let mut monitor = monitor();
    monitor.task_closed(TaskId(1));
    monitor.observe(&version(1), &probes(&[(1, 80)]), &mut Blind, 8);
    let task = monitor.report().tasks.remove(0);
    assert_eq!((task.retained, task.reason), (None, Some(Reason::NothingKnown)));
    assert_eq!(last(&monitor, 1).neighbour_overlap, Some(1.0), "the plain overlap knows nothing of views");
    assert!(task.summary.contains("other views"), "{}", task.summary);
}

#[test]
fn a_collapse_shows_in_the_levels() {
    let mut monitor = after_one_task();
    let spread = monitor.report().representation.unwrap();
    assert!(spread.feature_std.unwrap() > 0.9 && spread.rank_me.unwrap() > 14.0, "{spread:?}");
    struct Collapsed;
    impl ProbeMeter for Collapsed {
        fn embed(&mut self, probes: &[FrameId]) -> Result<Features, MeterError> {
            Ok(Features::new(16, vec![0.3; 16 * probes.len()])?)
        }
        fn views(&mut self, probes: &[FrameId]) -> Result<Views, MeterError> {
            Ok(Views { first: self.embed(probes)?, second: self.embed(probes)? })
        }
        fn loss(&mut self, _probes: &[FrameId]) -> Result<Option<f64>, MeterError> {
            Ok(None)
        }
    }
    monitor.observe(&version(2), &probes(&[(1, 80)]), &mut Collapsed, 8);
    let report = monitor.report();
    assert_eq!((report.tasks[0].retained.map(|x| x < 1e-9), last(&monitor, 1).loss_change), (Some(true), None));
    let levels = report.representation.unwrap();
    assert!(levels.feature_std.unwrap() < 1e-6 && levels.rank_me.unwrap() < 1.01, "{levels:?}");
}
