//! ResNet-18 in plain tensors with automatic differentiation: slow, on every device, and the definition of what the other
//! backends must compute.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, Var};

use super::architecture::{Block, blocks, initial_parameters, initial_statistics, parameter_layout, statistics_layout};
use super::norm::{BatchStatistics, MOMENTUM, batch_norm, inference_norm, relu};
use super::pool::max_pool;
use super::{Backbone, Embedder, Frozen, Parameter, Preset, Stem};
use crate::config::Seed;
use crate::device::in_pool;

/// The plain backend.
///
/// In f32 it trains; in f64 it is the yardstick of numerical tests (its flat vectors and features are f64 then).
pub struct PlainResNet18 {
    stem: Stem,
    blocks: Vec<Block>,
    layout: Vec<Parameter>,
    statistics_layout: Vec<Parameter>,
    parameters: Tensor,
    statistics: Tensor,
    frozen: Frozen,
    tape: Option<Tape>,
}

/// What a forward pass keeps for the backward pass.
struct Tape {
    /// In the order of the layout; those of frozen layers are no part of the graph.
    variables: Vec<Var>,
    features: Tensor,
}

impl PlainResNet18 {
    /// A freshly initialised network of the preset's width. The size of the images is free: the network is convolutional.
    ///
    /// # Errors
    /// Where the device cannot hold the parameters.
    pub fn new(preset: &Preset, device: &Device, dtype: DType, seed: Seed) -> Result<Self> {
        let layout = parameter_layout(preset.stem, preset.width);
        let statistics_layout = statistics_layout(preset.width);
        let flat = |values: Vec<f32>| Tensor::new(values, device)?.to_dtype(dtype);
        let parameters = flat(initial_parameters(&layout, seed))?;
        let statistics = flat(initial_statistics(&statistics_layout))?;
        Ok(Self {
            stem: preset.stem,
            blocks: blocks(preset.width),
            layout,
            statistics_layout,
            parameters,
            statistics,
            frozen: Frozen::default(),
            tape: None,
        })
    }

    /// Running mean and variance of each batch norm that is frozen, by its name.
    fn frozen_statistics(&self) -> Result<BTreeMap<String, [Tensor; 2]>> {
        let mut running = BTreeMap::new();
        for pair in self.statistics_layout.chunks_exact(2) {
            if let (true, Some((norm, _))) = (self.frozen.holds(&pair[0].name), pair[0].name.rsplit_once('.')) {
                running
                    .insert(norm.to_owned(), [slice(&self.statistics, &pair[0])?, slice(&self.statistics, &pair[1])?]);
            }
        }
        Ok(running)
    }

    /// What every block gives for images (n, side, side, 3), batch norm with its running statistics: (n, channels, height,
    /// width) each, in the order of the data.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn block_outputs(&self, images: &Tensor) -> Result<Vec<Tensor>> {
        let mut outputs = Vec::with_capacity(self.blocks.len());
        self.embedder()?.run(images, &mut |output| outputs.push(output.detach()))?;
        Ok(outputs)
    }

    fn embedder(&self) -> Result<PlainEmbedder> {
        Ok(PlainEmbedder {
            stem: self.stem,
            blocks: self.blocks.clone(),
            weights: slices(&self.parameters, &self.layout)?,
            statistics: slices(&self.statistics, &self.statistics_layout)?,
            dtype: self.parameters.dtype(),
        })
    }

    /// Moves the running statistics towards those of the groups, one after the other.
    fn update_statistics(&mut self, batch: &BTreeMap<String, BatchStatistics>, groups: usize) -> Result<()> {
        for group in 0..groups {
            let mut moved = Vec::with_capacity(self.statistics_layout.len());
            for parameter in &self.statistics_layout {
                let running = slice(&self.statistics, parameter)?;
                moved.push(match observed(batch, &parameter.name) {
                    Some(of_groups) => {
                        running.affine(1.0 - MOMENTUM, 0.0)?.add(&of_groups.get(group)?.affine(MOMENTUM, 0.0)?)?
                    }
                    // Nothing was observed, so the running value stays what it is, to the bit.
                    None => running,
                });
            }
            self.statistics = Tensor::cat(&moved, 0)?;
        }
        Ok(())
    }
}

/// The statistic (groups, channels) of a name such as `bn1.running_mean`.
fn observed<'a>(batch: &'a BTreeMap<String, BatchStatistics>, name: &str) -> Option<&'a Tensor> {
    let (norm, statistic) = name.rsplit_once('.')?;
    let of_norm = batch.get(norm)?;
    // A lone value has no variance; its mean alone would not fit the old variance, so both stay.
    let variance = of_norm.variance.as_ref()?;
    Some(if statistic == "running_mean" { &of_norm.mean } else { variance })
}

/// One parameter of a flat vector, in its shape and with storage of its own.
fn slice(flat: &Tensor, parameter: &Parameter) -> Result<Tensor> {
    flat.narrow(0, parameter.offset, parameter.elements())?.force_contiguous()?.reshape(parameter.shape.as_slice())
}

fn slices(flat: &Tensor, layout: &[Parameter]) -> Result<BTreeMap<String, Tensor>> {
    layout.iter().map(|parameter| Ok((parameter.name.clone(), slice(flat, parameter)?))).collect()
}

/// The network itself: `norm(name, x)` is the batch norm of that name, `seen` is shown what each block gives. Images
/// (n, side, side, 3), features (n, 8 width).
fn network(
    images: &Tensor,
    (stem, blocks): (Stem, &[Block]),
    weights: &BTreeMap<String, Tensor>,
    norm: &mut dyn FnMut(&str, &Tensor) -> Result<Tensor>,
    seen: &mut dyn FnMut(&Tensor),
) -> Result<Tensor> {
    let convolve = |name: &str, x: &Tensor, stride: usize| {
        let kernel = &weights[&format!("{name}.weight")];
        x.conv2d(kernel, kernel.dim(2)? / 2, stride, 1, 1)
    };
    let x = images.permute((0, 3, 1, 2))?.contiguous()?;
    let mut x = relu(&norm("bn1", &convolve("conv1", &x, stem.kernel().1)?)?)?;
    if let Some(window) = stem.pool() {
        x = max_pool(&x, window)?;
    }
    for block in blocks {
        let name = &block.name;
        let y = convolve(&format!("{name}.conv1"), &x, block.stride)?;
        let y = relu(&norm(&format!("{name}.bn1"), &y)?)?;
        let y = norm(&format!("{name}.bn2"), &convolve(&format!("{name}.conv2"), &y, 1)?)?;
        if block.has_downsample() {
            let shortcut = convolve(&format!("{name}.downsample.0"), &x, block.stride)?;
            x = norm(&format!("{name}.downsample.1"), &shortcut)?;
        }
        x = relu(&(y + x)?)?;
        seen(&x);
    }
    x.mean((2, 3))
}

impl Backbone for PlainResNet18 {
    fn layout(&self) -> &[Parameter] {
        &self.layout
    }

    fn statistics_layout(&self) -> &[Parameter] {
        &self.statistics_layout
    }

    fn parameters(&self) -> &Tensor {
        &self.parameters
    }

    fn statistics(&self) -> &Tensor {
        &self.statistics
    }

    fn forward(&mut self, images: &Tensor, groups: usize) -> Result<Tensor> {
        let mut variables = Vec::with_capacity(self.layout.len());
        let mut weights = BTreeMap::new();
        for parameter in &self.layout {
            let variable = Var::from_tensor(&slice(&self.parameters, parameter)?)?;
            let frozen = self.frozen.holds(&parameter.name);
            let weight = if frozen { variable.as_detached_tensor() } else { variable.as_tensor().clone() };
            weights.insert(parameter.name.clone(), weight);
            variables.push(variable);
        }
        let running = self.frozen_statistics()?;
        let mut batch = BTreeMap::new();
        let mut norm = |name: &str, x: &Tensor| {
            let (weight, bias) = (&weights[&format!("{name}.weight")], &weights[&format!("{name}.bias")]);
            if let Some(running) = running.get(name) {
                return inference_norm(x, weight, bias, &running[0], &running[1]);
            }
            let (y, statistics) = batch_norm(x, groups, weight, bias)?;
            batch.insert(name.to_owned(), statistics);
            Ok(y)
        };
        let images = images.to_dtype(self.parameters.dtype())?;
        let features = network(&images, (self.stem, &self.blocks), &weights, &mut norm, &mut |_| {})?;
        self.update_statistics(&batch, groups)?;
        let detached = features.detach();
        self.tape = Some(Tape { variables, features });
        Ok(detached)
    }

    fn backward(&mut self, features_gradient: &Tensor) -> Result<Tensor> {
        let Some(Tape { variables, features }) = self.tape.take() else {
            candle_core::bail!("backward without a forward pass before it");
        };
        // The gradient of <features, d> with d constant is d applied to the Jacobian: the vector-Jacobian product.
        let gradients = features.mul(&features_gradient.detach())?.sum_all()?.backward()?;
        let of = |variable: &Var| match gradients.get(variable) {
            Some(gradient) => gradient.flatten_all(),
            None => variable.zeros_like()?.flatten_all(),
        };
        Ok(Tensor::cat(&variables.iter().map(of).collect::<Result<Vec<_>>>()?, 0)?.detach())
    }

    fn load(&mut self, parameters: &Tensor, statistics: &Tensor) -> Result<()> {
        let copy = |new: &Tensor, old: &Tensor| {
            if new.dims() != old.dims() {
                candle_core::bail!("weights of {:?} values cannot become {:?}", new.dims(), old.dims());
            }
            new.to_dtype(old.dtype())?.to_device(old.device())?.force_contiguous().map(|copy| copy.detach())
        };
        let (parameters, statistics) = (copy(parameters, &self.parameters)?, copy(statistics, &self.statistics)?);
        (self.parameters, self.statistics, self.tape) = (parameters, statistics, None);
        Ok(())
    }

    fn set_frozen(&mut self, frozen: Frozen) -> Result<()> {
        (self.frozen, self.tape) = (frozen, None);
        Ok(())
    }

    fn freeze(&self) -> Result<Arc<dyn Embedder>> {
        Ok(Arc::new(self.embedder()?))
    }
}

/// A frozen copy of the plain backend.
struct PlainEmbedder {
    stem: Stem,
    blocks: Vec<Block>,
    weights: BTreeMap<String, Tensor>,
    statistics: BTreeMap<String, Tensor>,
    dtype: DType,
}

impl Embedder for PlainEmbedder {
    fn features(&self) -> usize {
        self.blocks.last().map_or(0, |block| block.outputs)
    }

    fn embed(&self, images: &Tensor) -> Result<Tensor> {
        in_pool(|| self.run(images, &mut |_| {}))
    }
}

impl PlainEmbedder {
    fn run(&self, images: &Tensor, seen: &mut dyn FnMut(&Tensor)) -> Result<Tensor> {
        let mut norm = |name: &str, x: &Tensor| {
            let weight = |part: &str| &self.weights[&format!("{name}.{part}")];
            let running = |part: &str| &self.statistics[&format!("{name}.running_{part}")];
            inference_norm(x, weight("weight"), weight("bias"), running("mean"), running("var"))
        };
        network(&images.to_dtype(self.dtype)?, (self.stem, &self.blocks), &self.weights, &mut norm, seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::EncoderId;

    fn tiny(dtype: DType) -> PlainResNet18 {
        formed(Stem::Cifar, dtype)
    }

    fn formed(stem: Stem, dtype: DType) -> PlainResNet18 {
        let preset = Preset { width: 2, side: 8, stem, ..Preset::load("resnet18-w16").unwrap() };
        PlainResNet18::new(&preset, &Device::Cpu, dtype, Seed(3)).unwrap()
    }

    fn images(count: usize, side: usize) -> Tensor {
        let mut random = Seed(9).random("images", 0);
        let values: Vec<f64> = (0..count * side * side * 3).map(|_| random.normal()).collect();
        Tensor::from_vec(values, (count, side, side, 3), &Device::Cpu).unwrap()
    }

    fn close(a: &Tensor, b: &Tensor, tolerance: f64) {
        let [a, b] = [a, b].map(|t| t.to_dtype(DType::F64).unwrap());
        let error = (&a - &b).unwrap().sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt();
        let norm = b.sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt();
        assert!(error <= tolerance * norm, "relative error {}", error / norm);
    }

    #[test]
    fn the_gradient_is_that_of_finite_differences() {
        for (stem, side) in [(Stem::Cifar, 8), (Stem::Imagenet, 33)] {
            compare_with_finite_differences(stem, side);
        }
    }

    fn compare_with_finite_differences(stem: Stem, side: usize) {
        let mut network = formed(stem, DType::F64);
        let images = images(4, side);
        let features = network.forward(&images, 2).unwrap();
        let direction = features.affine(0.7, 0.1).unwrap();
        let gradient = network.backward(&direction).unwrap().to_vec1::<f64>().unwrap();
        let parameters = network.parameters().to_vec1::<f64>().unwrap();
        let statistics = network.statistics().clone();
        let mut value = |index: usize, shift: f64| {
            let mut moved = parameters.clone();
            moved[index] += shift;
            network.load(&Tensor::new(moved, &Device::Cpu).unwrap(), &statistics).unwrap();
            let features = network.forward(&images, 2).unwrap();
            features.mul(&direction).unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap()
        };
        let largest = gradient.iter().fold(0f64, |most, g| most.max(g.abs()));
        for index in (0..parameters.len()).step_by(parameters.len() / 23) {
            let numeric = (value(index, 1e-6) - value(index, -1e-6)) / 2e-6;
            let error = (numeric - gradient[index]).abs() / largest;
            assert!(error < 1e-6, "parameter {index}: {numeric} and {}", gradient[index]);
        }
    }

    #[test]
    fn views_are_normalised_apart_and_update_the_running_statistics_in_turn() {
        let images = images(4, 8);
        let (first, second) = (images.narrow(0, 0, 2).unwrap(), images.narrow(0, 2, 2).unwrap());
        let (mut together, mut apart) = (tiny(DType::F64), tiny(DType::F64));
        let both = together.forward(&images, 2).unwrap();
        let one = apart.forward(&first, 1).unwrap();
        let two = apart.forward(&second, 1).unwrap();
        close(&both, &Tensor::cat(&[one, two], 0).unwrap(), 1e-12);
        close(together.statistics(), apart.statistics(), 1e-12);
    }

    #[test]
    fn one_image_that_shrinks_to_one_pixel_is_not_nan() {
        for stem in [Stem::Cifar, Stem::Imagenet] {
            let mut network = formed(stem, DType::F32);
            let features = network.forward(&images(1, 8), 1).unwrap();
            let gradient = network.backward(&features.ones_like().unwrap()).unwrap();
            for tensor in [&features, &gradient, network.statistics()] {
                let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                assert!(values.iter().all(|value| value.is_finite()));
            }
        }
    }

    #[test]
    fn a_frozen_copy_keeps_its_answer_and_its_id_while_the_network_learns() {
        let mut network = tiny(DType::F32);
        network.forward(&images(4, 8), 1).unwrap();
        let (frozen, id) = (network.freeze().unwrap(), EncoderId::of(&network).unwrap());
        let before = frozen.embed(&images(2, 8)).unwrap();
        let moved = network.parameters().affine(1.1, 0.0).unwrap();
        network.parameters().slice_set(&moved, 0, 0).unwrap();
        close(&frozen.embed(&images(2, 8)).unwrap(), &before, 0.0);
        assert_eq!(frozen.features(), 16);
        assert_ne!(EncoderId::of(&network).unwrap(), id);
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn weights_of_another_size_are_refused_and_change_nothing() {
        let mut network = tiny(DType::F32);
        let id = EncoderId::of(&network).unwrap();
        let short = Tensor::zeros(7, DType::F32, &Device::Cpu).unwrap();
        assert!(network.load(&short, &network.statistics().clone()).is_err());
        assert!(network.backward(&short).is_err());
        assert_eq!(EncoderId::of(&network).unwrap(), id);
    }
}
