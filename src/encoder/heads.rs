//! The heads of the objectives: multilayer perceptrons on top of the features, used in training only.
//!
//! Their batch norm takes the statistics of the batch, always: a head is never asked about a single image, so it keeps no
//! running ones. Linear layers that batch norm follows have no bias, which it would cancel.

use candle_core::{DType, Device, Result, Tensor, Var};

use super::fused::FusedNorm;
use super::norm::{batch_norm, relu};
use crate::config::Seed;

/// One layer: linear, then batch norm, then ReLU, the latter two where asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerShape {
    pub outputs: usize,
    pub norm: bool,
    pub relu: bool,
}

impl LayerShape {
    /// Linear, batch norm, ReLU.
    pub const fn hidden(outputs: usize) -> Self {
        Self { outputs, norm: true, relu: true }
    }

    /// Linear, batch norm.
    pub const fn normed(outputs: usize) -> Self {
        Self { outputs, norm: true, relu: false }
    }

    /// Linear with bias.
    pub const fn linear(outputs: usize) -> Self {
        Self { outputs, norm: false, relu: false }
    }
}

/// The layers of a head.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeadShape {
    pub projector: Vec<LayerShape>,
    /// Empty where the objective has none.
    pub predictor: Vec<LayerShape>,
}

struct Layer {
    /// (outputs, inputs)
    weight: Var,
    bias: Option<Var>,
    norm: Option<(Var, Var)>,
    relu: bool,
}

impl Layer {
    fn forward(&self, x: &Tensor, groups: usize) -> Result<Tensor> {
        // Not x W^T: so the gradient of W is that of a left factor, which comes in W's own layout.
        let mut x = self.weight.matmul(&x.t()?)?.t()?.contiguous()?;
        if let Some(bias) = &self.bias {
            x = x.broadcast_add(bias)?;
        }
        if let Some((weight, bias)) = &self.norm {
            if let Some(fused) = FusedNorm::of(&x, groups, self.relu) {
                return fused.apply(&x, weight, bias);
            }
            x = batch_norm(&x, groups, weight, bias)?.0;
        }
        if self.relu { relu(&x) } else { Ok(x) }
    }
}

/// A projector and, where the objective has one, a predictor.
pub struct Head {
    projector: Vec<Layer>,
    predictor: Vec<Layer>,
    variables: Vec<(String, Var)>,
}

impl Head {
    /// A fresh head on features of that width. Weights and biases are uniform within 1 / sqrt(inputs), as PyTorch's linear
    /// layers start; batch norm starts as the identity.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn new(shape: &HeadShape, features: usize, dtype: DType, device: &Device, seed: Seed) -> Result<Self> {
        let mut builder = Builder { dtype, device, seed, variables: Vec::new() };
        let projector = builder.layers("projector", &shape.projector, features)?;
        let projected = shape.projector.last().map_or(features, |layer| layer.outputs);
        let predictor = builder.layers("predictor", &shape.predictor, projected)?;
        Ok(Self { projector, predictor, variables: builder.variables })
    }

    /// The trainable parameters by name, such as `projector.0.weight` and `projector.0.norm.bias`, always in the same order.
    pub fn variables(&self) -> &[(String, Var)] {
        &self.variables
    }

    /// Projections of features (n, features), of `groups` equal runs each normalised by itself: (n, projected).
    pub fn project(&self, features: &Tensor, groups: usize) -> Result<Tensor> {
        self.projector.iter().try_fold(features.clone(), |x, layer| layer.forward(&x, groups))
    }

    /// Predictions of projections (n, projected); the projections themselves where there is no predictor.
    pub fn predict(&self, projections: &Tensor, groups: usize) -> Result<Tensor> {
        self.predictor.iter().try_fold(projections.clone(), |x, layer| layer.forward(&x, groups))
    }
}

struct Builder<'a> {
    dtype: DType,
    device: &'a Device,
    seed: Seed,
    variables: Vec<(String, Var)>,
}

impl Builder<'_> {
    fn layers(&mut self, part: &str, shapes: &[LayerShape], mut inputs: usize) -> Result<Vec<Layer>> {
        let mut layers = Vec::with_capacity(shapes.len());
        for (index, shape) in shapes.iter().enumerate() {
            layers.push(self.layer(&format!("{part}.{index}"), shape, inputs)?);
            inputs = shape.outputs;
        }
        Ok(layers)
    }

    fn layer(&mut self, name: &str, shape: &LayerShape, inputs: usize) -> Result<Layer> {
        let outputs = shape.outputs;
        let weight = self.uniform(format!("{name}.weight"), &[outputs, inputs], inputs)?;
        let bias = match shape.norm {
            true => None,
            false => Some(self.uniform(format!("{name}.bias"), &[outputs], inputs)?),
        };
        let norm = match shape.norm {
            true => Some((
                self.variable(format!("{name}.norm.weight"), vec![1.0; outputs], &[outputs])?,
                self.variable(format!("{name}.norm.bias"), vec![0.0; outputs], &[outputs])?,
            )),
            false => None,
        };
        Ok(Layer { weight, bias, norm, relu: shape.relu })
    }

    fn uniform(&mut self, name: String, shape: &[usize], inputs: usize) -> Result<Var> {
        let bound = 1.0 / (inputs as f64).sqrt();
        let mut random = self.seed.random(&name, 0);
        let values = (0..shape.iter().product()).map(|_| random.range(-bound, bound) as f32).collect();
        self.variable(name, values, shape)
    }

    fn variable(&mut self, name: String, values: Vec<f32>, shape: &[usize]) -> Result<Var> {
        let tensor = Tensor::from_vec(values, shape, self.device)?.to_dtype(self.dtype)?;
        let variable = Var::from_tensor(&tensor)?;
        self.variables.push((name, variable.clone()));
        Ok(variable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_names_its_parameters_and_projects() {
        let shape = HeadShape {
            projector: vec![LayerShape::hidden(6), LayerShape::normed(5)],
            predictor: vec![LayerShape::hidden(2), LayerShape::linear(5)],
        };
        let head = Head::new(&shape, 4, DType::F32, &Device::Cpu, Seed(1)).unwrap();
        let names: Vec<&str> = head.variables().iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names[..3], ["projector.0.weight", "projector.0.norm.weight", "projector.0.norm.bias"]);
        assert_eq!(names[9..], ["predictor.1.weight", "predictor.1.bias"]);
        let features = Tensor::arange(0f32, 16.0, &Device::Cpu).unwrap().reshape((4, 4)).unwrap();
        let z = head.project(&features, 2).unwrap();
        assert_eq!(z.dims(), [4, 5]);
        assert_eq!(head.predict(&z, 2).unwrap().dims(), [4, 5]);
        let means = z.narrow(0, 0, 2).unwrap().mean(0).unwrap().abs().unwrap().to_vec1::<f32>().unwrap();
        assert!(means.iter().all(|mean| *mean < 1e-5), "{means:?}");
    }
}
