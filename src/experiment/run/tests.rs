use std::cell::Cell;

use super::*;
use crate::config::{ObjectiveKind, StrategyKind};
use crate::experiment::StreamKind;

fn settings() -> RunSettings {
    RunSettings {
        dataset: "cifar10".into(),
        preset: "resnet18-w16".into(),
        width: Some(1),
        side: Some(16),
        epochs: 2,
        batch: 8,
        replay_batch: 8,
        slots: 16,
        tasks: 2,
        classes_per_task: 2,
        limit_per_task: Some(24),
        test_limit: Some(10),
        objective: ObjectiveKind::SimClr,
        strategy: StrategyKind::Lump,
        curve_every: 20,
        linear_probe: true,
        views: false,
        checkpoint_seconds: 0.0,
        ..RunSettings::default()
    }
}

/// A dataset of CIFAR-10's layout: each class has a colour of its own, and noise.
fn write_dataset(folder: &Path) {
    let folder = folder.join("cifar-10-batches-bin");
    std::fs::create_dir_all(&folder).unwrap();
    let mut random = Seed(1).random("records", 0);
    let names = (1..=5).map(|number| format!("data_batch_{number}.bin"));
    for name in names.chain(["test_batch.bin".to_owned()]) {
        let mut bytes = Vec::new();
        for record in 0..80u8 {
            let class = record % 10;
            bytes.push(class);
            bytes.extend((0..3072).map(|at| 20 * (class / (1 + at / 1024) as u8) + random.below(50) as u8));
        }
        std::fs::write(folder.join(name), bytes).unwrap();
    }
}

fn data() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_dataset(folder.path());
    folder
}

fn place(folder: &Path, name: &str) -> Place {
    Place { data: folder.into(), out: folder.join(name), command: "a test".into() }
}

/// Plays it in pieces of so many batches.
fn in_pieces(settings: &RunSettings, place: &Place, batches: usize) -> RunResult {
    for _ in 0..200 {
        let left = Cell::new(batches);
        let result = run(settings, place, &mut |_| {
            left.set(left.get().saturating_sub(1));
            if left.get() == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if let Some(result) = result.unwrap() {
            return result;
        }
    }
    panic!("the run never ended");
}

#[test]
fn a_run_in_pieces_leaves_the_same_file_as_a_run_in_one() {
    let folder = data();
    let variants = [
        settings(),
        RunSettings { strategy: StrategyKind::LumpPlus, replay_batch: 12, views: true, ..settings() },
        RunSettings { strategy: StrategyKind::Der, boundaries: BoundaryKind::Found, side: Some(16), ..settings() },
        RunSettings { strategy: StrategyKind::Pnn, ..settings() },
        RunSettings { strategy: StrategyKind::Gss, objective: ObjectiveKind::Supervised, ..settings() },
        measured(),
    ];
    for (number, settings) in variants.into_iter().enumerate() {
        let (whole, pieces) =
            (place(folder.path(), &format!("a{number}")), place(folder.path(), &format!("b{number}")));
        run(&settings, &whole, &mut |_| ControlFlow::Continue(())).unwrap().unwrap();
        in_pieces(&settings, &pieces, 4);
        let bytes = |place: &Place| std::fs::read(place.out.join(RESULT_FILE)).unwrap();
        assert!(bytes(&whole) == bytes(&pieces), "run {number} differs");
    }
}

/// With tasks of enough test images to measure forgetting without labels.
fn measured() -> RunSettings {
    RunSettings { label_free: true, classes_per_task: 4, test_limit: Some(32), ..settings() }
}

#[test]
fn forgetting_without_labels_is_measured_of_every_past_task() {
    let folder = data();
    let settings = RunSettings { classes_per_task: 3, tasks: 3, ..measured() };
    let result = run(&settings, &place(folder.path(), "run"), &mut |_| ControlFlow::Continue(())).unwrap().unwrap();
    let places: Vec<_> = result.label_free.iter().map(|record| (record.task, record.stage)).collect();
    assert_eq!(places, [(0, 1), (0, 2), (1, 2)]);
    assert_eq!(result.steady.rows().iter().map(|row| row.accuracies.len()).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(result.linear.rows().iter().map(|row| row.accuracies.len()).collect::<Vec<_>>(), [1, 2, 3]);
    for record in &result.label_free {
        assert!((0.0..=1.0).contains(&record.neighbour_overlap.unwrap()), "{record:?}");
        assert!(record.cka_debiased.unwrap() <= 1.0 && record.loss_change.unwrap().is_finite(), "{record:?}");
        assert!((0.0..=1.0).contains(&record.view_recall.unwrap()), "{record:?}");
    }
    let report = crate::experiment::report::Report::of(vec![result]);
    // Whether anything was known of so few images that it could have been lost is another matter.
    assert_eq!(report.evidence.len(), 2, "precision and accuracy");
    for against in &report.evidence {
        let plain = against.evidence.iter().position(|found| found.measure.contains("overlap")).unwrap();
        assert_eq!(against.evidence[plain].cases, 3);
        assert!(against.ordering.len() == 1 && against.ordering[0].measures[plain].is_some());
    }
    assert!(crate::experiment::report::markdown(&report, &[]).contains("What measures without labels are worth"));
}

#[test]
fn a_result_says_what_was_run_and_measures_every_task() {
    let folder = data();
    let settings = RunSettings { views: true, ood: vec!["cifar10".into()], ood_epochs: 1, ..settings() };
    let place = place(folder.path(), "run");
    let result = run(&settings, &place, &mut |_| ControlFlow::Continue(())).unwrap().unwrap();
    assert_eq!((result.paper.rows().len(), result.encoders.len(), result.tasks.len()), (2, 2, 2));
    assert_eq!((result.tasks[0].train, result.tasks[0].test), (24, 10));
    let accuracy = result.averages.strict.average_accuracy.unwrap();
    assert!((0.0..=1.0).contains(&accuracy));
    assert!(result.averages.paper.forward_transfer.is_some() && result.linear_probe.is_some());
    assert_eq!(result.curve.iter().map(|point| point.images).collect::<Vec<_>>(), [0, 24, 40, 64, 80]);
    assert_eq!((result.boundaries, result.data.blake3.len()), (vec![48], 64));
    assert!(result.ood[0].frozen.is_some() && result.ood[0].fine_tuned.is_some());
    let views = result.views.unwrap();
    assert_eq!((views.blocks.len(), views.cka.len(), views.feature_maps[0].maps.len()), (8, 2, 2));
    assert!(views.cka[0].iter().flatten().all(|cka| (cka - 1.0).abs() < 1e-6), "{:?}", views.cka[0]);
    assert_eq!(views.embedding.len(), 20);
    let landscape = views.landscape.unwrap();
    assert_eq!((landscape.steps.len(), landscape.losses.len()), (11, 11));
    assert!(!place.out.join("checkpoints").exists() && !place.out.join("replay.buf").exists());
}

#[test]
fn a_run_starts_from_the_encoder_that_another_left() {
    let folder = data();
    let left = place(folder.path(), "left");
    let first = RunSettings { save_encoder: true, ..settings() };
    let first = run(&first, &left, &mut |_| ControlFlow::Continue(())).unwrap().unwrap();
    let started = RunSettings { weights: Some(left.out.join(ENCODER_FILE)), views: true, seed: 1, ..settings() };
    let (whole, pieces) = (place(folder.path(), "whole"), place(folder.path(), "pieces"));
    let result = run(&started, &whole, &mut |_| ControlFlow::Continue(())).unwrap().unwrap();
    assert_eq!(result.given.as_ref(), first.encoders.last());
    assert!(result == in_pieces(&started, &pieces, 4), "the weights are given before a checkpoint is taken up");
    let wider = RunSettings { width: Some(2), ..started };
    let error = run(&wider, &place(folder.path(), "wider"), &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert!(error.to_string().contains(ENCODER_FILE), "{error}");
}

#[test]
fn every_strategy_and_stream_can_be_run() {
    let folder = data();
    let brief = RunSettings { epochs: 1, limit_per_task: Some(8), curve_every: 0, ..settings() };
    for strategy in StrategyKind::ALL {
        for objective in [ObjectiveKind::SimSiam, ObjectiveKind::Supervised] {
            let settings = RunSettings { strategy, objective, ..brief.clone() };
            if settings.check().is_err() {
                continue;
            }
            let place = place(folder.path(), &format!("{strategy:?}-{objective:?}"));
            let result = run(&settings, &place, &mut |_| ControlFlow::Continue(())).unwrap().unwrap();
            let forgets = !matches!(strategy, StrategyKind::Multitask);
            assert_eq!(result.averages.paper.forgetting_from_learned.is_some(), forgets, "{strategy:?}");
            if strategy == StrategyKind::Pnn {
                assert_eq!(result.averages.paper.forgetting_from_learned, Some(0.0));
                assert_eq!(result.averages.strict.average_accuracy, None);
            }
        }
    }
    for stream in
        [StreamKind::Given, StreamKind::Gradual, StreamKind::Imbalanced, StreamKind::Recurring, StreamKind::Interleaved]
    {
        let settings = RunSettings { stream, boundaries: BoundaryKind::None, ..brief.clone() };
        let place = place(folder.path(), &format!("{stream:?}"));
        let result = run(&settings, &place, &mut |_| ControlFlow::Continue(())).unwrap().unwrap();
        assert!(result.averages.strict.average_accuracy.is_some() && result.boundaries.is_empty());
    }
}

#[test]
fn a_folder_of_another_run_is_left_alone() {
    let folder = data();
    let place = place(folder.path(), "run");
    assert!(run(&settings(), &place, &mut |_| ControlFlow::Break(())).unwrap().is_none());
    let busy = std::cell::RefCell::new(None);
    let second = run(&settings(), &place, &mut |_| {
        *busy.borrow_mut() = Some(run(&settings(), &place, &mut |_| ControlFlow::Break(())).unwrap_err().code());
        ControlFlow::Break(())
    });
    assert!(second.unwrap().is_none() && busy.into_inner() == Some("run-busy"));
    let other = RunSettings { epochs: 3, ..settings() };
    let error = run(&other, &place, &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert_eq!(error.code(), "other-run");
    assert!(error.to_string().contains("epochs"), "{error}");
}
