//! Batch norm and ReLU of the heads as one operation on the CPU, by the kernels of the encoder.
//!
//! In plain tensors the same is some twenty operations forward and more backward, each with memory of its own: on 128
//! projections of 2,048 values that takes longer than the matrix products around them.

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor, bail};

use super::norm::EPSILON;
use crate::device::kernels::{BatchNorm, Isa, Mask, Threads};

/// Batch norm over the rows of (n, channels) in `groups` equal runs, then ReLU where asked for; of x, weight and bias.
pub(super) struct FusedNorm {
    isa: Isa,
    channels: usize,
    groups: usize,
    relu: bool,
}

impl FusedNorm {
    /// The operation for `x`; none where it takes plain tensors: on other devices, in f64, for channels that fill no whole
    /// vectors, for groups that are not equal.
    pub(super) fn of(x: &Tensor, groups: usize, relu: bool) -> Option<Self> {
        let (rows, channels) = x.dims2().ok()?;
        let isa = Isa::for_channels(channels);
        let fits = groups > 0 && rows > 0 && rows.is_multiple_of(groups) && channels.is_multiple_of(isa.lanes());
        let here = x.device().is_cpu() && x.dtype() == DType::F32;
        (fits && here).then_some(Self { isa, channels, groups, relu })
    }

    /// Applies it.
    ///
    /// # Errors
    /// Where weight and bias have not a value for each channel.
    pub(super) fn apply(self, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
        if weight.dims() != [self.channels] || bias.dims() != [self.channels] {
            bail!("batch norm of {} channels with weights {:?} and {:?}", self.channels, weight.dims(), bias.dims());
        }
        x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, self)
    }

    fn norm(&self) -> BatchNorm {
        BatchNorm { isa: self.isa, channels: self.channels, epsilon: EPSILON as f32 }
    }
}

impl CustomOp3 for FusedNorm {
    fn name(&self) -> &'static str {
        "batch-norm-relu"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = values(x, x_layout)?;
        let (weight, bias) = (values(weight, weight_layout)?, values(bias, bias_layout)?);
        let norm = self.norm();
        let run = x.len() / self.groups;
        let mut y = vec![0.0; x.len()];
        for (x, y) in x.chunks_exact(run).zip(y.chunks_exact_mut(run)) {
            let moments = norm.moments(Threads::Pool, x);
            norm.fitted(&moments, weight, bias).forward(Threads::Pool, x, None, self.relu, y);
        }
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _y: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let norm = self.norm();
        let flat = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f32>();
        let (inputs, weights, biases) = (flat(x)?, flat(weight)?, flat(bias)?);
        let mut gradients = flat(gradient)?;
        let run = inputs.len() / self.groups;
        let (mut by_weight, mut by_bias) = (vec![0.0; self.channels], vec![0.0; self.channels]);
        // What the ReLU stopped is found out again: cheaper than keeping it.
        let mask = if self.relu { Mask::Recompute } else { Mask::None };
        for (x, gradient) in inputs.chunks_exact(run).zip(gradients.chunks_exact_mut(run)) {
            let moments = norm.moments(Threads::Pool, x);
            let fitted = norm.fitted(&moments, &weights, &biases);
            fitted.backward(Threads::Pool, x, mask, gradient, None, (&mut by_weight, &mut by_bias));
        }
        let tensor = |values: Vec<f32>, of: &Tensor| Tensor::from_vec(values, of.shape(), of.device()).map(Some);
        Ok((tensor(gradients, x)?, tensor(by_weight, weight)?, tensor(by_bias, bias)?))
    }
}

fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("a fused batch norm takes contiguous tensors"),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};
    use proptest::prelude::*;

    use super::super::norm::{batch_norm, relu as plain_relu};
    use super::*;
    use crate::config::Seed;

    fn noise(name: &str, shape: &[usize]) -> Tensor {
        let mut random = Seed(2).random(name, 0);
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| 0.3 + random.normal() as f32).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    /// Result and gradients of x, weight and bias by `layer`.
    fn pass(
        inputs: &[Tensor; 3],
        direction: &Tensor,
        layer: impl Fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>,
    ) -> [Vec<f32>; 4] {
        let [x, weight, bias] = inputs.each_ref().map(|tensor| Var::from_tensor(tensor).unwrap());
        let y = layer(&x, &weight, &bias).unwrap();
        let gradients = y.mul(direction).unwrap().sum_all().unwrap().backward().unwrap();
        let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let of = |var: &Var| flat(gradients.get(var).unwrap());
        [flat(&y), of(&x), of(&weight), of(&bias)]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_is_the_plain_layer_both_ways(
            rows in 1..40_usize, groups in 1..4_usize, vectors in 1..9_usize, relu in any::<bool>()
        ) {
            let (rows, channels) = (rows * groups, 16 * vectors);
            let inputs = [noise("x", &[rows, channels]), noise("weight", &[channels]), noise("bias", &[channels])];
            let direction = noise("direction", &[rows, channels]);
            // Where the ReLU's input is 0 but for rounding, either gradient is right.
            let before = batch_norm(&inputs[0], groups, &inputs[1], &inputs[2]).unwrap().0;
            let before = before.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            prop_assume!(!relu || before.iter().all(|value| value.abs() > 1e-5));
            let fused = pass(&inputs, &direction, |x, weight, bias| {
                FusedNorm::of(x, groups, relu).unwrap().apply(x, weight, bias)
            });
            let plain = pass(&inputs, &direction, |x, weight, bias| {
                let y = batch_norm(x, groups, weight, bias)?.0;
                if relu { plain_relu(&y) } else { Ok(y) }
            });
            for (what, (fused, plain)) in ["y", "x", "weight", "bias"].iter().zip(fused.iter().zip(&plain)) {
                for (a, b) in fused.iter().zip(plain) {
                    // With a single row the normalised value is 0 over a tiny deviation: both are noise around nothing.
                    prop_assert!((a - b).abs() < 2e-3 * (1.0 + b.abs()), "{what}: {a}, plain {b}");
                }
            }
        }
    }

    #[test]
    fn what_it_does_not_fit_is_left_to_plain_tensors() {
        assert!(FusedNorm::of(&noise("odd", &[4, 3]), 2, true).is_none());
        assert!(FusedNorm::of(&noise("uneven", &[5, 16]), 2, true).is_none());
        assert!(FusedNorm::of(&noise("f64", &[4, 16]).to_dtype(DType::F64).unwrap(), 2, true).is_none());
        let op = FusedNorm::of(&noise("x", &[4, 16]), 2, true).unwrap();
        assert!(op.apply(&noise("x", &[4, 16]), &noise("short", &[8]), &noise("bias", &[16])).is_err());
    }
}
