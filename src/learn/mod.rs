//! The learner: gradient steps from a stream and a memory, without labels and without forgetting.
//!
//! [`Trainer`] owns the network, its heads, an objective, a strategy and the optimiser. It takes raw RGB images, packed, and
//! knows nothing of where they come from or when to stop. Objective, strategy and encoder compose freely.
//!
//! ```
//! use lumpd::{config::{LearnSettings, Seed}, encoder::Preset, learn::Trainer};
//! let preset = Preset { width: 2, side: 8, ..Preset::load("resnet18-w16").unwrap() };
//! let mut trainer = Trainer::new(preset, &LearnSettings::default(), &candle_core::Device::Cpu, Seed(0)).unwrap();
//! let images: Vec<u8> = (0..4 * trainer.preset().image_bytes()).map(|i| (i * i) as u8).collect();
//! let report = trainer.step(&images, &[]).unwrap();
//! assert!(report.loss.unwrap().is_finite());
//! ```

mod batch;
pub mod checkpoint;
mod error;
mod guard;
mod objectives;
mod selftest;
mod sgd;
mod state;
mod strategies;
mod tensors;
mod trainer;
mod views;

pub use batch::{Batch, Gradient, Samples};
pub use error::LearnError;
pub use objectives::{Barlow, Objective, SimClr, SimSiam, Supervised, cross_entropy, objective, objective_of};
pub use selftest::check_steps;
pub use sgd::{Sgd, is_finite};
pub use state::{MODEL_FILE, OPTIMISER_FILE, STATE_FILE, STRATEGY_FILE, SavedEncoder, saved_encoder};
pub use strategies::{
    AGem, Cassle, Cost, Der, Dimensions, Ema, Finetune, Gss, Loss, Lump, LumpPlus, Multitask, Network, Pnn, Si, State,
    Strategy, strategy,
};
pub use trainer::{Rate, Skip, StepReport, StepSeconds, Trainer};
pub use views::{ViewMaker, Views};
