//! Forward pass and input gradient: transform a block of tiles, 36 matrix products, transform back.

use std::ops::Range;

use super::super::{
    Epilogue, Isa, Products, Threads,
    shape::Panels,
    simd::{Kernel, PairKernel, Pairs, Simd},
    threads::with_scratch,
    tile::{Arithmetic, MAX_ROWS, Paired, Run, Single, finish, multiply},
};
use super::{
    ELEMENTS, Place, REACH, TILE, Tiling,
    transform::{self, Element, Halves, Whole},
};

/// # Panics
/// If a slice's length does not fit the shape.
pub(super) fn run(
    isa: Isa,
    threads: Threads,
    tiling: Tiling,
    source: &[f32],
    packed: &[f32],
    epilogue: Epilogue,
    target: &mut [f32],
) {
    let (source_values, target_values) = (tiling.source_values(), tiling.target_values());
    let images = source.len() / source_values;
    assert_eq!(source.len(), images * source_values, "source maps");
    assert_eq!(target.len(), images * target_values, "target maps");
    assert_eq!(packed.len() * tiling.products.per_unit(), ELEMENTS * tiling.depth * tiling.width, "packed weights");
    assert!(epilogue.bias.is_none_or(|bias| bias.len() == tiling.width), "bias");
    let group = tiling.block.div_ceil(tiling.tiles).clamp(1, images.div_ceil(threads.count()).max(1));
    threads.for_each_chunk(target, group * target_values, |index, target| {
        let images = target.len() / target_values;
        let source = &source[index * group * source_values..][..images * source_values];
        with_scratch(tiling.scratch_values(), |scratch| {
            let group = Group { tiling, images, source, packed, epilogue, target, scratch };
            match tiling.products {
                Products::F32 => isa.run(group),
                Products::Bf16 => isa.run_pairs(group),
            }
        });
    });
}

struct Group<'a> {
    tiling: Tiling,
    images: usize,
    source: &'a [f32],
    packed: &'a [f32],
    epilogue: Epilogue<'a>,
    target: &'a mut [f32],
    scratch: &'a mut [f32],
}

impl Kernel for Group<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        self.compute::<S, Single, Whole>(simd);
    }
}

impl PairKernel for Group<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Pairs>(self, simd: S) {
        self.compute::<S, Paired, Halves>(simd);
    }
}

impl Group<'_> {
    #[inline(always)]
    fn compute<S: Simd, A: Arithmetic<S>, E: Element<S>>(self, simd: S) {
        let tiling = self.tiling;
        let (sources, rest) = self.scratch.split_at_mut(ELEMENTS * tiling.source_plane());
        let (products, edge) = rest.split_at_mut(ELEMENTS * tiling.target_plane());
        let tiles = self.images * tiling.tiles;
        for first in (0..tiles).step_by(tiling.block) {
            let count = tiling.block.min(tiles - first);
            for tile in 0..count {
                let place = tiling.place(first + tile);
                // Channels lie next to each other, `PER_UNIT` items to a unit.
                let to = sources.as_mut_ptr().cast::<E::Item>().wrapping_add(tile * tiling.depth);
                let plane = tiling.source_plane() * A::PER_UNIT;
                // SAFETY: element 35 of the block's last tile is the last of the 36 planes of the scratch memory.
                unsafe {
                    transform_source::<S, E>(simd, &tiling, place, self.source, 0..tiling.depth, edge, (to, plane))
                };
            }
            matrix_products::<S, A>(simd, &tiling, count, sources, self.packed, products);
            for tile in 0..count {
                let from = &products[tile * tiling.width..];
                let place = tiling.place(first + tile);
                transform_back(simd, &tiling, place, from, self.epilogue, self.target);
            }
        }
    }
}

/// Transforms some channels of the tile of inputs around `place`; what lies outside the map is zero. Element `e` goes to
/// `to + e * plane`.
///
/// # Safety
/// The channels at each of the 36 targets are valid, as [`Element::store`] needs them.
#[inline(always)]
pub(super) unsafe fn transform_source<S: Simd, E: Element<S>>(
    simd: S,
    tiling: &Tiling,
    place: Place,
    source: &[f32],
    channels: Range<usize>,
    edge: &mut [f32],
    (to, plane): (*mut E::Item, usize),
) {
    let Place { image, row, column } = place;
    let (depth, columns) = (tiling.depth, tiling.columns);
    let map = &source[image * tiling.source_values()..][..tiling.source_values()];
    let inner = row > 0 && column > 0 && row + REACH - 1 <= tiling.rows && column + REACH - 1 <= columns;
    let (tile, spacing) = if inner {
        let first = ((row - 1) * columns + column - 1) * depth;
        (&map[first..], transform::Spacing { row: columns * depth, column: depth })
    } else {
        let edge = &mut edge[..ELEMENTS * depth];
        copy_padded(map, tiling, (row, column), edge);
        (&*edge, transform::Spacing { row: REACH * depth, column: depth })
    };
    debug_assert!(tile.len() >= (REACH - 1) * (spacing.row + spacing.column) + depth);
    let tile = &tile[channels.start..];
    // SAFETY: an inner tile lies within the map, an edge tile within its copy; the caller vouches for the targets.
    unsafe { transform::source::<S, E>(simd, tile.as_ptr(), spacing, channels.len(), to, plane) };
}

/// Copies the 6x6 pixels around (`row`, `column`) to `edge`, with zeros for those outside the map.
fn copy_padded(map: &[f32], tiling: &Tiling, (row, column): (usize, usize), edge: &mut [f32]) {
    let (depth, columns) = (tiling.depth, tiling.columns);
    // Pixel `k` of a tile's row is column `column + k - 1` of the map.
    let skipped = 1_usize.saturating_sub(column);
    let kept = (columns + 1 - column).min(REACH);
    for (y, edge) in edge.chunks_exact_mut(REACH * depth).enumerate() {
        if row + y == 0 || row + y > tiling.rows {
            edge.fill(0.0);
            continue;
        }
        let from = ((row + y - 1) * columns + column + skipped - 1) * depth;
        edge[..skipped * depth].fill(0.0);
        edge[kept * depth..].fill(0.0);
        edge[skipped * depth..kept * depth].copy_from_slice(&map[from..from + (kept - skipped) * depth]);
    }
}

/// `products[e] = sources[e] * packed[e]` for each element `e`: tiles by source channels times source by target channels.
#[inline(always)]
fn matrix_products<S: Simd, A: Arithmetic<S>>(
    simd: S,
    tiling: &Tiling,
    tiles: usize,
    sources: &[f32],
    packed: &[f32],
    products: &mut [f32],
) {
    let (depth, width) = (tiling.depth / A::PER_UNIT, tiling.width);
    let runs = [Run { source: 0, weights: 0, length: depth }];
    for element in 0..ELEMENTS {
        let from = &sources[element * tiling.source_plane()..];
        let to = &mut products[element * tiling.target_plane()..];
        for channels in Panels::new(width, S::LANES).ranges() {
            let columns = channels.len() / S::LANES;
            let start = channels.start * ELEMENTS * depth + element * depth * channels.len();
            let panel = &packed[start..start + depth * channels.len()];
            for first in (0..tiles).step_by(S::ROWS) {
                let rows = S::ROWS.min(tiles - first);
                let mut source_rows = [std::ptr::null(); MAX_ROWS];
                let mut target_rows = [std::ptr::null_mut(); MAX_ROWS];
                let mut source_row = from[first * depth..].as_ptr();
                let mut target_row = to[first * width + channels.start..].as_mut_ptr();
                for row in 0..rows {
                    source_rows[row] = source_row;
                    target_rows[row] = target_row;
                    source_row = source_row.wrapping_add(depth);
                    target_row = target_row.wrapping_add(width);
                }
                // SAFETY: the planes hold `tiles` rows each, and the panel `depth` rows of its channels.
                unsafe {
                    multiply::<S, A>(
                        simd,
                        (rows, columns),
                        &source_rows,
                        (&runs, panel.as_ptr()),
                        &target_rows,
                        (Epilogue::default(), 0),
                    );
                }
            }
        }
    }
}

/// Transforms a tile's products into its outputs; those outside the map are dropped.
#[inline(always)]
fn transform_back<S: Simd>(
    simd: S,
    tiling: &Tiling,
    place: Place,
    products: &[f32],
    epilogue: Epilogue,
    target: &mut [f32],
) {
    let (width, columns) = (tiling.width, tiling.columns);
    let map = &mut target[place.image * tiling.target_values()..][..tiling.target_values()];
    let (rows_kept, columns_kept) = (TILE.min(tiling.rows - place.row), TILE.min(columns - place.column));
    let first = (place.row * columns + place.column) * width;
    let inner = rows_kept == TILE && columns_kept == TILE;
    for channel in (0..width).step_by(S::LANES) {
        debug_assert!(products.len() >= (ELEMENTS - 1) * tiling.target_plane() + channel + S::LANES);
        // SAFETY: element 35 of the block's last tile lies within the last of the 36 planes.
        let outputs =
            unsafe { transform::target(simd, products.as_ptr().wrapping_add(channel), tiling.target_plane()) };
        let mut to_row = map[first + channel..].as_mut_ptr();
        for (y, outputs) in outputs.iter().enumerate() {
            let mut to = to_row;
            for (x, output) in outputs.iter().enumerate() {
                if inner || (y < rows_kept && x < columns_kept) {
                    // SAFETY: the pixel lies within the map.
                    unsafe { simd.store(to, finish(simd, *output, to, epilogue, channel)) };
                }
                to = to.wrapping_add(width);
            }
            to_row = to_row.wrapping_add(columns.wrapping_mul(width));
        }
    }
}
