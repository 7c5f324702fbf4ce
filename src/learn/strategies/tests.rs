use super::*;
use crate::config::ObjectiveKind;
use crate::encoder::Preset;
use crate::learn::{Samples, Trainer, Views};

fn preset() -> Preset {
    Preset { width: 2, side: 8, ..Preset::load("resnet18-w16").unwrap() }
}

fn settings(objective: ObjectiveKind, strategy: StrategyKind) -> LearnSettings {
    LearnSettings { objective, strategy, learning_rate: 0.05, replay_batch: 4, ..LearnSettings::default() }
}

fn trainer(settings: &LearnSettings, seed: u64) -> Trainer {
    Trainer::new(preset(), settings, &Device::Cpu, Seed(seed)).unwrap()
}

fn images(event: u64, count: usize) -> Vec<u8> {
    let mut random = Seed(4).random("test images", event);
    (0..count * preset().image_bytes()).map(|_| random.below(256) as u8).collect()
}

/// A step on four images of the stream and four replayed ones, with numbers and classes.
fn step(trainer: &mut Trainer, event: u64) -> f64 {
    let (stream, replay) = (images(event, 4), images(event % 2 + 100, 4));
    let ids = [0, 1, 2, 3].map(|index| event * 10 + index);
    let replay_ids = [0, 1, 2, 3].map(|index| event % 2 * 10 + index);
    let stream = Samples { pixels: &stream, ids: &ids, labels: &[0, 1, 2, 3] };
    let replay = Samples { pixels: &replay, ids: &replay_ids, labels: &[3, 2, 1, 0] };
    let report = trainer.step_samples(&stream, &replay).unwrap();
    assert_eq!(report.skipped, None);
    report.loss.unwrap()
}

fn flat(values: &[f32]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

fn gradient(values: &[f32], other: f32) -> Gradient {
    Gradient { backbone: flat(values), others: vec![flat(&[other])] }
}

/// The files are the same to the bit; where not, their names say more than their bytes.
fn same(files: &[(String, Vec<u8>)], expected: &[(String, Vec<u8>)], what: &str) {
    let names = |files: &[(String, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(files), names(expected), "{what}");
    let differ: Vec<_> = files.iter().zip(expected).filter(|(a, b)| a != b).map(|((name, _), _)| name).collect();
    assert!(differ.is_empty(), "{what}: {differ:?} differ");
}

#[test]
fn every_strategy_goes_on_after_a_restart_to_the_same_bits() {
    for kind in StrategyKind::ALL {
        let objectives: &[ObjectiveKind] = match kind {
            StrategyKind::AGem | StrategyKind::Gss => &[ObjectiveKind::Supervised],
            StrategyKind::Lump | StrategyKind::LumpPlus | StrategyKind::Cassle | StrategyKind::Ema => {
                &[ObjectiveKind::SimClr, ObjectiveKind::Barlow]
            }
            _ => &[ObjectiveKind::SimSiam, ObjectiveKind::Supervised],
        };
        for &objective in objectives {
            let settings = settings(objective, kind);
            let play = |trainer: &mut Trainer, events: std::ops::Range<u64>| {
                for event in events {
                    step(trainer, event);
                    if event % 2 == 1 {
                        trainer.at_boundary().unwrap();
                    }
                }
            };
            let mut whole = trainer(&settings, 11);
            play(&mut whole, 0..5);
            let files = whole.save().unwrap();
            play(&mut whole, 5..8);
            // Another seed, and a past of its own: neither may show.
            let mut second = trainer(&settings, 99);
            play(&mut second, 20..22);
            second.restore(&files).unwrap();
            same(&second.save().unwrap(), &files, &format!("restored: {kind:?} {objective:?}"));
            play(&mut second, 5..8);
            same(&second.save().unwrap(), &whole.save().unwrap(), &format!("gone on: {kind:?} {objective:?}"));
        }
    }
}

#[test]
fn a_strategy_that_remembers_differs_from_finetuning_after_a_boundary() {
    let end = |kind, objective| {
        let mut trainer = trainer(&settings(objective, kind), 11);
        (0..3).for_each(|event| _ = step(&mut trainer, event));
        trainer.at_boundary().unwrap();
        (3..6).for_each(|event| _ = step(&mut trainer, event));
        trainer.backbone().parameters().to_vec1::<f32>().unwrap()
    };
    for objective in [ObjectiveKind::SimClr, ObjectiveKind::Supervised] {
        let finetuned = end(StrategyKind::Finetune, objective);
        assert_eq!(end(StrategyKind::Multitask, objective), finetuned);
        for kind in [StrategyKind::Si, StrategyKind::Der, StrategyKind::Cassle, StrategyKind::Ema, StrategyKind::Pnn] {
            if objective == ObjectiveKind::Supervised && matches!(kind, StrategyKind::Cassle | StrategyKind::Ema) {
                continue;
            }
            assert_ne!(end(kind, objective), finetuned, "{kind:?} {objective:?}");
        }
    }
}

#[test]
fn importance_is_the_path_over_the_distance_and_pulls_back() {
    // One parameter of the network is followed by hand: two steps of plain descent, a boundary, one step more.
    let settings = LearnSettings {
        momentum: 0.0,
        weight_decay: 0.0,
        si_weight: 0.7,
        ..settings(ObjectiveKind::SimClr, StrategyKind::Si)
    };
    let mut trainer = trainer(&settings, 11);
    let values = |trainer: &Trainer| trainer.backbone().parameters().to_vec1::<f32>().unwrap();
    let rate = 0.05f32;
    let mut points = vec![values(&trainer)];
    for event in 0..2 {
        step(&mut trainer, event);
        points.push(values(&trainer));
    }
    trainer.at_boundary().unwrap();
    let state = trainer.strategy_state().unwrap();
    let importance = state["importance"].to_vec1::<f32>().unwrap();
    for index in (0..importance.len()).step_by(97) {
        let moved = |step: usize| points[step + 1][index] - points[step][index];
        // Without penalty and momentum the gradient is -moved / rate, so the path is the sum of moved^2 / rate.
        let path = (0..2).map(|step| moved(step) * moved(step) / rate).sum::<f32>();
        let distance = points[2][index] - points[0][index];
        let expected = path / (distance * distance + 1.0);
        assert!((importance[index] - expected).abs() <= 1e-3 * expected + 1e-9, "{} {expected}", importance[index]);
    }
    let mut si = Si::new(0.7);
    let mut network = self::trainer(&settings, 1);
    network.with_network(|network| si.restore(&state, network)).unwrap();
    let at = flat(&points[2]).affine(1.0, 0.5).unwrap();
    let pulled = si.regularise(&at, at.zeros_like().unwrap()).unwrap().to_vec1::<f32>().unwrap();
    for index in (0..importance.len()).step_by(97) {
        assert!((pulled[index] - 2.0 * 0.7 * importance[index] * 0.5).abs() < 1e-6);
    }
}

#[test]
fn a_gradient_against_the_memory_is_projected_onto_its_border() {
    let combined = AGem.combine(vec![gradient(&[1.0, 2.0], 0.0), gradient(&[1.0, -1.0], 1.0)]).unwrap();
    // g.r = -1, r.r = 3: g + r / 3.
    let expected = [1.0 + 1.0 / 3.0, 2.0 - 1.0 / 3.0];
    for (value, expected) in combined.backbone.to_vec1::<f32>().unwrap().into_iter().zip(expected) {
        assert!((value - expected).abs() < 1e-6);
    }
    assert!((combined.others[0].to_vec1::<f32>().unwrap()[0] - 1.0 / 3.0).abs() < 1e-6);
    let untouched = AGem.combine(vec![gradient(&[1.0, 2.0], 0.0), gradient(&[1.0, 1.0], 0.0)]).unwrap();
    assert_eq!(untouched.backbone.to_vec1::<f32>().unwrap(), [1.0, 2.0]);
    let alone = AGem.combine(vec![gradient(&[1.0, 2.0], 0.0)]).unwrap();
    assert_eq!(alone.backbone.to_vec1::<f32>().unwrap(), [1.0, 2.0]);
}

#[test]
fn dark_experience_is_compared_with_what_was_seen_first() {
    let trainer = trainer(&settings(ObjectiveKind::SimClr, StrategyKind::Der), 1);
    let mut der = Der::new(0.5);
    let rows = |values: &[[f32; 2]; 2]| Tensor::new(values, &Device::Cpu).unwrap();
    let views = Views { first: rows(&[[0.0; 2]; 2]), second: rows(&[[0.0; 2]; 2]) };
    let batch = |ids: &[u64]| Batch { ids: ids.to_vec(), replayed: 2, ..Batch::of(views.clone()) };
    let mut loss = |ids: &[u64], first: [[f32; 2]; 2], second: [[f32; 2]; 2]| {
        let (first, second) = (rows(&first), rows(&second));
        let of = |loss: Loss<'_>| der.extra_loss(1, &batch(ids), [&first, &second], loss);
        trainer.with_loss(of).unwrap().map(|loss| loss.to_scalar::<f32>().unwrap())
    };
    assert_eq!(loss(&[7, 8], [[1.0, 2.0], [3.0, 4.0]], [[3.0, 2.0], [3.0, 4.0]]), None, "nothing is known yet");
    // Image 7 was (2, 2) in the mean of its views and is (4, 1) now; image 9 is new.
    let distance = loss(&[7, 9], [[4.0, 1.0], [0.0, 0.0]], [[4.0, 1.0], [0.0, 0.0]]).unwrap();
    assert!((distance - 0.5 * (4.0 + 1.0) / 2.0).abs() < 1e-6, "{distance}");
    let again = loss(&[7, 7], [[2.0, 2.0], [2.0, 2.0]], [[2.0, 2.0], [2.0, 2.0]]).unwrap();
    assert_eq!(again, 0.0, "what was seen first stays the yardstick");
}

#[test]
fn a_selected_memory_prefers_gradients_that_point_elsewhere() {
    let mut gss = Gss::new(4, Seed(1));
    let factors = |x: f64, y: f64| gss::testing::factors(vec![1.0, 0.0], vec![x, y]);
    let drawn = [factors(1.0, 0.0)];
    for slot in 0..gss::SLOTS {
        gss::testing::consider(&mut gss, &[slot as u8], 0, &factors(1.0, 0.0), &drawn);
    }
    assert_eq!(gss::testing::memory(&gss).0.len(), gss::SLOTS);
    for _ in 0..200 {
        gss::testing::consider(&mut gss, &[1], 1, &factors(1.0, 0.0), &drawn);
    }
    assert!(gss::testing::memory(&gss).1.iter().all(|label| *label == 0), "more of the same is not stored");
    for _ in 0..200 {
        gss::testing::consider(&mut gss, &[1], 2, &factors(-1.0, 0.0), &drawn);
    }
    // Stored scores are 2, the candidate's is 0: each replaces with certainty, until its own slots are hit, of weight 0.
    assert_eq!(gss::testing::memory(&gss).1.iter().filter(|label| **label == 2).count(), 200);
}

#[test]
fn an_average_that_does_not_move_keeps_its_view_of_the_network() {
    let projections = |decay: f64| {
        let settings = LearnSettings { ema_decay: decay, ..settings(ObjectiveKind::SimClr, StrategyKind::Ema) };
        let mut trainer = trainer(&settings, 11);
        (0..3).for_each(|event| _ = step(&mut trainer, event));
        let state = trainer.strategy_state().unwrap();
        (
            state["teacher.parameters"].to_vec1::<f32>().unwrap(),
            trainer.backbone().parameters().to_vec1::<f32>().unwrap(),
        )
    };
    let start = trainer(&settings(ObjectiveKind::SimClr, StrategyKind::Ema), 11);
    let start = start.backbone().parameters().to_vec1::<f32>().unwrap();
    assert_eq!(projections(1.0).0, start);
    let (teacher, now) = projections(0.0);
    assert!(teacher.iter().zip(&now).all(|(a, b)| (a - b).abs() < 1e-6));
    assert_ne!(now, start);
}

#[test]
fn a_large_replay_batch_is_mixed_as_far_as_the_stream_goes_and_the_rest_is_aligned() {
    let views = |values: &[f32]| {
        let first = flat(values).reshape(((), 1, 1, 1)).unwrap();
        Batch::of(Views { second: first.clone(), first })
    };
    let settings = settings(ObjectiveKind::SimClr, StrategyKind::LumpPlus);
    let dimensions = Dimensions { features: 16, projected: 128, dtype: DType::F32, device: Device::Cpu, seed: Seed(1) };
    let mut plus = strategy(&settings, &dimensions).unwrap();
    let mut random = Seed(1).random("mix", 0);
    let composed =
        plus.compose(Some(views(&[0.0, 0.0])), Some(views(&[1.0, 1.0, 5.0, 6.0, 7.0])), &mut random).unwrap();
    assert_eq!((composed.len(), composed[0].count(), composed[0].replayed), (1, 5, 3));
    let values = composed[0].views.first.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(values[2..], [5.0, 6.0, 7.0]);
    assert!(values[0] == values[1] && (0.0..=1.0).contains(&values[0]));
}

#[test]
fn a_task_keeps_the_column_that_learnt_it() {
    let mut trainer = trainer(&settings(ObjectiveKind::SimClr, StrategyKind::Pnn), 11);
    let pixels = trainer.preset().normalise(&images(50, 3), &Device::Cpu).unwrap();
    let embed = |embedder: Arc<dyn Embedder>| embedder.embed(&pixels).unwrap().flatten_all().unwrap().to_vec1::<f32>();
    let mut ends = Vec::new();
    for task in 0..3 {
        (0..2).for_each(|event| _ = step(&mut trainer, 2 * task + event));
        ends.push(embed(trainer.embedder().unwrap().1).unwrap());
        trainer.at_boundary().unwrap();
    }
    for (task, end) in ends.iter().enumerate() {
        assert_eq!(&embed(trainer.column(task).unwrap()).unwrap(), end);
    }
    assert!(trainer.column(3).is_none());
}

#[test]
fn numbers_survive_as_floats() {
    let numbers = [0, 1, 65_535, 65_536, u64::MAX, 0x0123_4567_89ab_cdef];
    let tensor = numbers_to_tensor(&numbers, &Device::Cpu).unwrap();
    assert_eq!(tensor_to_numbers(&tensor).unwrap(), numbers);
}
