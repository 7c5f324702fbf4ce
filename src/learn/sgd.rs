//! Stochastic gradient descent with momentum and weight decay, in place.
//!
//! As `torch.optim.SGD` without dampening: g += decay * p; buffer = momentum * buffer + g; p -= rate * buffer. On the CPU it is
//! two passes over memory without a temporary, on CUDA one kernel; elsewhere plain tensor operations.

use candle_core::{CpuStorage, DType, InplaceOp2, InplaceOp3, Layout, Result, Storage, Tensor, WithDType};
use rayon::prelude::*;

use crate::device::cuda::optimiser::SgdFactors;
use crate::device::cuda::tensors;

/// Values that one thread takes at a time.
const CHUNK: usize = 1 << 14;

/// The optimiser; its buffers are the caller's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sgd {
    pub learning_rate: f64,
    pub momentum: f64,
    pub weight_decay: f64,
}

impl Sgd {
    /// One step of `parameter` along `gradient`, in place; `buffer` is its momentum, zeros at first. All of one shape.
    ///
    /// # Errors
    /// Where shapes differ or the device fails.
    pub fn step(&self, parameter: &Tensor, buffer: &Tensor, gradient: &Tensor) -> Result<()> {
        let gradient = gradient.detach();
        if parameter.dims() != gradient.dims() || parameter.dims() != buffer.dims() {
            candle_core::bail!("a gradient of {:?} cannot move {:?}", gradient.dims(), parameter.dims());
        }
        let gradient = gradient.contiguous()?;
        if let Some(outcome) = tensors::sgd(parameter, buffer, &gradient, self.factors()) {
            return outcome;
        }
        let fused = parameter.device().is_cpu() && parameter.is_contiguous() && buffer.is_contiguous();
        if fused && matches!(parameter.dtype(), DType::F32 | DType::F64) {
            buffer.inplace_op3(parameter, &gradient, self)?;
            return parameter.inplace_op2(buffer, self);
        }
        self.step_plain(parameter, buffer, &gradient)
    }

    fn factors(&self) -> SgdFactors {
        let [rate, momentum, decay] = [self.learning_rate, self.momentum, self.weight_decay].map(|value| value as f32);
        SgdFactors { rate, momentum, decay }
    }

    /// The definition of the step, on any device.
    fn step_plain(&self, parameter: &Tensor, buffer: &Tensor, gradient: &Tensor) -> Result<()> {
        let decayed = (gradient + parameter.detach().affine(self.weight_decay, 0.0)?)?;
        let moved = (buffer.affine(self.momentum, 0.0)? + decayed)?;
        overwrite(buffer, &moved)?;
        overwrite(parameter, &(parameter.detach() - moved.affine(self.learning_rate, 0.0)?)?)
    }
}

/// Makes the values of `target` those of `source`, in place.
///
/// # Errors
/// Where shapes differ or the device fails.
pub fn overwrite(target: &Tensor, source: &Tensor) -> Result<()> {
    target.slice_set(&source.detach().contiguous()?, 0, 0)
}

/// Whether every value is finite.
///
/// # Errors
/// Where the device fails.
pub fn is_finite(tensor: &Tensor) -> Result<bool> {
    let tensor = tensor.contiguous()?;
    if tensor.device().is_cpu() && tensor.dtype() == DType::F32 {
        let (storage, layout) = tensor.storage_and_layout();
        if let Storage::Cpu(storage) = &*storage {
            return Ok(values::<f32>(storage, layout)?
                .par_chunks(CHUNK)
                .all(|chunk| chunk.iter().fold(true, |finite, value| finite & value.is_finite())));
        }
    }
    if let Some(outcome) = tensors::is_finite(&tensor) {
        return outcome;
    }
    // A sum that overflows counts as not finite: such a gradient is no use either.
    Ok(tensor.sqr()?.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?.is_finite())
}

/// Length (L2) of a vector; not finite where a value is not. The same values give the same bits whatever the threads.
///
/// # Errors
/// Where the device fails.
pub fn length(tensor: &Tensor) -> Result<f64> {
    let tensor = tensor.contiguous()?;
    if tensor.device().is_cpu() && tensor.dtype() == DType::F32 {
        let (storage, layout) = tensor.storage_and_layout();
        if let Storage::Cpu(storage) = &*storage {
            let sums: Vec<f64> = values::<f32>(storage, layout)?.par_chunks(CHUNK).map(sum_of_squares).collect();
            return Ok(sums.iter().sum::<f64>().sqrt());
        }
    }
    // A sum that overflows counts as not finite: such a gradient is no use either.
    Ok(tensor.sqr()?.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?.sqrt())
}

/// In several sums, which the processor adds to at once.
fn sum_of_squares(values: &[f32]) -> f64 {
    let mut sums = [0.0_f64; 8];
    for values in values.chunks(sums.len()) {
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += f64::from(*value) * f64::from(*value);
        }
    }
    sums.iter().sum()
}

/// The buffer's pass: buffer = momentum * buffer + (gradient + decay * parameter).
impl InplaceOp3 for Sgd {
    fn name(&self) -> &'static str {
        "sgd-momentum"
    }

    fn cpu_fwd(
        &self,
        buffer: &mut CpuStorage,
        buffer_layout: &Layout,
        parameter: &CpuStorage,
        parameter_layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> Result<()> {
        macro_rules! pass {
            ($buffer:expr, $type:ty) => {{
                let parameter = values::<$type>(parameter, parameter_layout)?;
                let gradient = values::<$type>(gradient, gradient_layout)?;
                let (momentum, decay) = (self.momentum as $type, self.weight_decay as $type);
                let inputs = parameter.par_chunks(CHUNK).zip(gradient.par_chunks(CHUNK));
                within($buffer, buffer_layout)?.par_chunks_mut(CHUNK).zip(inputs).for_each(
                    |(buffer, (parameter, gradient))| {
                        for ((buffer, parameter), gradient) in buffer.iter_mut().zip(parameter).zip(gradient) {
                            *buffer = momentum * *buffer + (gradient + decay * parameter);
                        }
                    },
                );
            }};
        }
        match buffer {
            CpuStorage::F32(buffer) => pass!(buffer, f32),
            CpuStorage::F64(buffer) => pass!(buffer, f64),
            _ => candle_core::bail!("parameters are f32 or f64"),
        }
        Ok(())
    }
}

/// The parameter's pass: parameter -= rate * buffer.
impl InplaceOp2 for Sgd {
    fn name(&self) -> &'static str {
        "sgd-descend"
    }

    fn cpu_fwd(
        &self,
        parameter: &mut CpuStorage,
        parameter_layout: &Layout,
        buffer: &CpuStorage,
        buffer_layout: &Layout,
    ) -> Result<()> {
        macro_rules! pass {
            ($parameter:expr, $type:ty) => {{
                let buffer = values::<$type>(buffer, buffer_layout)?;
                let rate = self.learning_rate as $type;
                let parameter = within($parameter, parameter_layout)?;
                parameter.par_chunks_mut(CHUNK).zip(buffer.par_chunks(CHUNK)).for_each(|(parameter, buffer)| {
                    parameter.iter_mut().zip(buffer).for_each(|(parameter, buffer)| *parameter -= rate * buffer);
                });
            }};
        }
        match parameter {
            CpuStorage::F32(parameter) => pass!(parameter, f32),
            CpuStorage::F64(parameter) => pass!(parameter, f64),
            _ => candle_core::bail!("parameters are f32 or f64"),
        }
        Ok(())
    }
}

/// The values of a contiguous tensor within its storage.
fn values<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<T>()?[start..end]),
        None => candle_core::bail!("a step needs contiguous tensors"),
    }
}

fn within<'a, T>(storage: &'a mut [T], layout: &Layout) -> Result<&'a mut [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&mut storage[start..end]),
        None => candle_core::bail!("a step needs contiguous tensors"),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use proptest::prelude::*;

    use super::*;

    fn tensor(values: &[f64]) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap()
    }

    proptest! {
        #[test]
        fn the_fused_step_is_the_plain_one(
            rows in prop::collection::vec([-3.0f64..3.0, -3.0..3.0, -3.0..3.0], 1..70),
            learning_rate in 0.0f64..1.0, momentum in 0.0f64..1.0, weight_decay in 0.0f64..0.1,
        ) {
            let sgd = Sgd { learning_rate, momentum, weight_decay };
            let column = |index: usize| tensor(&rows.iter().map(|row| row[index]).collect::<Vec<_>>());
            let (fused, plain) = ((column(0), column(1)), (column(0), column(1)));
            for _ in 0..3 {
                sgd.step(&fused.0, &fused.1, &column(2)).unwrap();
                sgd.step_plain(&plain.0, &plain.1, &column(2)).unwrap();
            }
            for (a, b) in [(fused.0, plain.0), (fused.1, plain.1)] {
                for (a, b) in a.to_vec1::<f64>().unwrap().into_iter().zip(b.to_vec1::<f64>().unwrap()) {
                    prop_assert!((a - b).abs() < 1e-12);
                }
            }
        }
    }

    #[test]
    fn a_gradient_of_another_shape_is_refused() {
        let sgd = Sgd { learning_rate: 0.1, momentum: 0.9, weight_decay: 0.0 };
        assert!(sgd.step(&tensor(&[1.0]), &tensor(&[0.0]), &tensor(&[1.0, 2.0])).is_err());
    }

    #[test]
    fn one_bad_value_makes_a_tensor_not_finite() {
        let mut values = vec![1f32; 40_000];
        assert!(is_finite(&Tensor::new(values.as_slice(), &Device::Cpu).unwrap()).unwrap());
        values[39_999] = f32::NAN;
        assert!(!is_finite(&Tensor::new(values.as_slice(), &Device::Cpu).unwrap()).unwrap());
        assert!(!is_finite(&tensor(&[f64::INFINITY])).unwrap());
    }
}
