//! The arguments of the kernels, as kernels/parameters.h has them. Addresses are plain numbers.

use candle_core::{Result, bail};

use super::machine::{Launch, Queue, Region};

/// Threads of every block.
pub(super) const BLOCK: usize = 256;

/// Plain data without padding, laid out as C does.
///
/// # Safety
/// The type is `repr(C)`, has no padding, and equals its namesake in parameters.h.
pub(super) unsafe trait Parameters: Copy {
    fn bytes(&self) -> &[u8] {
        // SAFETY: the trait's contract: every byte of the value is initialised.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }
}

macro_rules! parameters {
    ($($(#[$meta:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq)]
        #[repr(C)]
        pub struct $name { $(pub(super) $field: $type),* }

        // Without padding the size is the sum of the fields'.
        const _: () = assert!(size_of::<$name>() == 0 $(+ size_of::<$type>())*);

        // SAFETY: repr(C), no padding by the assertion above; the tests compare sizes and results with the C side.
        unsafe impl Parameters for $name {}
    )*};
}

parameters! {
    Rows { rows: i64, channels: i32, chunks: i32, chunk_rows: i32, groups: i32 }
    NormMoments { x: u64, partials: u64, rows: Rows }
    NormFinish {
        partials: u64, weight: u64, bias: u64, running_mean: u64, running_variance: u64, scale: u64, shift: u64, mean: u64,
        inverse: u64, rows: Rows, epsilon: f32, momentum: f32,
    }
    NormApply {
        x: u64, residual: u64, y: u64, scale: u64, shift: u64, rows: Rows, relu: i32, shared_statistics: i32,
    }
    NormBackwardSums {
        x: u64, y: u64, dy: u64, mean: u64, scale: u64, shift: u64, partials: u64, rows: Rows, mask: i32, unused: i32,
    }
    NormBackwardFinish {
        partials: u64, mean: u64, inverse: u64, scale: u64, weight_gradient: u64, bias_gradient: u64, of_x: u64,
        constant: u64, rows: Rows,
    }
    NormBackwardApply {
        x: u64, y: u64, dy: u64, dx: u64, residual_gradient: u64, scale: u64, shift: u64, of_x: u64, constant: u64,
        rows: Rows, mask: i32, unused: i32,
    }
    /// Where the batch norm of a layer has its values in the flat vectors, and where its scale and shift go.
    NormPlace { weight: i32, bias: i32, mean: i32, variance: i32, target: i32, channels: i32 }
    NormInference {
        parameters: u64, statistics: u64, places: u64, scale: u64, shift: u64, layers: i32, total: i32, epsilon: f32,
        unused: i32,
    }
    AveragePool { x: u64, y: u64, images: i64, pixels: i32, channels: i32 }
    MaxPool {
        x: u64, y: u64, taps: u64, images: i64, height: i32, width: i32, output_height: i32, output_width: i32,
        channels: i32, size: i32, stride: i32, padding: i32,
    }
    /// Where the weights of a convolution lie in the flat vector, and where they are packed.
    Filter { source: i64, target: i64, outputs: i32, inputs: i32, size: i32, stored: i32 }
    Filters { flat: u64, packed: u64, filters: u64, total: i64, count: i32, unused: i32 }
    Images { images: u64, packed: u64, pixels: i64, stored: i32, unused: i32 }
    /// The elements up to `end` learn at `factor` times the rate.
    RateRange { end: i64, factor: f32, unused: i32 }
    SgdStep {
        parameters: u64, momentum: u64, gradient: u64, ranges: u64, not_finite: u64, count: i64, range_count: i32,
        rate: f32, momentum_factor: f32, decay: f32,
    }
    FiniteCheck { values: u64, not_finite: u64, count: i64 }
    ViewDraw {
        top: i32, left: i32, height: i32, width: i32, flip: i32, grey: i32, jitter: i32, brightness: f32, contrast: f32,
        saturation: f32, hue: f32, sigma: f32,
    }
    MakeViews {
        images: u64, draws: u64, views: u64, scratch: u64, first: i32, images_count: i32, side: i32, unused: i32,
        scale: [f32; 3], shift: [f32; 3],
    }
    Mix { images: u64, partners: u64, mixed: u64, count: i64, weight: f32, unused: i32 }
}

/// Bytes of a table of such values.
pub(super) fn table<P: Parameters>(entries: &[P]) -> Vec<u8> {
    entries.iter().flat_map(|entry| entry.bytes()).copied().collect()
}

/// # Safety
/// As [`Queue::launch`]; `P` is the argument of that kernel.
pub(super) unsafe fn launch<P: Parameters>(
    queue: &dyn Queue,
    kernel: &str,
    blocks: [usize; 3],
    shared_bytes: usize,
    parameters: &P,
    regions: &[&Region],
) -> Result<()> {
    let mut grid = [0; 3];
    for (place, blocks) in grid.iter_mut().zip(blocks) {
        *place = number(blocks)? as u32;
    }
    let shared_bytes = number(shared_bytes)? as u32;
    // SAFETY: passed on to the caller.
    unsafe { queue.launch(&Launch { kernel, blocks: grid, shared_bytes, parameters: parameters.bytes(), regions }) }
}

/// Blocks for `items` pieces of work, one a thread up to a limit beyond which threads take several.
pub(super) fn grid_of(items: usize) -> [usize; 3] {
    const MOST: usize = 1 << 14;
    [items.div_ceil(BLOCK).clamp(1, MOST), 1, 1]
}

/// A number as kernels take it.
pub(super) fn number(value: usize) -> Result<i32> {
    match i32::try_from(value) {
        Ok(value) => Ok(value),
        Err(_) => bail!("{value} is more than a kernel can count"),
    }
}
