//! What the learner does when its device runs out of memory, or fails.

use super::*;
use crate::encoder::PlainResNet18;

/// A network on a device that has memory for so many views, and says otherwise as CUDA does.
struct Cramped {
    inner: PlainResNet18,
    views: usize,
    error: &'static str,
}

impl Backbone for Cramped {
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
        if images.dim(0)? > self.views {
            return Err(candle_core::Error::msg(format!("DriverError({})", self.error)).bt());
        }
        Ok(features)
    }

    fn backward(&mut self, features_gradient: &Tensor) -> candle_core::Result<Tensor> {
        self.inner.backward(features_gradient)
    }

    fn load(&mut self, parameters: &Tensor, statistics: &Tensor) -> candle_core::Result<()> {
        self.inner.load(parameters, statistics)
    }

    fn freeze(&self) -> candle_core::Result<Arc<dyn Embedder>> {
        self.inner.freeze()
    }
}

fn preset() -> Preset {
    Preset { width: 2, side: 8, ..Preset::load("resnet18-w16").unwrap() }
}

fn trainer(views: usize, error: &'static str) -> Trainer {
    let settings = LearnSettings { strategy: StrategyKind::Finetune, ..LearnSettings::default() };
    let inner = PlainResNet18::new(&preset(), &Device::Cpu, DType::F32, Seed(1)).unwrap();
    Trainer::with_backbone(preset(), Box::new(Cramped { inner, views, error }), &settings, Seed(1)).unwrap()
}

fn images(count: usize) -> Vec<u8> {
    let mut random = Seed(4).random("test images", 0);
    (0..count * preset().image_bytes()).map(|_| random.below(256) as u8).collect()
}

#[test]
fn a_step_too_large_for_the_device_is_halved_once_and_stays_halved() {
    let (mut cramped, mut roomy) = (trainer(8, "CUDA_ERROR_OUT_OF_MEMORY"), trainer(100, ""));
    assert_eq!(cramped.step(&images(8), &[]).unwrap().images, 4);
    assert_eq!(cramped.step(&images(6), &[]).unwrap().images, 3);
    // What was tried in vain left no trace: the same as if the halves had come at first.
    for count in [4, 3] {
        roomy.step(&images(count), &[]).unwrap();
    }
    assert_eq!(EncoderId::of(cramped.backbone()).unwrap(), EncoderId::of(roomy.backbone()).unwrap());
    let error = cramped.step(&images(40), &[]).unwrap_err();
    assert_eq!(error.code(), "out-of-device-memory");
    assert!(error.to_string().contains("20 images") && error.to_string().contains("learn.batch"), "{error}");
}

#[test]
fn a_device_that_has_failed_is_named_and_not_tried_again() {
    let error = trainer(2, "CUDA_ERROR_ILLEGAL_ADDRESS").step(&images(8), &[]).unwrap_err();
    assert_eq!(error.code(), "device-lost");
    assert!(error.to_string().contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{error}");
    assert!(error.fault().is_some(), "the exit code goes by it");
}
