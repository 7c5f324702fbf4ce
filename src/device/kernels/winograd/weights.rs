//! Kernels transformed, `G g G^T`, and packed into panels: `[panel][element][source channel][channel of the panel]`.

use super::super::{
    Isa, Shape, Threads,
    pack::Direction,
    simd::{Kernel, Simd},
};
use super::{ELEMENTS, transform};

/// # Panics
/// If a slice's length does not fit the shape.
pub(super) fn pack(
    isa: Isa,
    threads: Threads,
    shape: &Shape,
    direction: Direction,
    kernels: &[f32],
    packed: &mut [f32],
) {
    let (depth, stored) = direction.stored(isa, shape);
    assert_eq!(kernels.len(), shape.weights(), "weights");
    assert_eq!(packed.len(), ELEMENTS * depth * stored, "packed weights");
    let panel_width = 2 * isa.lanes();
    threads.for_each_chunk(packed, ELEMENTS * depth * panel_width, |index, panel| {
        let first = index * panel_width;
        let width = panel_width.min(stored - first);
        isa.run(Panel { shape, direction, kernels, depth, first, width, panel });
    });
}

struct Panel<'a> {
    shape: &'a Shape,
    direction: Direction,
    kernels: &'a [f32],
    depth: usize,
    first: usize,
    width: usize,
    panel: &'a mut [f32],
}

impl Kernel for Panel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (sources, targets) = self.direction.used(self.shape);
        let (source_stride, target_stride) = self.direction.strides(self.shape);
        let plane = self.depth * self.width;
        for source in 0..self.depth {
            for column in (0..self.width).step_by(S::LANES) {
                let target = self.first + column;
                let mut kernel = [[0.0; 16]; 9];
                if source < sources {
                    for lane in 0..S::LANES.min(targets.saturating_sub(target)) {
                        let from = source * source_stride + (target + lane) * target_stride;
                        for (tap, weight) in kernel.iter_mut().zip(&self.kernels[from..from + 9]) {
                            tap[lane] = *weight;
                        }
                    }
                }
                if self.direction == Direction::Backward {
                    kernel.reverse();
                }
                let mut taps = [simd.zero(); 9];
                for (tap, values) in taps.iter_mut().zip(&kernel) {
                    // SAFETY: no vector has more than 16 values.
                    *tap = unsafe { simd.load(values.as_ptr()) };
                }
                let mut to = self.panel[source * self.width + column..].as_mut_ptr();
                debug_assert!(self.panel.len() == ELEMENTS * plane);
                for element in transform::kernel(simd, taps) {
                    // SAFETY: this row of each of the panel's 36 planes.
                    unsafe { simd.store(to, element) };
                    to = to.wrapping_add(plane);
                }
            }
        }
    }
}
