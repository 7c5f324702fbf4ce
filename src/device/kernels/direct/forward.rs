//! A direct convolution by its plan: groups of images in parallel, panels of channels, classes of pixels.

use super::{
    super::{
        Epilogue, Isa, Products, Threads,
        simd::{Kernel, PairKernel, Pairs, Simd},
        threads::with_scratch,
        tile::{Arithmetic, MAX_ROWS, Paired, Single, multiply},
    },
    plan::{Class, Plan},
};

/// Rows that a group of images should give a panel, so that its weights are loaded for many.
const GROUP_ROWS: usize = 512;

impl Plan {
    /// Units of one source image.
    fn source_units(&self) -> usize {
        self.source_values / self.products.per_unit()
    }

    /// # Panics
    /// If a slice does not have the plan's length for the same number of images.
    pub(super) fn run(
        &self,
        isa: Isa,
        threads: Threads,
        source: &[f32],
        packed: &[f32],
        epilogue: Epilogue,
        target: &mut [f32],
    ) {
        let images = source.len() / self.source_values;
        assert_eq!(source.len(), images * self.source_values, "source maps");
        assert_eq!(target.len(), images * self.target_values, "target maps");
        let pixels: usize = self.classes.iter().map(|class| class.pixels.len()).sum();
        let channels = self.target_values / pixels;
        assert_eq!(packed.len(), self.depth * channels, "packed weights");
        assert!(epilogue.bias.is_none_or(|bias| bias.len() == channels), "bias");
        let group = GROUP_ROWS.div_ceil(pixels).clamp(1, images.div_ceil(threads.count()).max(1));
        threads.for_each_chunk(target, group * self.target_values, |index, target| {
            let first = index * group * self.source_values;
            let images = target.len() / self.target_values;
            let source = &source[first..first + images * self.source_values];
            let group = Group { plan: self, images, source, packed, epilogue, target };
            match self.products {
                Products::F32 => isa.run(group),
                Products::Bf16 => with_scratch(source.len() / 2, |pairs| isa.run_pairs(Rounded { group, pairs })),
            }
        });
    }
}

struct Group<'a> {
    plan: &'a Plan,
    images: usize,
    source: &'a [f32],
    packed: &'a [f32],
    epilogue: Epilogue<'a>,
    target: &'a mut [f32],
}

impl Kernel for Group<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let source = self.source.as_ptr();
        // SAFETY: the units of f32 are the source itself.
        unsafe { self.compute::<S, Single>(simd, source) };
    }
}

/// A group and memory for its source in bf16.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 has such multipliers"))]
struct Rounded<'a> {
    group: Group<'a>,
    pairs: &'a mut [f32],
}

impl PairKernel for Rounded<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Pairs>(self, simd: S) {
        let Self { group, pairs } = self;
        debug_assert!(2 * pairs.len() == group.source.len());
        let halves = pairs.as_mut_ptr().cast::<u16>();
        for place in (0..group.source.len()).step_by(S::LANES) {
            let from = group.source.as_ptr().wrapping_add(place);
            // SAFETY: maps are whole vectors; there is half of a unit for each of their values.
            unsafe { simd.store_halves(halves.wrapping_add(place), simd.load(from)) };
        }
        // SAFETY: these are the source's pairs.
        unsafe { group.compute::<S, Paired>(simd, pairs.as_ptr()) };
    }
}

impl Group<'_> {
    /// # Safety
    /// `source` points to all values of the group's source as units of the arithmetic `A`.
    #[inline(always)]
    unsafe fn compute<S: Simd, A: Arithmetic<S>>(self, simd: S, source: *const f32) {
        for channels in self.plan.panels.ranges() {
            let columns = channels.len() / S::LANES;
            let panel = self.packed[channels.start * self.plan.depth..channels.end * self.plan.depth].as_ptr();
            for class in &self.plan.classes {
                let mut cursor = Cursor { class, image: 0, pixel: 0 };
                let mut left = self.images * class.pixels.len();
                while left > 0 {
                    let rows = left.min(S::ROWS);
                    left -= rows;
                    let mut sources = [std::ptr::null(); MAX_ROWS];
                    let mut targets = [std::ptr::null_mut(); MAX_ROWS];
                    for row in 0..rows {
                        let (place, target) = cursor.next(self.plan);
                        sources[row] = source.wrapping_offset(place);
                        targets[row] = self.target.as_mut_ptr().wrapping_add(target + channels.start);
                    }
                    // SAFETY: the plan names only taps within the source map, panels within the packed weights and
                    // pixels within the target map, each once; the lengths of the three were checked against it.
                    unsafe {
                        multiply::<S, A>(
                            simd,
                            (rows, columns),
                            &sources,
                            (&class.runs, panel),
                            &targets,
                            (self.epilogue, channels.start),
                        );
                    }
                }
            }
        }
    }
}

/// Walks over the pixels of a class, image by image.
struct Cursor<'a> {
    class: &'a Class,
    image: usize,
    pixel: usize,
}

impl Cursor<'_> {
    /// Base in the source and place in the target of the next pixel.
    #[inline(always)]
    fn next(&mut self, plan: &Plan) -> (isize, usize) {
        let (target, source) = self.class.pixels[self.pixel];
        let place = (source + (self.image * plan.source_units()) as isize, target + self.image * plan.target_values);
        self.pixel += 1;
        if self.pixel == self.class.pixels.len() {
            self.pixel = 0;
            self.image += 1;
        }
        place
    }
}
