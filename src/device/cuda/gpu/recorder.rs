//! Recording work as a CUDA graph.

use std::sync::{Arc, Mutex};

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use candle_core::cuda_backend::cudarc::driver::{CudaGraph, CudaStream, result};
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

/// A graph, and the memory it works on.
struct Graph {
    graph: CudaGraph,
    target: Arc<CudaStream>,
    _kept: Vec<Region>,
}

// SAFETY: a graph is no thread's own; the driver only forbids its use by two at a time, which `&mut` engines rule out, and
// launching and destroying set the context first.
unsafe impl Send for Graph {}

impl Recording for Graph {
    fn replay(&self) -> Result<()> {
        self.target.context().bind_to_thread().w()?;
        // SAFETY: graph and stream are alive, and so is the memory.
        unsafe { result::graph::launch(self.graph.cu_graph_exec(), self.target.cu_stream()) }.w()
    }
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
        let graph = stream.end_capture(CUgraphInstantiate_flags(0)).w();
        outcome?;
        let Some(graph) = graph? else { bail!("the driver recorded nothing") };
        let kept = std::mem::take(&mut *lock(&recorder.kept));
        Ok(Box::new(Graph { graph, target: gpu.stream.clone(), _kept: kept }))
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
