//! What goes wrong in training and what becomes of it: bad gradients, a rate far too high, a device without memory.

use std::sync::{Arc, Mutex};

use super::tests::{id, images, preset, settings};
use super::*;
use crate::encoder::PlainResNet18;

/// What a faulty device does to the next passes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// Every value of the gradient times this.
    Scale(f64),
    /// One value of the gradient is this.
    Value(usize, f32),
    /// This many forward passes run out of memory.
    OutOfMemory(usize),
}

#[derive(Clone, Default)]
struct Faults(Arc<Mutex<Option<Fault>>>);

impl Faults {
    fn set(&self, fault: impl Into<Option<Fault>>) {
        *self.0.lock().unwrap() = fault.into();
    }

    fn get(&self) -> Option<Fault> {
        *self.0.lock().unwrap()
    }
}

/// A network on a device that fails on demand.
struct Faulty {
    inner: Box<dyn Backbone>,
    faults: Faults,
}

impl Backbone for Faulty {
    fn layout(&self) -> &[Parameter] {
        self.inner.layout()
    }

    fn statistics_layout(&self) -> &[Parameter] {
        self.inner.statistics_layout()
    }

    fn parameters(&self) -> &Tensor {
        self.inner.parameters()
    }

    fn statistics(&self) -> &Tensor {
        self.inner.statistics()
    }

    fn forward(&mut self, images: &Tensor, groups: usize) -> candle_core::Result<Tensor> {
        let features = self.inner.forward(images, groups)?;
        match self.faults.get() {
            Some(Fault::OutOfMemory(left)) if left > 0 => {
                self.faults.set(Fault::OutOfMemory(left - 1));
                candle_core::bail!("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")")
            }
            _ => Ok(features),
        }
    }

    fn backward(&mut self, features_gradient: &Tensor) -> candle_core::Result<Tensor> {
        let gradient = self.inner.backward(features_gradient)?;
        match self.faults.get() {
            Some(Fault::Scale(factor)) => gradient.affine(factor, 0.0),
            Some(Fault::Value(at, value)) => {
                let mut values = gradient.to_vec1::<f32>()?;
                let count = values.len();
                values[at % count] = value;
                Tensor::from_vec(values, count, gradient.device())
            }
            _ => Ok(gradient),
        }
    }

    fn load(&mut self, parameters: &Tensor, statistics: &Tensor) -> candle_core::Result<()> {
        self.inner.load(parameters, statistics)
    }

    fn freeze(&self) -> candle_core::Result<Arc<dyn Embedder>> {
        self.inner.freeze()
    }
}

fn faulty(strategy: StrategyKind) -> (Trainer, Faults) {
    let faults = Faults::default();
    let inner = Box::new(PlainResNet18::new(&preset(), &Device::Cpu, DType::F32, Seed(11)).unwrap());
    let backbone = Box::new(Faulty { inner, faults: faults.clone() });
    let settings = settings(ObjectiveKind::SimClr, strategy);
    (Trainer::with_backbone(preset(), backbone, &settings, Seed(11)).unwrap(), faults)
}

/// Enough steps that it is known what is usual.
fn warm_up(trainer: &mut Trainer) {
    for step in 0..60 {
        let report = trainer.step(&images(step, 4), &images(step + 1000, 4)).unwrap();
        assert_eq!(report.skipped, None, "step {step}");
    }
}

#[test]
fn a_hundred_of_a_hundred_corrupted_gradients_change_no_weight() {
    let (mut trainer, faults) = faulty(StrategyKind::Lump);
    warm_up(&mut trainer);
    let (usual, before) = (trainer.guard.clone(), trainer.save().unwrap());
    let weights = id(&trainer);
    let mut random = Seed(5).random("corrupted gradients", 0);
    let mut contained = 0;
    for case in 0..100 {
        let at = random.below(1 << 20) as usize;
        faults.set(match case % 5 {
            0 => Fault::Value(at, f32::NAN),
            1 => Fault::Value(at, f32::INFINITY),
            2 => Fault::Value(at, f32::NEG_INFINITY),
            3 => Fault::Scale(10_f64.powi(4 + random.below(20) as i32)),
            _ => Fault::Value(at, -1e30),
        });
        match trainer.step(&images(case, 4), &images(case + 1000, 4)) {
            Ok(report) => assert!(report.skipped.is_some(), "case {case}: {report:?}"),
            Err(error) => assert_eq!(error.code(), "training-diverged", "case {case}"),
        }
        assert_eq!(id(&trainer), weights, "case {case}");
        contained += 1;
        // As if nothing had been: each case is the first one.
        trainer.guard = usual.clone();
    }
    println!("{contained} of 100 corrupted gradients contained");
    let kept = |files: &[(String, Vec<u8>)], name: &str| files.iter().find(|(n, _)| n == name).unwrap().1.clone();
    let after = trainer.save().unwrap();
    for name in [crate::learn::MODEL_FILE, crate::learn::OPTIMISER_FILE] {
        assert!(kept(&before, name) == kept(&after, name), "{name} has changed");
    }
}

#[test]
fn a_rate_a_thousand_times_too_high_is_noticed_within_ten_steps_and_undone() {
    for objective in [ObjectiveKind::SimClr, ObjectiveKind::Barlow, ObjectiveKind::SimSiam] {
        let settings = LearnSettings { learning_rate: 0.02, ..settings(objective, StrategyKind::Lump) };
        let mut trainer = Trainer::new(preset(), &settings, &Device::Cpu, Seed(11)).unwrap();
        // A few images over and over, so that there is something to lose.
        let (stream, replay) = (images(1, 8), images(2, 8));
        for _ in 0..120 {
            trainer.step(&stream, &replay).unwrap();
        }
        let good = trainer.save().unwrap();
        trainer.sgd.learning_rate *= 1000.0;
        let (mut steps, mut skipped) = (0, 0);
        let error = loop {
            steps += 1;
            assert!(steps <= 10, "{objective:?}: not noticed, {skipped} skipped");
            match trainer.step(&stream, &replay) {
                Ok(report) => skipped += usize::from(report.skipped.is_some()),
                Err(error) => break error,
            }
        };
        assert_eq!(error.code(), "training-diverged");
        let same = |name: &str, files: &[(String, Vec<u8>)]| files.iter().find(|(n, _)| n == name).unwrap().1.clone();
        println!("{objective:?}: noticed after {steps} steps");
        trainer.sgd.learning_rate = 0.02;
        let (step, rate) = (trainer.steps(), trainer.rate());
        trainer.restore(&good).unwrap();
        let now = trainer.save().unwrap();
        assert!(same(crate::learn::MODEL_FILE, &now) == same(crate::learn::MODEL_FILE, &good), "undone");
        trainer.change_course(step + 1, rate);
        assert_eq!(trainer.learning_rate(), 0.01, "the rate is halved");
        let report = trainer.step(&stream, &replay).unwrap();
        assert_eq!((report.step, report.skipped), (step + 1, None), "other batches follow");
        assert!(trainer.is_calm());
    }
}

#[test]
fn images_of_a_new_kind_are_learnt_from_although_their_loss_is_far_out() {
    let mut trainer =
        Trainer::new(preset(), &settings(ObjectiveKind::SimClr, StrategyKind::Finetune), &Device::Cpu, Seed(11))
            .unwrap();
    // Black images cannot be told apart: their loss is that of chance, whatever the weights.
    let old = vec![0; 4 * preset().image_bytes()];
    let usual = trainer.probe_loss(&old).unwrap().unwrap();
    (0..60).for_each(|_| trainer.guard.took(4, usual / 1.05, 1.0));
    // Noise is worse than chance for a network that has learnt nothing, often enough.
    let mut found = [false; 2];
    for event in 0..200 {
        let new = images(event, 4);
        let bound = trainer.guard.loss_bound(4).unwrap();
        assert!(usual < bound);
        if trainer.probe_loss(&new).unwrap() < Some(bound) {
            continue;
        }
        // The old images are as usual, so it is news; or nothing is, and it is divergence.
        let (replay, skipped) = match event % 2 {
            0 => (&old, None),
            _ => (&new, Some(Skip::LossOutOfBounds)),
        };
        let report = trainer.step(&new, replay).unwrap();
        if report.loss > Some(bound) {
            assert_eq!(report.skipped, skipped, "{report:?}, bound {bound}");
            found[event as usize % 2] = true;
            trainer.guard.start_anew();
            (0..60).for_each(|_| trainer.guard.took(4, usual / 1.05, 1.0));
        }
        if found == [true; 2] {
            assert!(trainer.out_of_bounds_steps() > 0);
            return;
        }
    }
    panic!("no image was out of bounds both ways: {found:?}");
}

#[test]
fn a_device_without_memory_halves_the_batch_once_and_then_asks_for_a_new_start() {
    let (mut trainer, faults) = faulty(StrategyKind::Lump);
    let (stream, replay) = (images(0, 8), images(1, 8));
    assert_eq!(trainer.step(&stream, &replay).unwrap().images, 8);
    faults.set(Fault::OutOfMemory(1));
    let report = trainer.step(&stream, &replay).unwrap();
    assert_eq!((report.images, report.skipped, trainer.is_halved()), (4, None, true));
    assert_eq!(trainer.step(&stream, &replay).unwrap().images, 4, "from now on");
    let before = trainer.save().unwrap();
    faults.set(Fault::OutOfMemory(1));
    let error = trainer.step(&stream, &replay).unwrap_err();
    assert!(error.is_out_of_memory() && error.code() == "out-of-device-memory", "{error}");
    assert_eq!(trainer.save().unwrap(), before, "a step that failed leaves no trace");

    let (mut trainer, faults) = faulty(StrategyKind::Lump);
    faults.set(Fault::OutOfMemory(2));
    assert_eq!(trainer.step(&stream, &replay).unwrap_err().code(), "out-of-device-memory");
    let other = LearnError::Tensor(candle_core::Error::msg("shape mismatch"));
    assert!(!other.is_out_of_memory(), "the advice in the message is no sign");
}
