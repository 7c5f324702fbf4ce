//! Recording work as a CUDA graph.

use std::sync::{Arc, Mutex};

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::sys::{self, CUstreamCaptureMode};
use candle_core::cuda_backend::cudarc::driver::{CudaStream, result};
use candle_core::{Result, bail};

use super::{Gpu, lock};
use crate::device::cuda::machine::*;

/// A queue whose work goes into a graph.
pub(super) struct Recorder<'a> {
    gpu: &'a Gpu,
    stream: &'a CudaStream,
    /// The graph knows addresses only.
    kept: Mutex<Vec<Region>>,
}

/// A graph ready to run, and the memory it works on.
struct Graph {
    executable: sys::CUgraphExec,
    target: Arc<CudaStream>,
    _kept: Vec<Region>,
}

// SAFETY: a graph is no thread's own; the driver only forbids its use by two at a time, which `&mut` engines rule out, and
// launching and destroying set the context first.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.target.context().bind_to_thread().is_ok() {
            // SAFETY: made by `executable`, destroyed once; where it still runs the driver waits with it. A failure here has no
            // one to be told to.
            let _ = unsafe { result::graph::exec_destroy(self.executable) };
        }
    }
}

impl Recording for Graph {
    fn replay(&self) -> Result<()> {
        self.target.context().bind_to_thread().w()?;
        // SAFETY: graph and stream are alive, and so is the memory.
        unsafe { result::graph::launch(self.executable, self.target.cu_stream()) }.w()
    }
}

/// What was captured, made ready to run.
///
/// # Safety
/// `graph` is one; it is destroyed.
unsafe fn executable(graph: sys::CUgraph) -> Result<sys::CUgraphExec> {
    let mut executable = std::ptr::null_mut();
    // SAFETY: plain data, for which zeros mean the defaults.
    let mut parameters: sys::CUDA_GRAPH_INSTANTIATE_PARAMS = unsafe { std::mem::zeroed() };
    // SAFETY: the graph is one, by the caller; it is not used after it is destroyed.
    unsafe {
        let made = sys::cuGraphInstantiateWithParams(&mut executable, graph, &mut parameters).result().w();
        let destroyed = result::graph::destroy(graph).w();
        made.and(destroyed)?;
    }
    Ok(executable)
}

impl<'a> Recorder<'a> {
    pub(super) fn record(
        gpu: &'a Gpu,
        stream: &'a Arc<CudaStream>,
        work: &mut dyn FnMut(&dyn Queue) -> Result<()>,
    ) -> Result<Box<dyn Recording>> {
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).w()?;
        let recorder = Self { gpu, stream, kept: Mutex::default() };
        let outcome = work(&recorder);
        // Ended also where the work failed: the stream is wanted again.
        // SAFETY: the stream is alive and captures since `begin_capture`.
        let graph = unsafe { result::stream::end_capture(stream.cu_stream()) }.w();
        let executable = match (outcome, graph) {
            (Ok(()), Ok(graph)) if graph.is_null() => bail!("the driver recorded nothing"),
            // SAFETY: the graph was just captured.
            (Ok(()), Ok(graph)) => unsafe { executable(graph) }?,
            (Err(error), Ok(graph)) if !graph.is_null() => {
                // SAFETY: the graph was just captured, and no one uses it. The first error says more than one here.
                let _ = unsafe { result::graph::destroy(graph) };
                return Err(error);
            }
            (Err(error), _) | (Ok(()), Err(error)) => return Err(error),
        };
        let kept = std::mem::take(&mut *lock(&recorder.kept));
        Ok(Box::new(Graph { executable, target: gpu.stream.clone(), _kept: kept }))
    }

    fn keep(&self, regions: &[&Region]) {
        lock(&self.kept).extend(regions.iter().map(|region| (*region).clone()));
    }
}

impl Queue for Recorder<'_> {
    unsafe fn launch(&self, launch: &Launch) -> Result<()> {
        self.keep(launch.regions);
        // SAFETY: passed on to the caller; the memory lives as long as the graph.
        unsafe { self.gpu.launch_on(self.stream, launch) }
    }

    fn convolve(&self, plan: &Plan, operands: Operands) -> Result<()> {
        self.keep(&[operands.input, operands.filter, operands.output, operands.workspace]);
        self.gpu.convolve_on(self.stream, plan, operands)
    }

    fn copy(&self, from: &Region, to: &Region) -> Result<()> {
        self.keep(&[from, to]);
        self.gpu.copy_on(self.stream, from, to)
    }

    fn clear(&self, region: &Region) -> Result<()> {
        self.keep(&[region]);
        self.gpu.clear_on(self.stream, region)
    }
}
