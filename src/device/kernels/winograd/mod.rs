//! 3x3 convolution at stride 1 by Winograd's minimal filtering F(4x4, 3x3): 36 multiplications where the definition takes
//! 144 (Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", 2016, section 4.3).
//!
//! With `d` a tile of 6x6 inputs, `g` a kernel and `Y` the tile of 4x4 outputs, for interpolation points 0, +-1/sqrt(2),
//! +-sqrt(2) and infinity (the usual 0, +-1, +-2 lose twice as much accuracy in bf16):
//!
//! ```text
//! forward           Y  = A^T [ (G g G^T) . (B^T d B) ] A       summed over input channels
//! input gradient    the same, with the kernel turned by half a turn and its channels exchanged
//! weight gradient   dg = G^T [ (B^T d B) . (A dY A^T) ] G      summed over tiles and images
//! ```
//!
//! For each of the 36 elements the sum over channels (or tiles) is a matrix product. Tiles are worked off in blocks, so
//! that their transforms stay in the cache. In f32 the result differs from the definition's by about 1e-5 of its size,
//! with products of bf16 by about one per cent.

mod forward;
mod transform;
mod weights;
mod wgrad;

use super::{Epilogue, Isa, Products, Shape, Threads, pack::Direction};

/// Elements of a transformed tile.
const ELEMENTS: usize = 36;
/// Rows and columns of a tile of outputs.
const TILE: usize = 4;
/// Rows and columns of a tile of inputs.
const REACH: usize = 6;

/// A 3x3 convolution at stride 1 with padding 1.
#[derive(Debug, Clone)]
pub(super) struct Winograd {
    isa: Isa,
    shape: Shape,
    products: Products,
}

impl Winograd {
    /// Whether this algorithm applies and takes fewer multiplications than the definition (which skips the padding of
    /// small maps): 5x5 maps and those below 4x4 do not gain.
    pub(super) fn suits(shape: &Shape) -> bool {
        if (shape.size, shape.stride, shape.padding, shape.packed_input) != (3, 1, 1, false) {
            return false;
        }
        let tiles = shape.height.div_ceil(TILE) * shape.width.div_ceil(TILE);
        let direct = (3 * shape.height - 2) * (3 * shape.width - 2);
        5 * ELEMENTS * tiles < 4 * direct
    }

    pub(super) fn new(isa: Isa, shape: Shape, products: Products) -> Self {
        Self { isa, shape, products }
    }

    pub(super) fn packed_values(&self, direction: Direction) -> usize {
        let (depth, width) = direction.stored(self.isa, &self.shape);
        ELEMENTS * depth * width / self.products.per_unit()
    }

    pub(super) fn pack(&self, threads: Threads, direction: Direction, kernels: &[f32], packed: &mut [f32]) {
        weights::pack((self.isa, self.products), threads, &self.shape, direction, kernels, packed);
    }

    pub(super) fn forward(
        &self,
        threads: Threads,
        input: &[f32],
        packed: &[f32],
        epilogue: Epilogue,
        output: &mut [f32],
    ) {
        forward::run(self.isa, threads, self.tiling(Direction::Forward), input, packed, epilogue, output);
    }

    pub(super) fn input_gradient(
        &self,
        threads: Threads,
        output_gradient: &[f32],
        packed: &[f32],
        accumulate: bool,
        input_gradient: &mut [f32],
    ) {
        let epilogue = Epilogue { accumulate, ..Epilogue::default() };
        let tiling = self.tiling(Direction::Backward);
        forward::run(self.isa, threads, tiling, output_gradient, packed, epilogue, input_gradient);
    }

    pub(super) fn weight_gradient(
        &self,
        threads: Threads,
        input: &[f32],
        output_gradient: &[f32],
        workspace: &mut Vec<f32>,
        weights_gradient: &mut [f32],
    ) {
        wgrad::run(
            (self.isa, self.products),
            threads,
            &self.shape,
            input,
            output_gradient,
            workspace,
            weights_gradient,
        );
    }

    fn tiling(&self, direction: Direction) -> Tiling {
        let (depth, width) = direction.stored(self.isa, &self.shape);
        Tiling::new(&self.shape, depth, width, self.products)
    }
}

/// How maps are cut into tiles, and tiles into blocks.
#[derive(Debug, Clone, Copy)]
struct Tiling {
    rows: usize,
    columns: usize,
    /// Channels of the source.
    depth: usize,
    /// Channels of the target.
    width: usize,
    /// Tiles of a map.
    tiles: usize,
    tile_columns: usize,
    /// Most tiles of a block; even.
    block: usize,
    products: Products,
}

/// A tile's place.
#[derive(Debug, Clone, Copy)]
struct Place {
    image: usize,
    row: usize,
    column: usize,
}

impl Tiling {
    fn new(shape: &Shape, depth: usize, width: usize, products: Products) -> Self {
        Self::in_blocks(shape, depth, width, block(depth, width), products)
    }

    /// For a weight gradient. Its sums leave the cache and return with every block where they are large: then blocks are.
    fn for_weights(shape: &Shape, depth: usize, width: usize, products: Products) -> Self {
        let least = match ELEMENTS * depth * width {
            0..=LARGE_KERNELS => 32,
            sums if sums <= 4 * LARGE_KERNELS => 64,
            sums if sums <= 16 * LARGE_KERNELS => 128,
            _ => 256,
        };
        Self::in_blocks(shape, depth, width, block(depth, width).max(least), products)
    }

    fn in_blocks(shape: &Shape, depth: usize, width: usize, block: usize, products: Products) -> Self {
        let tile_columns = shape.width.div_ceil(TILE);
        let tiles = shape.height.div_ceil(TILE) * tile_columns;
        Self { rows: shape.height, columns: shape.width, depth, width, tiles, tile_columns, block, products }
    }

    /// Where tile number `tile` of a run of images lies: its first output pixel.
    #[inline(always)]
    fn place(&self, tile: usize) -> Place {
        let (image, within) = (tile / self.tiles, tile % self.tiles);
        Place { image, row: within / self.tile_columns * TILE, column: within % self.tile_columns * TILE }
    }

    fn source_values(&self) -> usize {
        self.rows * self.columns * self.depth
    }

    fn target_values(&self) -> usize {
        self.rows * self.columns * self.width
    }

    /// Units of the elements of a block's transformed source: pairs of channels or, for a weight gradient, of tiles. One cache
    /// line more than the values, because distances of a large power of two would put all elements into the same few lines of
    /// the first cache.
    fn source_plane(&self) -> usize {
        self.block * self.depth / self.products.per_unit() + 16
    }

    /// Values of the elements of a block's products.
    fn target_plane(&self) -> usize {
        self.block * self.width + 16
    }

    /// As [`Tiling::source_plane`], of the transformed gradients of outputs.
    fn gradient_plane(&self) -> usize {
        self.block * self.width / self.products.per_unit() + 16
    }

    /// Values of scratch memory for a block: both transforms, and one tile at the edge of a map.
    fn scratch_values(&self) -> usize {
        ELEMENTS * (self.source_plane() + self.target_plane() + self.depth.max(self.width))
    }
}

/// Transformed kernels of more values than this do not fit a second-level cache.
const LARGE_KERNELS: usize = 512 << 10;

/// Tiles of a block: as many as keep both transforms within most of a second-level cache; more where the kernels
/// themselves are far larger than it, so that each is fetched for many tiles.
fn block(depth: usize, width: usize) -> usize {
    const CACHE_VALUES: usize = 160 << 10;
    let fitting = CACHE_VALUES / (ELEMENTS * (depth + width));
    let least = if ELEMENTS * depth * width > LARGE_KERNELS { 64 } else { 16 };
    (fitting / 8 * 8).clamp(least, 128)
}
