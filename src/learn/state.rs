//! What a checkpoint holds of the learner, as named files in memory; who writes them to disk is another matter.
//!
//! ```text
//! model.safetensors       the encoder under torchvision's names, running statistics included; heads under `head.`
//! optimiser.safetensors   momentum, under the names of the parameters
//! strategy.safetensors    what the strategy remembers; not there where it remembers nothing
//! state.json              step, seed, and what the rest was made with
//! ```
//!
//! A state is checked whole before anything of it is taken up.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use super::guard::Memory;
use super::sgd::overwrite;
use super::strategies::Network;
use super::tensors::{Named, parse, serialise};
use super::trainer::{Rate, zeros_like};
use super::{LearnError, Trainer};
use crate::config::{EncoderLayer, ObjectiveKind, Seed, StrategyKind};
use crate::encoder::{Backbone, EncoderId, Frozen, Parameter, PlainResNet18, Preset};

/// The weights.
pub const MODEL_FILE: &str = "model.safetensors";
/// The momentum.
pub const OPTIMISER_FILE: &str = "optimiser.safetensors";
/// What the strategy remembers.
pub const STRATEGY_FILE: &str = "strategy.safetensors";
/// What it was made with.
pub const STATE_FILE: &str = "state.json";

/// Prefixes of the strategy's own variables and of their momentum among what it remembers.
const VARIABLE: &str = "variable.";
const MOMENTUM: &str = "momentum.";

/// Version of the set of files.
const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct State {
    format: u32,
    step: u64,
    seed: u64,
    objective: ObjectiveKind,
    strategy: StrategyKind,
    preset: Preset,
    /// Of the weights that it started from.
    #[serde(default)]
    given: Option<EncoderId>,
    #[serde(default)]
    frozen: Vec<EncoderLayer>,
    /// Halvings of the learning rate that are still in force; not there in states of before it was kept.
    #[serde(default)]
    halvings: u32,
    /// Steps taken since the last of them.
    #[serde(default)]
    since_halving: u64,
    #[serde(default)]
    guard: Memory,
    /// Bits of the rate of the settings.
    #[serde(default)]
    learning_rate: Option<u64>,
}

impl Trainer {
    /// Everything that the next step depends on, as files `(name, bytes)`. The same state gives the same bytes.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn save(&self) -> Result<Vec<(String, Vec<u8>)>, LearnError> {
        let mut model = split(self.backbone.parameters(), self.backbone.layout())?;
        model.extend(split(self.backbone.statistics(), self.backbone.statistics_layout())?);
        let mut momentum = split(&self.momentum, self.backbone.layout())?;
        for ((name, var), buffer) in self.head.variables().iter().zip(&self.head_momentum) {
            model.insert(format!("head.{name}"), values(var)?);
            momentum.insert(format!("head.{name}"), values(buffer)?);
        }
        let state = State {
            format: FORMAT,
            step: self.step,
            seed: self.seed.0,
            objective: self.objective(),
            strategy: self.strategy(),
            preset: self.preset.clone(),
            given: self.given,
            frozen: self.frozen.layers(),
            halvings: self.rate.halvings,
            since_halving: self.rate.since,
            guard: self.guard.memory().clone(),
            learning_rate: Some(self.sgd.learning_rate.to_bits()),
        };
        let mut files = vec![
            (MODEL_FILE.to_owned(), serialise(MODEL_FILE, &model)?),
            (OPTIMISER_FILE.to_owned(), serialise(OPTIMISER_FILE, &momentum)?),
            (STATE_FILE.to_owned(), serde_json::to_vec_pretty(&state).map_err(|error| bad(STATE_FILE, error))?),
        ];
        let remembered = self.strategy.state()?;
        let mut named: Named = remembered
            .iter()
            .map(|(name, tensor)| Ok((name.clone(), values(tensor)?)))
            .collect::<Result<_, LearnError>>()?;
        for ((name, var), buffer) in self.strategy.variables().iter().zip(&self.strategy_momentum) {
            named.insert(format!("{VARIABLE}{name}"), values(var)?);
            named.insert(format!("{MOMENTUM}{name}"), values(buffer)?);
        }
        if !named.is_empty() {
            files.push((STRATEGY_FILE.to_owned(), serialise(STRATEGY_FILE, &named)?));
        }
        Ok(files)
    }

    /// Takes up a state made by [`Trainer::save`]: from here the learner goes on as the saved one would have, its seed
    /// included. A strategy other than the saved one starts without memories; other layers than those frozen then are frozen
    /// from now on, and the log says so. Files of other names are not looked at.
    ///
    /// # Errors
    /// Names the file and tensor that is missing, of another shape or not finite, or the setting that differs. Until
    /// everything is checked nothing is changed.
    pub fn restore(&mut self, files: &[(String, Vec<u8>)]) -> Result<(), LearnError> {
        let state: State = serde_json::from_slice(find(files, STATE_FILE)?).map_err(|error| bad(STATE_FILE, error))?;
        self.check(&state)?;
        let mut model = parse(MODEL_FILE, find(files, MODEL_FILE)?)?;
        let mut optimiser = parse(OPTIMISER_FILE, find(files, OPTIMISER_FILE)?)?;

        let parameters = join(MODEL_FILE, &mut model, self.backbone.layout())?;
        let statistics = join(MODEL_FILE, &mut model, self.backbone.statistics_layout())?;
        let momentum = join(OPTIMISER_FILE, &mut optimiser, self.backbone.layout())?;
        let head_layout: Vec<Parameter> = self
            .head
            .variables()
            .iter()
            .map(|(name, var)| Parameter { name: format!("head.{name}"), shape: var.dims().to_vec(), offset: 0 })
            .collect();
        let head = take_all(MODEL_FILE, &mut model, &head_layout)?;
        let head_momentum = take_all(OPTIMISER_FILE, &mut optimiser, &head_layout)?;
        none_left(MODEL_FILE, &model)?;
        none_left(OPTIMISER_FILE, &optimiser)?;
        let mut remembered = match files.iter().find(|(name, _)| name == STRATEGY_FILE) {
            Some((_, bytes)) if state.strategy == self.strategy() => parse(STRATEGY_FILE, bytes)?,
            _ => Named::new(),
        };
        let trained: Named = remembered.extract_if(.., |name, _| is_trained(name)).collect();
        self.restore_strategy(remembered)?;
        self.restore_variables(trained)?;
        self.strategy.reseed(Seed(state.seed));

        let (dtype, device) = (self.momentum.dtype(), self.momentum.device().clone());
        let flat = |values: Vec<f32>| tensor(values, &[], dtype, &device);
        self.backbone.load(&flat(parameters)?, &flat(statistics)?)?;
        overwrite(&self.momentum, &flat(momentum)?)?;
        for (index, (_, var)) in self.head.variables().iter().enumerate() {
            overwrite(var, &tensor(head[index].clone(), var.dims(), dtype, &device)?)?;
            overwrite(&self.head_momentum[index], &tensor(head_momentum[index].clone(), var.dims(), dtype, &device)?)?;
        }
        self.still_frozen()?;
        let frozen = Frozen::new(&state.frozen);
        if frozen != self.frozen {
            let now = self.frozen;
            tracing::warn!(
                "encoder.freeze was {frozen} when the checkpoint of step {} was written; from here on it is {now}",
                state.step
            );
        }
        (self.step, self.seed, self.given) = (state.step, Seed(state.seed), state.given);
        self.rate = Rate { halvings: state.halvings.min(Rate::MOST_HALVINGS), since: state.since_halving };
        self.guard.recall(state.guard);
        if state.learning_rate != Some(self.sgd.learning_rate.to_bits()) {
            self.guard.start_anew();
        }
        Ok(())
    }

    fn restore_strategy(&mut self, remembered: Named) -> Result<(), LearnError> {
        let device = self.momentum.device().clone();
        let tensors: Result<BTreeMap<String, Tensor>, LearnError> = remembered
            .into_iter()
            .map(|(name, (shape, values))| Ok((name, Tensor::from_vec(values, shape, &device)?)))
            .collect();
        let refused =
            |error: candle_core::Error| LearnError::BadTensor { file: STRATEGY_FILE, message: error.to_string() };
        let (backbone, head, objective) = (self.backbone.as_mut(), &self.head, self.objective.as_ref());
        self.strategy.restore(&tensors?, &mut Network { backbone, head, objective }).map_err(refused)
    }

    /// Those of the strategy, with their momentum; a strategy that the checkpoint does not know keeps fresh ones.
    fn restore_variables(&mut self, mut trained: Named) -> Result<(), LearnError> {
        self.strategy_momentum = zeros_like(self.strategy.as_ref())?;
        if trained.is_empty() {
            return Ok(());
        }
        for ((name, var), buffer) in self.strategy.variables().iter().zip(&self.strategy_momentum) {
            for (prefix, target) in [(VARIABLE, var.as_tensor()), (MOMENTUM, buffer)] {
                let like = Parameter { name: format!("{prefix}{name}"), shape: target.dims().to_vec(), offset: 0 };
                let values = take(STRATEGY_FILE, &mut trained, &like)?;
                overwrite(target, &tensor(values, target.dims(), target.dtype(), target.device())?)?;
            }
        }
        none_left(STRATEGY_FILE, &trained)
    }

    fn check(&self, state: &State) -> Result<(), LearnError> {
        check_format(state)?;
        let differs = |setting, saved: String, wanted: String| Err(LearnError::Mismatch { setting, saved, wanted });
        if state.objective != self.objective() {
            return differs("learn.objective", quoted(&state.objective), quoted(&self.objective()));
        }
        if let Some(wanted) = self.given.filter(|given| Some(*given) != state.given) {
            let saved = state.given.map_or_else(|| "none".into(), |id| format!("those of id {id}"));
            return differs("encoder.weights", saved, format!("those of id {wanted}"));
        }
        // A card may be renamed or described anew; what it says of the network may not change.
        let network = |preset: &Preset| Preset { name: String::new(), description: String::new(), ..preset.clone() };
        if network(&state.preset) != network(self.preset()) {
            return differs("encoder.preset", card(&state.preset), card(self.preset()));
        }
        Ok(())
    }
}

/// The encoder of a saved state.
pub struct SavedEncoder {
    pub preset: Preset,
    /// Steps it had seen.
    pub step: u64,
    /// On the CPU.
    pub backbone: PlainResNet18,
}

/// Takes the encoder alone out of the files of [`Trainer::save`], checked as whole as by [`Trainer::restore`].
///
/// # Errors
/// Names the file and tensor that is missing, of another shape or not finite.
pub fn saved_encoder(files: &[(String, Vec<u8>)]) -> Result<SavedEncoder, LearnError> {
    let state: State = serde_json::from_slice(find(files, STATE_FILE)?).map_err(|error| bad(STATE_FILE, error))?;
    check_format(&state)?;
    let mut backbone = PlainResNet18::new(&state.preset, &Device::Cpu, DType::F32, Seed(state.seed))?;
    let mut model = parse(MODEL_FILE, find(files, MODEL_FILE)?)?;
    let parameters = join(MODEL_FILE, &mut model, backbone.layout())?;
    let statistics = join(MODEL_FILE, &mut model, backbone.statistics_layout())?;
    let flat = |values: Vec<f32>| Tensor::new(values, &Device::Cpu);
    backbone.load(&flat(parameters)?, &flat(statistics)?)?;
    Ok(SavedEncoder { preset: state.preset, step: state.step, backbone })
}

fn check_format(state: &State) -> Result<(), LearnError> {
    if state.format == FORMAT {
        return Ok(());
    }
    Err(bad(STATE_FILE, format!("its format is {}, this program knows {FORMAT}", state.format)))
}

fn is_trained(name: &str) -> bool {
    name.starts_with(VARIABLE) || name.starts_with(MOMENTUM)
}

fn quoted(kind: &ObjectiveKind) -> String {
    serde_json::to_string(kind).unwrap_or_else(|_| format!("{kind:?}"))
}

fn card(preset: &Preset) -> String {
    format!("\"{}\" (width {}, {} pixels)", preset.name, preset.width, preset.side)
}

fn bad(file: &'static str, error: impl ToString) -> LearnError {
    LearnError::BadFile { file, message: error.to_string() }
}

fn find<'a>(files: &'a [(String, Vec<u8>)], file: &'static str) -> Result<&'a [u8], LearnError> {
    let found = files.iter().find(|(name, _)| name == file);
    found.map(|(_, bytes)| bytes.as_slice()).ok_or(LearnError::MissingFile { file })
}

fn values(tensor: &Tensor) -> Result<(Vec<usize>, Vec<f32>), LearnError> {
    Ok((tensor.dims().to_vec(), tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?))
}

/// The named parts of a flat vector.
fn split(flat: &Tensor, layout: &[Parameter]) -> Result<Named, LearnError> {
    let (_, all) = values(flat)?;
    let part = |parameter: &Parameter| all[parameter.offset..][..parameter.elements()].to_vec();
    Ok(layout.iter().map(|p| (p.name.clone(), (p.shape.clone(), part(p)))).collect())
}

/// The flat vector of a layout from its named parts, which are taken out.
fn join(file: &'static str, named: &mut Named, layout: &[Parameter]) -> Result<Vec<f32>, LearnError> {
    Ok(take_all(file, named, layout)?.concat())
}

fn take_all(file: &'static str, named: &mut Named, layout: &[Parameter]) -> Result<Vec<Vec<f32>>, LearnError> {
    layout.iter().map(|parameter| take(file, named, parameter)).collect()
}

fn take(file: &'static str, named: &mut Named, parameter: &Parameter) -> Result<Vec<f32>, LearnError> {
    let Parameter { name, shape, .. } = parameter;
    let refuse = |message| Err(LearnError::BadTensor { file, message });
    let Some((found, values)) = named.remove(name) else { return refuse(format!("\"{name}\" is missing")) };
    if found != *shape {
        return refuse(format!("\"{name}\" has the shape {found:?} where the network has {shape:?}"));
    }
    Ok(values)
}

fn none_left(file: &'static str, named: &Named) -> Result<(), LearnError> {
    match named.keys().next() {
        None => Ok(()),
        Some(name) => Err(LearnError::BadTensor { file, message: format!("the network has no \"{name}\"") }),
    }
}

fn tensor(values: Vec<f32>, shape: &[usize], dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
    let flat = Tensor::new(values, device)?.to_dtype(dtype)?;
    if shape.is_empty() { Ok(flat) } else { flat.reshape(shape) }
}
