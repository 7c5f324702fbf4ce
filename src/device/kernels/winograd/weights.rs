//! Kernels transformed, `G g G^T`, and packed into panels: `[panel][element][source channel][channel of the panel]`; in
//! bf16 a pair of source channels lies in one unit.

use super::super::{
    Isa, Products, Shape, Threads,
    pack::Direction,
    simd::{Kernel, PairKernel, Pairs, Simd},
};
use super::{
    ELEMENTS,
    transform::{self, Element, FirstHalves, SecondHalves, Whole},
};

/// # Panics
/// If a slice's length does not fit the shape.
pub(super) fn pack(
    (isa, products): (Isa, Products),
    threads: Threads,
    shape: &Shape,
    direction: Direction,
    kernels: &[f32],
    packed: &mut [f32],
) {
    let (depth, stored) = direction.stored(isa, shape);
    assert_eq!(kernels.len(), shape.weights(), "weights");
    assert_eq!(packed.len() * products.per_unit(), ELEMENTS * depth * stored, "packed weights");
    let panel_width = 2 * isa.lanes();
    threads.for_each_chunk(packed, ELEMENTS * depth * panel_width / products.per_unit(), |index, panel| {
        let first = index * panel_width;
        let width = panel_width.min(stored - first);
        let panel = Panel { shape, direction, kernels, depth, first, width, panel };
        match products {
            Products::F32 => isa.run(panel),
            Products::Bf16 => isa.run_pairs(panel),
        }
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
        let plane = self.depth * self.width;
        for source in 0..self.depth {
            let to = self.panel[source * self.width..].as_mut_ptr();
            // SAFETY: a row of each of the panel's 36 planes.
            unsafe { self.row::<S, Whole>(simd, source, to, plane) };
        }
    }
}

impl PairKernel for Panel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Pairs>(self, simd: S) {
        let plane = self.depth / 2 * self.width;
        for pair in 0..self.depth / 2 {
            let to = self.panel[pair * self.width..].as_mut_ptr();
            // SAFETY: as above; the first halves are written first.
            unsafe {
                self.row::<S, FirstHalves>(simd, 2 * pair, to, plane);
                self.row::<S, SecondHalves>(simd, 2 * pair + 1, to, plane);
            }
        }
    }
}

impl Panel<'_> {
    /// Transforms the kernels of a source channel, element `e` to the row at `to + e * plane`.
    ///
    /// # Safety
    /// The 36 rows are valid, as [`Element::store`] needs them.
    #[inline(always)]
    unsafe fn row<S: Simd, E: Element<S, Item = f32>>(&self, simd: S, source: usize, to: *mut f32, plane: usize) {
        for column in (0..self.width).step_by(S::LANES) {
            let mut to = to.wrapping_add(column);
            for element in transform::kernel(simd, self.taps(simd, source, self.first + column)) {
                // SAFETY: the caller vouches for it.
                unsafe { E::store(simd, to, element) };
                to = to.wrapping_add(plane);
            }
        }
    }

    /// The nine taps between a source channel and a vector of target channels.
    #[inline(always)]
    fn taps<S: Simd>(&self, simd: S, source: usize, target: usize) -> [S::Vector; 9] {
        let (sources, targets) = self.direction.used(self.shape);
        let (source_stride, target_stride) = self.direction.strides(self.shape);
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
        taps
    }
}
