//! The kernels outside of the network, on candle's tensors: `None` where the tensors are on no machine with kernels for it,
//! and plain tensor operations have to do.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

use super::machine::{Machine, bytes_of};
use super::optimiser::{SgdFactors, check_finite};
use super::views::{ViewChoices, ViewShape};
use super::{machine, optimiser, views};

/// The machine of tensors that are all f32 and contiguous.
fn machine_of(tensors: &[&Tensor]) -> Option<Result<Arc<dyn Machine>>> {
    let fit = tensors.iter().all(|tensor| tensor.dtype() == DType::F32 && tensor.is_contiguous());
    tensors.first().filter(|_| fit).and_then(|tensor| machine(tensor.device()))
}

/// One step of `parameter` along `gradient` with its momentum `buffer`, both in place; all of one shape.
///
/// # Errors
/// Where the device fails.
pub fn sgd(parameter: &Tensor, buffer: &Tensor, gradient: &Tensor, factors: SgdFactors) -> Option<Result<()>> {
    let machine = machine_of(&[parameter, buffer, gradient])?;
    Some(machine.and_then(|machine| {
        let lent = [machine.lend(parameter)?, machine.lend(buffer)?, machine.lend(gradient)?];
        optimiser::sgd(machine.queue(), factors, parameter.elem_count(), lent.each_ref(), None, None)
    }))
}

/// Whether every value is finite. Waits for the device.
///
/// # Errors
/// Where the device fails.
pub fn is_finite(tensor: &Tensor) -> Option<Result<bool>> {
    let machine = machine_of(&[tensor])?;
    Some(machine.and_then(|machine| {
        let flag = machine.upload(&bytes_of(&[0.0]))?;
        check_finite(machine.queue(), tensor.elem_count(), &machine.lend(tensor)?, &flag)?;
        Ok(machine.download(&flag)?.iter().all(|byte| *byte == 0))
    }))
}

/// Views (choices, side, side, 3) of packed RGB images; view v is of image v mod (number of images).
///
/// # Errors
/// Where the bytes are no whole number of images, or the device fails.
pub fn make_views(device: &Device, shape: ViewShape, images: &[u8], choices: &[ViewChoices]) -> Option<Result<Tensor>> {
    let machine = machine(device)?;
    Some(machine.and_then(|machine| {
        let made = views::make_views(machine.as_ref(), shape, images, choices)?;
        machine.tensor(&made, &[choices.len(), shape.side, shape.side, 3])
    }))
}

/// weight * images + (1 - weight) * partners; both of one shape.
///
/// # Errors
/// Where the device fails.
pub fn mix(images: &Tensor, partners: &Tensor, weight: f64) -> Option<Result<Tensor>> {
    let machine = machine_of(&[images, partners])?;
    Some(machine.and_then(|machine| {
        let count = images.elem_count().min(partners.elem_count());
        let mixed = machine.allocate(4 * count)?;
        let (images_at, partners_at) = (machine.lend(images)?, machine.lend(partners)?);
        views::mix(machine.queue(), weight as f32, count, &images_at, &partners_at, &mixed)?;
        machine.tensor(&mixed, images.dims())
    }))
}
