//! The kernels of the CPU: convolution, batch normalisation and pooling, forward and backward, on NHWC maps of f32.
//!
//! All functions take slices and shapes and know nothing of networks. Instruction sets (AVX-512, AVX2 with FMA, NEON,
//! plain) are chosen at run time by an [`Isa`], which the caller passes on; [`Threads`] says who computes. Channels in
//! memory are rounded up to whole vectors, so that no kernel has a remainder to treat: see [`Isa::stored`].
//!
//! The same inputs, instruction set and number of threads give the same bits.
//!
//! Every kernel has a plain twin in `reference`, in f64 and by the definition, which the tests and the self-test hold it against.
//!
//! ```
//! use lumpd::device::kernels::{Convolution, Direction, Epilogue, Isa, Shape, Threads};
//!
//! let isa = Isa::for_channels(16);
//! let shape = Shape { height: 4, width: 4, inputs: 16, outputs: 16, size: 3, stride: 1, padding: 1, packed_input: false };
//! let convolution = Convolution::new(isa, shape);
//! let weights = vec![0.1; shape.weights()];
//! let mut packed = vec![0.0; convolution.packed_values(Direction::Forward)];
//! convolution.pack(Threads::Pool, Direction::Forward, &weights, &mut packed);
//! let input = vec![1.0; shape.input_values(isa)];
//! let mut output = vec![0.0; shape.output_values(isa)];
//! convolution.forward(Threads::Pool, &input, &packed, Epilogue::default(), &mut output);
//! assert!((output[0] - 16.0 * 4.0 * 0.1).abs() < 1e-3, "a corner sees four pixels of sixteen channels");
//! ```

pub(super) mod checks;
mod convolution;
mod direct;
mod filters;
mod max_pool;
mod norm;
mod pack;
mod partition;
mod pool;
mod products;
pub(crate) mod reference;
mod shape;
mod simd;
mod threads;
mod tile;
mod winograd;

pub use convolution::Convolution;
pub use filters::FilterBank;
pub use max_pool::{MaxPool, ScaleShift, Window};
pub use norm::{BatchNorm, Fitted, Mask, Moments};
pub use pack::Direction;
pub use pool::{global_average, global_average_backward, relu_backward};
pub use products::Products;
pub use shape::Shape;
pub use simd::Isa;
pub use threads::Threads;
pub use tile::Epilogue;
