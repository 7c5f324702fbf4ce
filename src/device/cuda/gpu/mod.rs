//! A GPU as a machine.
//!
//! Everything runs on the stream of candle's device, so that tensors and kernels of ours see each other's results in order.
//! Recording has a stream of its own: what other threads enqueue meanwhile is none of the recording's.

mod cudnn;
mod recorder;

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::cuda_backend::cudarc::driver::sys::CUmemPool_attribute;
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr, result,
};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use candle_core::cuda_backend::{CudaDevice, CudaStorage, WrapErr, kernels};
use candle_core::op::BackpropOp;
use candle_core::{DType, Device, Result, Storage, Tensor, bail};

use super::machine::*;
use super::parameters::BLOCK;
use cudnn::Cudnn;
use recorder::Recorder;

/// The kernels, compiled by build.rs: machine code and PTX.
const KERNELS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/lumpd.fatbin"));

/// Steps are not recorded where this variable is "0": for whoever looks for a fault.
const GRAPHS_VARIABLE: &str = "LUMPD_CUDA_GRAPHS";

/// Memory given back by tensors that the driver keeps for those to come. By itself it keeps none beyond a synchronisation,
/// and every step would wait for memory to be mapped anew.
const KEPT_BYTES: u64 = 1 << 30;

/// The compute capability for which bf16 is a type of the chip: 8.0, Ampere.
const BF16_CAPABILITY: u32 = 80;

/// A GPU with what is loaded on it.
pub struct Gpu {
    device: Device,
    cuda: CudaDevice,
    stream: Arc<CudaStream>,
    recording: Mutex<Arc<CudaStream>>,
    module: Arc<CudaModule>,
    functions: Mutex<HashMap<String, CudaFunction>>,
    cudnn: Cudnn,
    fastest: Precision,
    records: bool,
}

/// The machines of this process: one for each device that was opened.
static MACHINES: Mutex<Vec<Arc<Gpu>>> = Mutex::new(Vec::new());

/// The machine of a device; `None` where it is no GPU.
pub fn machine(device: &Device) -> Option<Result<Arc<dyn Machine>>> {
    let Device::Cuda(cuda) = device else { return None };
    let mut machines = lock(&MACHINES);
    if let Some(known) = machines.iter().find(|known| known.cuda.id() == cuda.id()) {
        return Some(Ok(known.clone()));
    }
    Some(Gpu::new(cuda).map(|gpu| {
        let gpu = Arc::new(gpu);
        machines.push(gpu.clone());
        gpu as Arc<dyn Machine>
    }))
}

/// The compute capability that the kernels of this build need at least, as 10 * major + minor: candle's are PTX for it, and
/// ours are built for the same.
pub fn built_for() -> Option<u32> {
    let (_, rest) = kernels::AFFINE.ptx().split_once(".target sm_")?;
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn keep_memory(context: &CudaContext) -> Result<()> {
    if !context.has_async_alloc() {
        return Ok(());
    }
    let mut kept = KEPT_BYTES;
    let threshold = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the device is the context's; the attribute is a number of 64 bits, which is read before this returns.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device()).w()?;
        result::mem_pool::set_attribute(pool, threshold, (&raw mut kept).cast()).w()
    }
}

impl Gpu {
    fn new(cuda: &CudaDevice) -> Result<Self> {
        let stream = cuda.cuda_stream();
        let context = stream.context();
        // SAFETY: everything on this device runs on one stream (the other one only records), so there is no work whose
        // order events would have to keep.
        unsafe { cuda.disable_event_tracking() };
        keep_memory(context)?;
        let (major, minor) = context.compute_capability().w()?;
        let capability = (10 * major + minor) as u32;
        Ok(Self {
            device: Device::Cuda(cuda.clone()),
            recording: Mutex::new(context.new_stream().w()?),
            module: context.load_module(Ptx::from_binary(KERNELS.to_vec())).w()?,
            functions: Mutex::default(),
            cudnn: Cudnn::new(&stream)?,
            fastest: if capability >= BF16_CAPABILITY { Precision::Bf16 } else { Precision::F32 },
            records: std::env::var(GRAPHS_VARIABLE).map_or(true, |value| value != "0"),
            cuda: cuda.clone(),
            stream,
        })
    }

    fn function(&self, name: &str) -> Result<CudaFunction> {
        let mut functions = lock(&self.functions);
        if let Some(function) = functions.get(name) {
            return Ok(function.clone());
        }
        let function = self.module.load_function(name).w()?;
        functions.insert(name.to_owned(), function.clone());
        Ok(function)
    }

    /// # Safety
    /// As [`Queue::launch`].
    unsafe fn launch_on(&self, stream: &CudaStream, launch: &Launch) -> Result<()> {
        let function = self.function(launch.kernel)?;
        let [x, y, z] = launch.blocks;
        let mut arguments = [launch.parameters.as_ptr().cast_mut().cast::<c_void>()];
        stream.context().bind_to_thread().w()?;
        // SAFETY: the caller vouches for argument and memory; the argument is read before this returns.
        unsafe {
            result::launch_kernel(
                function.cu_function(),
                (x, y, z),
                (BLOCK as u32, 1, 1),
                launch.shared_bytes,
                stream.cu_stream(),
                &mut arguments,
            )
        }
        .w()
    }

    fn convolve_on(&self, stream: &CudaStream, plan: &Plan, operands: Operands) -> Result<()> {
        operands.check(plan)?;
        stream.context().bind_to_thread().w()?;
        self.cudnn.convolve(stream, plan, operands)
    }

    fn copy_on(&self, stream: &CudaStream, from: &Region, to: &Region) -> Result<()> {
        let (target, source) = (to.at("the target of a copy", from.bytes())?, from.at("the source of a copy", 0)?);
        stream.context().bind_to_thread().w()?;
        // SAFETY: both are memory of this device and long enough.
        unsafe { result::memcpy_dtod_async(target, source, from.bytes(), stream.cu_stream()) }.w()
    }

    fn clear_on(&self, stream: &CudaStream, region: &Region) -> Result<()> {
        stream.context().bind_to_thread().w()?;
        // SAFETY: the region is memory of this device.
        unsafe { result::memset_d8_async(region.at("a region", 0)?, 0, region.bytes(), stream.cu_stream()) }.w()
    }

    fn region(&self, slice: CudaSlice<u8>, bytes: usize) -> Region {
        let (address, _) = slice.device_ptr(&self.stream);
        // SAFETY: the memory is the slice's, which the region keeps.
        unsafe { Region::new(Arc::new(slice), address, bytes) }
    }
}

impl Queue for Gpu {
    unsafe fn launch(&self, launch: &Launch) -> Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { self.launch_on(&self.stream, launch) }
    }

    fn convolve(&self, plan: &Plan, operands: Operands) -> Result<()> {
        self.convolve_on(&self.stream, plan, operands)
    }

    fn copy(&self, from: &Region, to: &Region) -> Result<()> {
        self.copy_on(&self.stream, from, to)
    }

    fn clear(&self, region: &Region) -> Result<()> {
        self.clear_on(&self.stream, region)
    }
}

impl Machine for Gpu {
    fn device(&self) -> &Device {
        &self.device
    }

    fn fastest(&self) -> Precision {
        self.fastest
    }

    fn allocate(&self, bytes: usize) -> Result<Region> {
        // SAFETY: whoever reads memory of unspecified content gets unspecified numbers; there are no invalid ones.
        let slice = unsafe { self.stream.alloc::<u8>(bytes.max(1)) }.w()?;
        Ok(self.region(slice, bytes))
    }

    fn upload(&self, bytes: &[u8]) -> Result<Region> {
        match bytes.is_empty() {
            true => self.allocate(0),
            false => Ok(self.region(self.stream.clone_htod(bytes).w()?, bytes.len())),
        }
    }

    fn download(&self, region: &Region) -> Result<Vec<u8>> {
        let mut bytes = vec![0; region.bytes()];
        self.stream.context().bind_to_thread().w()?;
        // SAFETY: both sides are as long, and `bytes` is not looked at before the stream is done.
        unsafe { result::memcpy_dtoh_async(&mut bytes, region.at("a region", 0)?, self.stream.cu_stream()) }.w()?;
        self.stream.synchronize().w()?;
        Ok(bytes)
    }

    fn lend(&self, tensor: &Tensor) -> Result<Region> {
        let (storage, layout) = tensor.storage_and_layout();
        match (&*storage, layout.contiguous_offsets(), tensor.dtype()) {
            (Storage::Cuda(storage), Some((start, end)), DType::F32) if tensor.device().same_device(&self.device) => {
                let (address, _) = storage.as_cuda_slice::<f32>()?.device_ptr(&self.stream);
                // SAFETY: the clone of the tensor keeps its memory, which is that long.
                Ok(unsafe { Region::new(Arc::new(tensor.clone()), address + 4 * start as u64, 4 * (end - start)) })
            }
            _ => bail!("not a contiguous f32 tensor of this device: {tensor:?}"),
        }
    }

    fn tensor(&self, region: &Region, shape: &[usize]) -> Result<Tensor> {
        let count = shape.iter().product::<usize>();
        let source = region.at("a tensor", 4 * count)?;
        // SAFETY: all of it is written by the copy that follows on the same stream.
        let slice = unsafe { self.stream.alloc::<f32>(count.max(1)) }.w()?;
        let (target, _) = slice.device_ptr(&self.stream);
        // SAFETY: both are memory of this device and long enough.
        unsafe { result::memcpy_dtod_async(target, source, 4 * count, self.stream.cu_stream()) }.w()?;
        let storage = CudaStorage::wrap_cuda_slice(slice, self.cuda.clone());
        Ok(Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false))
    }

    fn queue(&self) -> &dyn Queue {
        self
    }

    fn record(&self, work: &mut dyn FnMut(&dyn Queue) -> Result<()>) -> Result<Box<dyn Recording>> {
        // One recording at a time: they share a stream.
        Recorder::record(self, &lock(&self.recording), work)
    }

    fn records(&self) -> bool {
        self.records
    }

    fn plan(&self, shape: ConvolutionShape, precision: Precision, pass: Pass) -> Result<Plan> {
        self.stream.context().bind_to_thread().w()?;
        self.cudnn.plan(self, shape, precision, pass)
    }
}
