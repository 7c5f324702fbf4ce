//! Max-pooling, forward and backward, with the batch norm and ReLU before it fused into the forward pass if wanted.
//!
//! ```text
//! forward    y[p] = max over the window's taps t within the map of f(x[p * stride - padding + t]),  f(x) = relu(x * scale + shift) or x
//! backward   dx[q] = sum of dy[p] over the windows p whose maximum lay at q
//! ```
//!
//! As PyTorch has it: of equal values the first one in the order of the window counts, NaN counts as the largest, and taps
//! outside the map do not count. The normalised map before the pooling, four times as large as its result, is never stored.

use super::simd::{Kernel, Simd};
use super::{Isa, Threads};

/// A square window and how it moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Rows and columns; at most 15, so that a tap's number fits a byte.
    pub size: usize,
    pub stride: usize,
    /// Rows and columns beyond the map that a window may reach; less than `size`.
    pub padding: usize,
}

impl Window {
    /// Windows along an axis of that length: `floor((length + 2 padding - size) / stride) + 1`.
    pub fn output(&self, length: usize) -> usize {
        (length + 2 * self.padding - self.size) / self.stride + 1
    }

    /// The taps of window `at` that lie within an axis of that length.
    fn inside(&self, at: usize, length: usize) -> std::ops::Range<usize> {
        let start = at * self.stride;
        self.padding.saturating_sub(start)..self.size.min((length + self.padding).saturating_sub(start))
    }

    /// The windows over position `at` of an axis with that many windows, each with the tap that lies there.
    fn covering(&self, at: usize, windows: usize) -> Vec<(usize, usize)> {
        let reach = at + self.padding;
        let hits = (0..self.size).filter(|tap| *tap <= reach && (reach - tap).is_multiple_of(self.stride));
        hits.map(|tap| ((reach - tap) / self.stride, tap)).filter(|(window, _)| *window < windows).collect()
    }
}

/// Max-pooling of NHWC maps of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxPool {
    pub isa: Isa,
    /// Stored channels: whole vectors.
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    pub window: Window,
}

/// Scale and shift of each stored channel.
pub type ScaleShift<'a> = (&'a [f32], &'a [f32]);

impl MaxPool {
    pub fn output_height(&self) -> usize {
        self.window.output(self.height)
    }

    pub fn output_width(&self) -> usize {
        self.window.output(self.width)
    }

    /// Values of one map before the pooling.
    pub fn input_values(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Values of one map behind it.
    pub fn output_values(&self) -> usize {
        self.output_height() * self.output_width() * self.channels
    }

    fn check(&self) {
        let Window { size, stride, padding } = self.window;
        assert!((1..=15).contains(&size) && stride > 0 && padding < size, "window {:?}", self.window);
        assert!(self.height.min(self.width) + 2 * padding >= size, "a window fits the padded map");
        assert!(self.channels.is_multiple_of(self.isa.lanes()), "channels are whole vectors");
    }

    /// Pools `input` (n, height, width, channels) into `output`. With `fused`, of `relu(x * scale + shift)` in place of `x`.
    /// `taps`, if wanted, gets for each output the number of the tap where its maximum lay (row times size plus column).
    ///
    /// # Panics
    /// If the lengths do not fit each other or the window does not fit the map.
    pub fn forward(
        &self,
        threads: Threads,
        input: &[f32],
        fused: Option<ScaleShift>,
        output: &mut [f32],
        taps: Option<&mut [u8]>,
    ) {
        self.check();
        let images = input.len() / self.input_values();
        assert_eq!(input.len(), images * self.input_values(), "input maps");
        assert_eq!(output.len(), images * self.output_values(), "output maps");
        assert!(taps.as_ref().is_none_or(|taps| taps.len() == output.len()), "taps");
        assert!(
            fused.is_none_or(|(scale, shift)| scale.len() == self.channels && shift.len() == self.channels),
            "a value for each channel"
        );
        let row = self.output_width() * self.channels;
        let outputs = output.chunks_exact_mut(row);
        let rows: Vec<(_, _, Option<&mut [u8]>)> = match taps {
            Some(taps) => {
                outputs.zip(taps.chunks_exact_mut(row)).enumerate().map(|(n, (o, t))| (n, o, Some(t))).collect()
            }
            None => outputs.enumerate().map(|(n, o)| (n, o, None)).collect(),
        };
        threads.for_each(rows, |(number, output, taps)| {
            let (image, row) = (number / self.output_height(), number % self.output_height());
            let input = &input[image * self.input_values()..][..self.input_values()];
            self.isa.run(ForwardRow { pool: self, input, row, fused, output, taps });
        });
    }

    /// Gradient of the input (with `fused`, of what the ReLU gave), given that of the output and the `taps` of
    /// [`MaxPool::forward`].
    ///
    /// # Panics
    /// If the lengths do not fit each other.
    pub fn backward(&self, threads: Threads, output_gradient: &[f32], taps: &[u8], input_gradient: &mut [f32]) {
        self.check();
        let images = input_gradient.len() / self.input_values();
        assert_eq!(input_gradient.len(), images * self.input_values(), "input maps");
        assert_eq!(output_gradient.len(), images * self.output_values(), "output maps");
        assert_eq!(taps.len(), output_gradient.len(), "taps");
        let columns: Vec<_> = (0..self.width).map(|x| self.window.covering(x, self.output_width())).collect();
        threads.for_each_chunk(input_gradient, self.width * self.channels, |number, target| {
            let (image, y) = (number / self.height, number % self.height);
            let part = image * self.output_values()..(image + 1) * self.output_values();
            let rows = self.window.covering(y, self.output_height());
            let (gradient, taps) = (&output_gradient[part.clone()], &taps[part]);
            self.isa.run(BackwardRow { pool: self, gradient, taps, rows: &rows, columns: &columns, target });
        });
    }
}

/// One row of one output map.
struct ForwardRow<'a> {
    pool: &'a MaxPool,
    /// The image.
    input: &'a [f32],
    row: usize,
    fused: Option<ScaleShift<'a>>,
    output: &'a mut [f32],
    taps: Option<&'a mut [u8]>,
}

impl Kernel for ForwardRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        // Arrays as long as a vector: the compiler makes vectors of them.
        match S::LANES {
            16 => self.run_lanes::<16>(),
            8 => self.run_lanes::<8>(),
            _ => self.run_lanes::<4>(),
        }
    }
}

impl ForwardRow<'_> {
    #[inline(always)]
    fn run_lanes<const L: usize>(mut self) {
        let MaxPool { channels, width, height, window, .. } = *self.pool;
        let blocks = channels / L;
        let (pixels, _) = self.input.as_chunks::<L>();
        let rows = window.inside(self.row, height);
        let above = self.row * window.stride;
        for column in 0..self.pool.output_width() {
            let columns = window.inside(column, width);
            let before = column * window.stride;
            for block in 0..blocks {
                let affine = self
                    .fused
                    .map(|(scale, shift)| (&scale.as_chunks::<L>().0[block], &shift.as_chunks::<L>().0[block]));
                let first = (rows.start * window.size + columns.start) as u32;
                let mut best = Best::<L> { value: [f32::NEG_INFINITY; L], tap: [first; L] };
                for tap_row in rows.clone() {
                    for tap_column in columns.clone() {
                        let pixel = (above + tap_row - window.padding) * width + before + tap_column - window.padding;
                        let tap = (tap_row * window.size + tap_column) as u32;
                        best.see(tap, &pixels[pixel * blocks + block], affine);
                    }
                }
                let to = (column * blocks + block) * L;
                self.output[to..to + L].copy_from_slice(&best.value);
                if let Some(taps) = &mut self.taps {
                    for (to, tap) in taps[to..to + L].iter_mut().zip(best.tap) {
                        *to = tap as u8;
                    }
                }
            }
        }
    }
}

/// The largest values so far, and where they lay.
struct Best<const L: usize> {
    value: [f32; L],
    tap: [u32; L],
}

impl<const L: usize> Best<L> {
    #[inline(always)]
    fn see(&mut self, tap: u32, values: &[f32; L], affine: Option<(&[f32; L], &[f32; L])>) {
        for lane in 0..L {
            let value = match affine {
                Some((scale, shift)) => {
                    let value = values[lane] * scale[lane] + shift[lane];
                    // NaN stays NaN.
                    if value < 0.0 { 0.0 } else { value }
                }
                None => values[lane],
            };
            // Bitwise, so that there is no branch.
            let larger = (value > self.value[lane]) | value.is_nan();
            self.value[lane] = if larger { value } else { self.value[lane] };
            self.tap[lane] = if larger { tap } else { self.tap[lane] };
        }
    }
}

/// One row of the gradient of one input map.
struct BackwardRow<'a> {
    pool: &'a MaxPool,
    /// Of the image.
    gradient: &'a [f32],
    taps: &'a [u8],
    /// Windows over this row, and the row of the window that lies here.
    rows: &'a [(usize, usize)],
    /// The same of each column.
    columns: &'a [Vec<(usize, usize)>],
    target: &'a mut [f32],
}

impl Kernel for BackwardRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        match S::LANES {
            16 => self.run_lanes::<16>(),
            8 => self.run_lanes::<8>(),
            _ => self.run_lanes::<4>(),
        }
    }
}

impl BackwardRow<'_> {
    #[inline(always)]
    fn run_lanes<const L: usize>(self) {
        let blocks = self.pool.channels / L;
        let (gradients, _) = self.gradient.as_chunks::<L>();
        let (taps, _) = self.taps.as_chunks::<L>();
        let (targets, _) = self.target.as_chunks_mut::<L>();
        for (columns, pixel) in self.columns.iter().zip(targets.chunks_exact_mut(blocks)) {
            for (block, target) in pixel.iter_mut().enumerate() {
                let mut sum = [0.0; L];
                for &(row, tap_row) in self.rows {
                    for &(column, tap_column) in columns {
                        let tap = (tap_row * self.pool.window.size + tap_column) as u8;
                        let at = (row * self.pool.output_width() + column) * blocks + block;
                        for lane in 0..L {
                            sum[lane] += if taps[at][lane] == tap { gradients[at][lane] } else { 0.0 };
                        }
                    }
                }
                *target = sum;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::device::kernels::reference;

    /// Few different values, so that there are many ties.
    fn coarse(seed: u64, count: usize) -> Vec<f64> {
        reference::noise(seed, count).iter().map(|value| (2.0 * value).round() / 2.0).collect()
    }

    fn check(pool: &MaxPool, used: usize, images: usize, threads: Threads) {
        let maps = images * pool.height * pool.width;
        let input = coarse(1, maps * used);
        let stored = reference::store(pool.isa, &input, used, false);
        let (scale, shift) = (coarse(2, used), coarse(3, used));
        let [scale_f32, shift_f32] = [&scale, &shift].map(|values| reference::store(pool.isa, values, used, false));
        let normalised: Vec<f64> = input
            .iter()
            .enumerate()
            .map(|(place, x)| (x * scale[place % used] + shift[place % used]).max(0.0))
            .collect();
        let what = format!("{pool:?}, {used} channels, {images} images");
        for (fused, values) in [(None, &input), (Some((&*scale_f32, &*shift_f32)), &normalised)] {
            let (expected, places) = reference::max_pool(pool, used, images, values);
            let mut output = vec![f32::NAN; images * pool.output_values()];
            let mut taps = vec![255; output.len()];
            pool.forward(threads, &stored, fused, &mut output, Some(&mut taps));
            // Halves are exact in both: not one bit may differ.
            assert_eq!(reference::dense(&output, used, pool.channels), expected, "{what}");
            let mut alone = vec![f32::NAN; output.len()];
            pool.forward(threads, &stored, fused, &mut alone, None);
            assert_eq!(alone, output, "{what}");

            let gradient = coarse(4, expected.len());
            let mut by_input = vec![f32::NAN; stored.len()];
            pool.backward(threads, &reference::store(pool.isa, &gradient, used, false), &taps, &mut by_input);
            let mut by_definition = vec![0.0; input.len()];
            places.iter().zip(&gradient).for_each(|(place, gradient)| by_definition[*place] += gradient);
            assert_eq!(reference::dense(&by_input, used, pool.channels), by_definition, "{what}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn values_and_gradients_are_those_of_the_definition_ties_included(
            (height, width, used) in (1..14_usize, 1..14_usize, 1..40_usize),
            (size, stride, padding) in (1..6_usize, 1..4_usize, 0..3_usize),
            images in 1..3_usize,
        ) {
            prop_assume!(height.min(width) + 2 * padding >= size && padding < size);
            for isa in Isa::available() {
                let window = Window { size, stride, padding };
                let pool = MaxPool { isa, channels: isa.stored(used), height, width, window };
                check(&pool, used, images, Threads::Pool);
                check(&pool, used, images, Threads::Caller);
            }
        }
    }

    #[test]
    fn of_equal_values_the_first_gets_the_gradient_and_nan_is_the_largest() {
        let isa = Isa::for_channels(4);
        let lanes = isa.lanes();
        let window = Window { size: 3, stride: 2, padding: 1 };
        let pool = MaxPool { isa, channels: lanes, height: 2, width: 3, window };
        let (mut output, mut taps) = (vec![0.0; 2 * lanes], vec![0; 2 * lanes]);
        pool.forward(Threads::Caller, &vec![7.0; 6 * lanes], None, &mut output, Some(&mut taps));
        assert_eq!((output[0], taps[0]), (7.0, 4), "the first window begins outside the map, its centre is pixel 0");
        assert_eq!((output[lanes], taps[lanes]), (7.0, 3), "pixel 1");
        let mut gradient = vec![f32::NAN; 6 * lanes];
        pool.backward(Threads::Caller, &vec![1.0; 2 * lanes], &taps, &mut gradient);
        let of_first: Vec<f32> = gradient.chunks(lanes).map(|pixel| pixel[0]).collect();
        assert_eq!(of_first, [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
        let mut input = vec![1.0; 6 * lanes];
        input[lanes] = f32::NAN;
        pool.forward(Threads::Caller, &input, None, &mut output, Some(&mut taps));
        assert!(output[0].is_nan() && output[lanes].is_nan());
    }
}
