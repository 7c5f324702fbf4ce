//! What a backend needs of a machine with memory of its own: memory, launches in order, convolutions, recordings.
//!
//! A GPU is one such machine; the tests have another, which runs the same kernels on the CPU. Everything above this
//! file is the same on both.

use std::any::Any;
use std::sync::Arc;

use candle_core::{Device, Result, Tensor, bail};

/// A run of the machine's memory. Clones are the same memory, which is given back after the last one is gone and what was
/// enqueued on it has been done.
#[derive(Clone)]
pub struct Region {
    owner: Arc<dyn Any + Send + Sync>,
    address: u64,
    bytes: usize,
}

impl Region {
    /// # Safety
    /// The `bytes` at `address` are the machine's to read and write as long as `owner` lives.
    pub unsafe fn new(owner: Arc<dyn Any + Send + Sync>, address: u64, bytes: usize) -> Self {
        Self { owner, address, bytes }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A part of it.
    ///
    /// # Errors
    /// Where it does not reach that far.
    pub fn slice(&self, offset: usize, bytes: usize) -> Result<Self> {
        if offset.checked_add(bytes).is_none_or(|end| end > self.bytes) {
            bail!("bytes {offset} to {offset} + {bytes} of a region of {}", self.bytes);
        }
        Ok(Self { owner: self.owner.clone(), address: self.address + offset as u64, bytes })
    }

    /// The part that holds `count` values of f32 from value `first` on.
    ///
    /// # Errors
    /// Where it does not reach that far.
    pub fn values(&self, first: usize, count: usize) -> Result<Self> {
        self.slice(4 * first, 4 * count)
    }

    /// Where it lies, if it holds at least `bytes`.
    pub(super) fn at(&self, what: &str, bytes: usize) -> Result<u64> {
        if self.bytes < bytes {
            bail!("{what} needs {bytes} bytes, but has {}", self.bytes);
        }
        Ok(self.address)
    }
}

/// What the values of maps and filters are, and how convolutions compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// f32 throughout: for parity.
    F32,
    /// f32 values whose products tensor cores take with mantissas of 10 bits.
    Tf32,
    /// bf16 values, sums in f32.
    Bf16,
}

impl Precision {
    /// Bytes of a value.
    pub fn bytes(self) -> usize {
        if self == Self::Bf16 { 2 } else { 4 }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        }
    }

    /// Channels in which images are stored, so that convolutions of the stem read whole 16 bytes.
    pub fn image_channels(self) -> usize {
        16 / self.bytes()
    }

    /// Name of a kernel for maps of that many channels, and the channels that one thread takes.
    pub(super) fn kernel(self, name: &str, channels: usize) -> (String, usize) {
        let lanes = 16 / self.bytes();
        let lanes = if channels.is_multiple_of(lanes) { lanes } else { 1 };
        let values = if self == Self::Bf16 { "bf16" } else { "f32" };
        (format!("{name}_{values}x{lanes}"), lanes)
    }
}

/// A launch of a kernel.
pub struct Launch<'a> {
    pub kernel: &'a str,
    pub blocks: [u32; 3],
    pub shared_bytes: u32,
    /// The kernel's one argument.
    pub parameters: &'a [u8],
    /// Every region that the argument points into.
    pub regions: &'a [&'a Region],
}

/// A convolution of NHWC maps without bias; weights are (outputs, size, size, inputs).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConvolutionShape {
    pub images: usize,
    pub height: usize,
    pub width: usize,
    /// Channels of the input as stored.
    pub inputs: usize,
    pub outputs: usize,
    pub size: usize,
    pub stride: usize,
    pub padding: usize,
}

impl ConvolutionShape {
    pub fn output_height(&self) -> usize {
        (self.height + 2 * self.padding - self.size) / self.stride + 1
    }

    pub fn output_width(&self) -> usize {
        (self.width + 2 * self.padding - self.size) / self.stride + 1
    }

    pub fn input_values(&self) -> usize {
        self.images * self.height * self.width * self.inputs
    }

    pub fn output_values(&self) -> usize {
        self.images * self.output_height() * self.output_width() * self.outputs
    }

    pub fn filter_values(&self) -> usize {
        self.outputs * self.size * self.size * self.inputs
    }
}

/// One of the three things to compute of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pass {
    /// The output of input and weights.
    Forward,
    /// The input's gradient of the output's and the weights, written or added to what is there.
    InputGradient { add: bool },
    /// The weights' gradient of input and the output's gradient.
    WeightGradient,
}

/// How a convolution is computed: chosen once, used at every step.
#[derive(Clone)]
pub struct Plan {
    pub shape: ConvolutionShape,
    pub precision: Precision,
    pub pass: Pass,
    /// Memory that it needs while it runs.
    pub workspace_bytes: usize,
    /// The machine's own choice.
    pub choice: Arc<dyn Any + Send + Sync>,
}

/// What a convolution works on: the regions of input, weights and output, or of their gradients where the pass speaks of those.
#[derive(Clone, Copy)]
pub struct Operands<'a> {
    pub input: &'a Region,
    pub filter: &'a Region,
    pub output: &'a Region,
    pub workspace: &'a Region,
}

#[cfg(any(test, feature = "cuda"))]
impl Operands<'_> {
    pub(super) fn check(&self, plan: &Plan) -> Result<()> {
        let (shape, bytes) = (&plan.shape, plan.precision.bytes());
        self.input.at("the input of a convolution", shape.input_values() * bytes)?;
        self.filter.at("the weights of a convolution", shape.filter_values() * bytes)?;
        self.output.at("the output of a convolution", shape.output_values() * bytes)?;
        self.workspace.at("the workspace of a convolution", plan.workspace_bytes)?;
        Ok(())
    }
}

/// Work in order: each piece sees what the ones before it did.
pub trait Queue {
    /// # Safety
    /// The argument is the kernel's, and it makes the kernel touch nothing but the regions named.
    unsafe fn launch(&self, launch: &Launch) -> Result<()>;

    /// One pass of a convolution.
    ///
    /// # Errors
    /// Where a region is too small for it, or the machine fails.
    fn convolve(&self, plan: &Plan, operands: Operands) -> Result<()>;

    /// Copies all of `from` to the front of `to`.
    ///
    /// # Errors
    /// Where it does not fit, or the machine fails.
    fn copy(&self, from: &Region, to: &Region) -> Result<()>;

    /// Makes every byte 0.
    ///
    /// # Errors
    /// Where the machine fails.
    fn clear(&self, region: &Region) -> Result<()>;
}

/// Work that was recorded once and can be done again and again, on the same memory.
pub trait Recording: Send {
    /// Enqueues all of it behind what the machine's queue holds.
    ///
    /// # Errors
    /// Where the machine fails.
    fn replay(&self) -> Result<()>;
}

/// A machine.
pub trait Machine: Send + Sync {
    /// Where the tensors live that it can read.
    fn device(&self) -> &Device;

    /// The most precise of the fast ways to compute.
    fn fastest(&self) -> Precision;

    /// Memory of unspecified content.
    ///
    /// # Errors
    /// Where there is no more.
    fn allocate(&self, bytes: usize) -> Result<Region>;

    /// Memory with that content.
    ///
    /// # Errors
    /// Where there is no more.
    fn upload(&self, bytes: &[u8]) -> Result<Region>;

    /// The content of a region, after all that was enqueued before.
    ///
    /// # Errors
    /// Where the machine fails.
    fn download(&self, region: &Region) -> Result<Vec<u8>>;

    /// The memory of a contiguous f32 tensor of this machine, to be read.
    ///
    /// # Errors
    /// Where it is no such tensor.
    fn lend(&self, tensor: &Tensor) -> Result<Region>;

    /// A new f32 tensor with the content that the region has at this place of the queue.
    ///
    /// # Errors
    /// Where the region is too small, or memory is lacking.
    fn tensor(&self, region: &Region, shape: &[usize]) -> Result<Tensor>;

    /// The queue that tensors are worked on with, too.
    fn queue(&self) -> &dyn Queue;

    /// Records what `work` enqueues instead of doing it. Regions used stay alive with the recording.
    ///
    /// # Errors
    /// Where `work` fails, or does what cannot be recorded.
    fn record(&self, work: &mut dyn FnMut(&dyn Queue) -> Result<()>) -> Result<Box<dyn Recording>>;

    /// Whether steps are to be recorded at all: not where someone looks for a fault.
    fn records(&self) -> bool;

    /// Chooses how to compute a pass, the fastest way that is found.
    ///
    /// # Errors
    /// Where there is no way.
    fn plan(&self, shape: ConvolutionShape, precision: Precision, pass: Pass) -> Result<Plan>;
}

/// Values of f32 as bytes.
pub fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

/// Bytes as values of f32.
pub fn values_of(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_ne_bytes(*bytes)).collect()
}
