//! The steps that are measured, on random images.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::config::{LearnSettings, Random, Seed};
use crate::encoder::{self, Embedder, Preset};
use crate::learn::{Batch, Dimensions, StepSeconds, Strategy, Trainer, ViewMaker, Views, strategy};

/// One kind of step, ready to be repeated.
pub(super) enum Work {
    /// From bytes: as the daemon takes a step.
    Step {
        trainer: Box<Trainer>,
        stream: Vec<u8>,
        replay: Vec<u8>,
    },
    /// From views made before: what remains is composing and learning.
    StepOn {
        trainer: Box<Trainer>,
        strategy: Box<dyn Strategy>,
        stream: Views,
        replay: Views,
        random: Random,
    },
    Embed {
        embedder: Arc<dyn Embedder>,
        images: Tensor,
    },
    Views {
        maker: ViewMaker,
        images: Vec<u8>,
        device: Device,
        random: Random,
    },
}

impl Work {
    pub(super) fn training(
        preset: Preset,
        settings: &LearnSettings,
        device: &Device,
        augment: bool,
    ) -> anyhow::Result<Self> {
        let stream = pixels(&preset, "stream", settings.batch);
        let replay = pixels(&preset, "replay", settings.replay_batch);
        let maker = ViewMaker::new(&preset);
        let trainer = Box::new(Trainer::new(preset, settings, device, Seed(0))?);
        if augment {
            return Ok(Self::Step { trainer, stream, replay });
        }
        let mut random = Seed(0).random("bench views", 0);
        let mut views = |images: &[u8]| maker.pair(images, &mut random, device);
        let (stream, replay) = (views(&stream)?, views(&replay)?);
        // It only composes here, which the widths of the network do not matter to.
        let features = trainer.preset().features();
        let (dtype, device) = (DType::F32, device.clone());
        let dimensions = Dimensions { features, projected: features, dtype, device, seed: Seed(0) };
        let strategy = strategy(settings, &dimensions)?;
        Ok(Self::StepOn { trainer, strategy, stream, replay, random })
    }

    pub(super) fn embedding(preset: &Preset, settings: &LearnSettings, device: &Device) -> anyhow::Result<Self> {
        let network = encoder::build(preset, device, settings.precision, Seed(0))?;
        let images = preset.normalise(&pixels(preset, "images", settings.batch), device)?;
        Ok(Self::Embed { embedder: network.freeze()?, images })
    }

    pub(super) fn views(preset: &Preset, batch: usize, device: &Device) -> Self {
        let (images, random) = (pixels(preset, "images", batch), Seed(0).random("bench views", 0));
        Self::Views { maker: ViewMaker::new(preset), images, device: device.clone(), random }
    }

    /// Does it once; says where the time went, where the step tells.
    pub(super) fn step(&mut self) -> anyhow::Result<Option<StepSeconds>> {
        match self {
            Self::Step { trainer, stream, replay } => Ok(Some(trainer.step(stream, replay)?.seconds)),
            Self::StepOn { trainer, strategy, stream, replay, random } => {
                let replay = strategy.rehearses().then(|| replay.clone());
                let passes = strategy.compose(Some(Batch::of(stream.clone())), replay.map(Batch::of), random)?;
                let [pass] = passes.as_slice() else {
                    anyhow::bail!("{:?} takes several passes a step: measure it with --augment", strategy.kind())
                };
                Ok(Some(trainer.step_on(&pass.views)?.seconds))
            }
            Self::Embed { embedder, images } => {
                embedder.embed(images)?;
                Ok(None)
            }
            Self::Views { maker, images, device, random } => {
                maker.pair(images, random, device)?;
                Ok(None)
            }
        }
    }
}

fn pixels(preset: &Preset, purpose: &str, count: usize) -> Vec<u8> {
    let mut random = Seed(0).random(purpose, 0);
    (0..count * preset.image_bytes()).map(|_| random.below(256) as u8).collect()
}
