//! Batch normalisation as PyTorch computes it, in plain tensors, and ReLU with the gradient PyTorch gives it.
//!
//! Source: Ioffe and Szegedy 2015; `torch.nn.BatchNorm2d`: y = (x - mean) / sqrt(var + eps) * weight + bias with the biased
//! variance of the batch, while the running variance moves towards the unbiased one.

use candle_core::{Result, Tensor};

/// Added to the variance.
pub const EPSILON: f64 = 1e-5;

/// Share of the batch in a running statistic: running = (1 - MOMENTUM) * running + MOMENTUM * batch.
pub const MOMENTUM: f64 = 0.1;

/// What one batch says about its channels; each (groups, channels), detached.
pub struct BatchStatistics {
    pub mean: Tensor,
    /// Unbiased. `None` where each group is a single value: one value has no variance.
    pub variance: Option<Tensor>,
}

/// Normalises `x`, shape (n, channels, ...), with the statistics of its own batch. The batch consists of `groups` equal runs,
/// each normalised by itself. `weight` and `bias`: (channels).
///
/// A group of a single value has variance 0, so its result is `bias`: never NaN.
pub fn batch_norm(x: &Tensor, groups: usize, weight: &Tensor, bias: &Tensor) -> Result<(Tensor, BatchStatistics)> {
    let (n, channels) = (x.dim(0)?, x.dim(1)?);
    if groups == 0 || n % groups != 0 {
        candle_core::bail!("a batch of {n} cannot be {groups} equal groups");
    }
    let grouped = x.reshape((groups, n / groups, channels, x.elem_count() / (n * channels).max(1)))?;
    let values = grouped.dim(1)? * grouped.dim(3)?;
    let mean = grouped.mean_keepdim((1, 3))?;
    let centred = grouped.broadcast_sub(&mean)?;
    let variance = centred.sqr()?.mean_keepdim((1, 3))?;
    let scale = weight.reshape((1, 1, channels, 1))?.broadcast_div(&variance.affine(1.0, EPSILON)?.sqrt()?)?;
    let y = centred.broadcast_mul(&scale)?.broadcast_add(&bias.reshape((1, 1, channels, 1))?)?;
    let unbiased = (values > 1)
        .then(|| variance.detach().affine(values as f64 / (values - 1) as f64, 0.0)?.reshape((groups, channels)))
        .transpose()?;
    let statistics = BatchStatistics { mean: mean.detach().reshape((groups, channels))?, variance: unbiased };
    Ok((y.reshape(x.shape())?, statistics))
}

/// Normalises `x`, shape (n, channels, height, width), with running statistics, each (channels).
pub fn inference_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, mean: &Tensor, variance: &Tensor) -> Result<Tensor> {
    let scale = weight.div(&variance.affine(1.0, EPSILON)?.sqrt()?)?;
    let shift = bias.sub(&mean.mul(&scale)?)?;
    let channels = ((), 1, 1);
    x.broadcast_mul(&scale.reshape(channels)?)?.broadcast_add(&shift.reshape(channels)?)
}

/// max(x, 0) whose gradient at exactly 0 is 0, as in PyTorch; candle's own has 1 there. NaN stays NaN.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    x.mul(&x.detach().gt(0.0)?.to_dtype(x.dtype())?)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn each_group_is_normalised_by_itself() {
        let x = Tensor::new(&[[1f64], [3.0], [10.0], [30.0]], &Device::Cpu).unwrap();
        let one = Tensor::ones(1, x.dtype(), &Device::Cpu).unwrap();
        let (y, statistics) = batch_norm(&x, 2, &one, &one.zeros_like().unwrap()).unwrap();
        let y = y.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        assert!((y[0] + 1.0).abs() < 1e-4 && (y[3] - 1.0).abs() < 1e-4, "{y:?}");
        assert_eq!(statistics.mean.to_vec2::<f64>().unwrap(), [[2.0], [20.0]]);
        assert_eq!(statistics.variance.unwrap().to_vec2::<f64>().unwrap(), [[2.0], [200.0]]);
        assert!(batch_norm(&x, 3, &one, &one).is_err());
    }

    #[test]
    fn a_single_value_becomes_the_bias() {
        let x = Tensor::new(&[[[[7f32]]]], &Device::Cpu).unwrap();
        let weight = Tensor::new(&[2f32], &Device::Cpu).unwrap();
        let (y, statistics) = batch_norm(&x, 1, &weight, &weight).unwrap();
        assert_eq!(y.flatten_all().unwrap().to_vec1::<f32>().unwrap(), [2.0]);
        assert!(statistics.variance.is_none());
    }

    #[test]
    fn the_gradient_of_relu_at_zero_is_zero() {
        let x = Var::new(&[-1f32, 0.0, 2.0], &Device::Cpu).unwrap();
        let gradients = relu(&x).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(gradients.get(&x).unwrap().to_vec1::<f32>().unwrap(), [0.0, 0.0, 1.0]);
    }
}
