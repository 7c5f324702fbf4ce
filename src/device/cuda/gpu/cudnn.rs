//! Convolutions by cuDNN.
//!
//! cuDNN's own order of preference is a guess; each candidate is run a few times when a plan is made, and the fastest is kept.
//! Weights' gradients have the type of the maps (bf16 sums are f32 inside): they are cast to f32 when they are unpacked, as
//! PyTorch's autocast does.

use std::any::Any;
use std::ffi::{c_int, c_void};
use std::sync::{Arc, Mutex};

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::cudnn::{result, sys};
use candle_core::cuda_backend::cudarc::driver::CudaStream;
use candle_core::cuda_backend::cudarc::driver::sys::CUevent_flags;
use candle_core::{Error, Result, bail};

use super::lock;
use crate::device::cuda::machine::*;

/// A way that needs more memory than this beside the maps is not taken.
const MOST_WORKSPACE: usize = 256 << 20;

/// Runs of a candidate whose time counts, after one that does not.
const TIMED_RUNS: u32 = 3;

/// Candidates that cuDNN is asked for.
const CANDIDATES: usize = 8;

/// A handle, for one thread at a time.
pub(super) struct Cudnn(Mutex<Handle>);

struct Handle(sys::cudnnHandle_t);

// SAFETY: a handle may be used from any thread, by one at a time; the mutex sees to that.
unsafe impl Send for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: made by `Cudnn::new`, destroyed once. A failure at the end has no one to be told to.
        let _ = unsafe { result::destroy_handle(self.0) };
    }
}

/// What cuDNN calls the operands of a convolution.
struct Descriptors {
    input: sys::cudnnTensorDescriptor_t,
    output: sys::cudnnTensorDescriptor_t,
    filter: sys::cudnnFilterDescriptor_t,
    convolution: sys::cudnnConvolutionDescriptor_t,
}

// SAFETY: descriptors are plain data behind a pointer; after a plan is made they are only read.
unsafe impl Send for Descriptors {}
// SAFETY: as above.
unsafe impl Sync for Descriptors {}

impl Drop for Descriptors {
    fn drop(&mut self) {
        // SAFETY: made by `Descriptors::new`, destroyed once.
        unsafe {
            let _ = result::destroy_tensor_descriptor(self.input);
            let _ = result::destroy_tensor_descriptor(self.output);
            let _ = result::destroy_filter_descriptor(self.filter);
            let _ = result::destroy_convolution_descriptor(self.convolution);
        }
    }
}

/// One of cuDNN's ways to compute a pass.
#[derive(Debug, Clone, Copy)]
enum Algorithm {
    Forward(sys::cudnnConvolutionFwdAlgo_t),
    InputGradient(sys::cudnnConvolutionBwdDataAlgo_t),
    WeightGradient(sys::cudnnConvolutionBwdFilterAlgo_t),
}

/// A way, and what it needs.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    algorithm: Algorithm,
    workspace_bytes: usize,
    math: sys::cudnnMathType_t,
}

/// What a [`Plan`] of this machine holds.
struct Choice {
    descriptors: Descriptors,
    algorithm: Algorithm,
}

impl Descriptors {
    fn new(shape: &ConvolutionShape, precision: Precision) -> Result<Self> {
        let kind = match precision {
            Precision::Bf16 => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
            Precision::F32 | Precision::Tf32 => sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
        };
        let format = sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;
        let ints = |values: [usize; 4]| values.map(|value| value as c_int);
        let ConvolutionShape { images, height, width, inputs, outputs, size, stride, padding } = *shape;
        let made = Self {
            input: result::create_tensor_descriptor().map_err(Error::wrap)?,
            output: result::create_tensor_descriptor().map_err(Error::wrap)?,
            filter: result::create_filter_descriptor().map_err(Error::wrap)?,
            convolution: result::create_convolution_descriptor().map_err(Error::wrap)?,
        };
        let (pad, step) = (padding as c_int, stride as c_int);
        let output = ints([images, outputs, shape.output_height(), shape.output_width()]);
        let cross = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
        // Sums are f32 whatever the values are.
        let sums = sys::cudnnDataType_t::CUDNN_DATA_FLOAT;
        // SAFETY: the four descriptors were just made. Sizes are those of NCHW, whatever the format.
        unsafe {
            result::set_tensor4d_descriptor(made.input, format, kind, ints([images, inputs, height, width]))
                .and_then(|()| result::set_tensor4d_descriptor(made.output, format, kind, output))
                .and_then(|()| {
                    result::set_filter4d_descriptor(made.filter, kind, format, ints([outputs, inputs, size, size]))
                })
                .and_then(|()| {
                    result::set_convolution2d_descriptor(made.convolution, pad, pad, step, step, 1, 1, cross, sums)
                })
                .map_err(Error::wrap)?;
        }
        made.set_math(default_math(precision))?;
        Ok(made)
    }

    fn set_math(&self, math: sys::cudnnMathType_t) -> Result<()> {
        // SAFETY: the descriptor is alive.
        unsafe { result::set_convolution_math_type(self.convolution, math) }.map_err(Error::wrap)
    }

    /// cuDNN's candidates for a pass, in its order of preference.
    fn candidates(&self, handle: &Handle, precision: Precision, pass: Pass) -> Result<Vec<Candidate>> {
        let mut found: c_int = 0;
        macro_rules! ask {
            ($ask:path, $algorithm:path, $first:expr, $second:expr, $third:expr) => {{
                // SAFETY: an array of plain results, for which zeros are valid values of every field.
                let mut results = [unsafe { std::mem::zeroed() }; CANDIDATES];
                let count = CANDIDATES as c_int;
                let (convolution, places) = (self.convolution, results.as_mut_ptr());
                // SAFETY: handle and descriptors are alive, and there is room for as many results as are asked for.
                unsafe { $ask(handle.0, $first, $second, convolution, $third, count, &mut found, places) }
                    .map_err(Error::wrap)?;
                let sound = results[..found.clamp(0, count) as usize].iter().filter(|result| {
                    result.status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS && result.memory <= MOST_WORKSPACE
                });
                sound
                    .map(|result| Candidate {
                        algorithm: $algorithm(result.algo),
                        workspace_bytes: result.memory,
                        // What cuDNN proposes may be faster than what was asked for, and less exact.
                        math: if precision == Precision::F32 { default_math(precision) } else { result.mathType },
                    })
                    .collect()
            }};
        }
        let Self { input, output, filter, .. } = *self;
        Ok(match pass {
            Pass::Forward => {
                ask!(result::get_convolution_forward_algorithm, Algorithm::Forward, input, filter, output)
            }
            Pass::InputGradient { .. } => {
                ask!(result::get_convolution_backward_data_algorithm, Algorithm::InputGradient, filter, output, input)
            }
            Pass::WeightGradient => {
                ask!(
                    result::get_convolution_backward_filter_algorithm,
                    Algorithm::WeightGradient,
                    input,
                    output,
                    filter
                )
            }
        })
    }

    /// # Safety
    /// The operands are memory of the handle's device and as large as the descriptors say; the workspace is as large as
    /// stated.
    unsafe fn run(
        &self,
        handle: &Handle,
        algorithm: Algorithm,
        pass: Pass,
        [input, filter, output, workspace]: [u64; 4],
        workspace_bytes: usize,
    ) -> Result<()> {
        let pointer = |address: u64| address as *mut c_void;
        let one = 1.0f32;
        let share = if pass == (Pass::InputGradient { add: true }) { 1.0f32 } else { 0.0 };
        let (alpha, beta) = ((&raw const one).cast::<c_void>(), (&raw const share).cast::<c_void>());
        let workspace = pointer(workspace);
        // SAFETY: passed on to the caller; handle and descriptors are alive; factors are f32 as the sums are.
        let status = unsafe {
            match algorithm {
                Algorithm::Forward(algorithm) => result::convolution_forward(
                    handle.0,
                    alpha,
                    self.input,
                    pointer(input),
                    self.filter,
                    pointer(filter),
                    self.convolution,
                    algorithm,
                    workspace,
                    workspace_bytes,
                    beta,
                    self.output,
                    pointer(output),
                ),
                Algorithm::InputGradient(algorithm) => result::convolution_backward_data(
                    handle.0,
                    alpha,
                    self.filter,
                    pointer(filter),
                    self.output,
                    pointer(output),
                    self.convolution,
                    algorithm,
                    workspace,
                    workspace_bytes,
                    beta,
                    self.input,
                    pointer(input),
                ),
                Algorithm::WeightGradient(algorithm) => result::convolution_backward_filter(
                    handle.0,
                    alpha,
                    self.input,
                    pointer(input),
                    self.output,
                    pointer(output),
                    self.convolution,
                    algorithm,
                    workspace,
                    workspace_bytes,
                    beta,
                    self.filter,
                    pointer(filter),
                ),
            }
        };
        status.map_err(Error::wrap)
    }
}

/// In f32 tensor cores may not round the factors.
fn default_math(precision: Precision) -> sys::cudnnMathType_t {
    match precision {
        Precision::F32 => sys::cudnnMathType_t::CUDNN_FMA_MATH,
        Precision::Tf32 => sys::cudnnMathType_t::CUDNN_DEFAULT_MATH,
        Precision::Bf16 => sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
    }
}

impl Cudnn {
    pub(super) fn new(stream: &CudaStream) -> Result<Self> {
        stream.context().bind_to_thread().w()?;
        Ok(Self(Mutex::new(Handle(result::create_handle().map_err(Error::wrap)?))))
    }

    /// Enqueues a pass on the stream.
    pub(super) fn convolve(&self, stream: &CudaStream, plan: &Plan, operands: Operands) -> Result<()> {
        let Some(choice) = (&*plan.choice as &dyn Any).downcast_ref::<Choice>() else {
            bail!("the plan of a convolution is another machine's");
        };
        self.enqueue(stream, &choice.descriptors, choice.algorithm, plan.pass, plan.workspace_bytes, operands)
    }

    fn enqueue(
        &self,
        stream: &CudaStream,
        descriptors: &Descriptors,
        algorithm: Algorithm,
        pass: Pass,
        workspace_bytes: usize,
        operands: Operands,
    ) -> Result<()> {
        let addresses = [operands.input, operands.filter, operands.output, operands.workspace]
            .map(|region| region.at("an operand", 0).unwrap_or(0));
        let handle = lock(&self.0);
        // SAFETY: handle and stream are alive and of one device.
        unsafe { result::set_stream(handle.0, stream.cu_stream().cast()) }.map_err(Error::wrap)?;
        // SAFETY: regions were checked against the plan, of whose shape the descriptors are.
        unsafe { descriptors.run(&handle, algorithm, pass, addresses, workspace_bytes) }
    }

    /// The fastest of cuDNN's candidates.
    pub(super) fn plan(
        &self,
        gpu: &super::Gpu,
        shape: ConvolutionShape,
        precision: Precision,
        pass: Pass,
    ) -> Result<Plan> {
        let descriptors = Descriptors::new(&shape, precision)?;
        let candidates = descriptors.candidates(&lock(&self.0), precision, pass)?;
        let memory = |values: usize| gpu.allocate(values * precision.bytes());
        let (input, filter, output) =
            (memory(shape.input_values())?, memory(shape.filter_values())?, memory(shape.output_values())?);
        for region in [&input, &filter, &output] {
            gpu.clear(region)?;
        }
        let mut best: Option<(f32, Candidate)> = None;
        for candidate in candidates {
            let workspace = gpu.allocate(candidate.workspace_bytes.max(1))?;
            let operands = Operands { input: &input, filter: &filter, output: &output, workspace: &workspace };
            // One that fails is no candidate; where all do, that is told below.
            let Ok(milliseconds) = self.time(&gpu.stream, &descriptors, candidate, pass, operands) else { continue };
            if best.is_none_or(|(fastest, _)| milliseconds < fastest) {
                best = Some((milliseconds, candidate));
            }
        }
        let Some((_, Candidate { algorithm, workspace_bytes, math })) = best else {
            bail!("cuDNN has no way to compute {pass:?} of {shape:?} in {}", precision.name());
        };
        descriptors.set_math(math)?;
        let choice = Arc::new(Choice { descriptors, algorithm });
        Ok(Plan { shape, precision, pass, workspace_bytes, choice })
    }

    fn time(
        &self,
        stream: &Arc<CudaStream>,
        descriptors: &Descriptors,
        candidate: Candidate,
        pass: Pass,
        operands: Operands,
    ) -> Result<f32> {
        descriptors.set_math(candidate.math)?;
        let run = || {
            let Candidate { algorithm, workspace_bytes, .. } = candidate;
            self.enqueue(stream, descriptors, algorithm, pass, workspace_bytes, operands)
        };
        run()?;
        let flags = Some(CUevent_flags::CU_EVENT_DEFAULT);
        let start = stream.record_event(flags).w()?;
        (0..TIMED_RUNS).try_for_each(|_| run())?;
        let end = stream.record_event(flags).w()?;
        start.elapsed_ms(&end).w()
    }
}
