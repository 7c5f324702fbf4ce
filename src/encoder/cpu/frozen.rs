//! The frozen network: batch norm folded into the kernels (see [`Folded`]), no memory of a training step.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Result, Tensor};

use super::layers::{BlockLayers, Folded, Layer, Layers, Network};
use super::with_values;
use crate::device::kernels::{Convolution, Direction, Epilogue, Isa, Products, Shape, Threads, global_average};
use crate::encoder::Embedder;

/// Batches up to this size are answered by the calling thread: a query does not queue behind other work in the pool.
const FEW: usize = 2;

/// Most images that pass through the network together, and values of their largest maps: what bounds the memory of a large
/// batch.
const TOGETHER: usize = 64;
const TOGETHER_VALUES: usize = 1 << 24;

/// Image sizes whose packed kernels are kept.
const SIZES: usize = 4;

/// An immutable copy of the network.
pub(super) struct CpuEmbedder {
    isa: Isa,
    products: Products,
    network: Network,
    /// Of each layer, in the order of the layout.
    folded: Vec<Folded>,
    features: usize,
    plans: Mutex<Vec<Arc<Plan>>>,
    /// Maps to compute in, a set for each thread that has embedded at the same time.
    maps: Mutex<Vec<Vec<Vec<f32>>>>,
}

/// Packed kernels for images of one size.
struct Plan {
    size: (usize, usize),
    few: bool,
    layers: Layers,
    convolutions: Vec<(Convolution, Vec<f32>)>,
}

impl CpuEmbedder {
    pub(super) fn new(
        (isa, products): (Isa, Products),
        network: &Network,
        parameters: &[f32],
        statistics: &[f32],
    ) -> Self {
        // Where parameters lie does not depend on the size of the images.
        let layers = Layers::new(isa, network, (1, 1));
        let folded = layers.all.iter().map(|layer| Folded::new(isa, layer, parameters, statistics)).collect();
        Self {
            isa,
            products,
            features: layers.features(),
            network: network.clone(),
            folded,
            plans: Mutex::default(),
            maps: Mutex::default(),
        }
    }

    /// The packed kernels for a size, packed by the first who asks for it.
    fn plan(&self, size: (usize, usize), few: bool) -> Arc<Plan> {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plan) = plans.iter().find(|plan| plan.size == size && plan.few == few) {
            return plan.clone();
        }
        if plans.len() >= 2 * SIZES {
            plans.remove(0);
        }
        let plan = Arc::new(self.pack(size, few));
        plans.push(plan.clone());
        plan
    }

    fn pack(&self, size: (usize, usize), few: bool) -> Plan {
        let layers = Layers::new(self.isa, &self.network, size);
        let threads = if few { Threads::Caller } else { Threads::Pool };
        let pack = |(layer, folded): (&Layer, &Folded)| {
            let convolution = convolution((self.isa, self.products), layer.shape, few);
            let mut packed = vec![0.0; convolution.packed_values(Direction::Forward)];
            convolution.pack(threads, Direction::Forward, &folded.kernel, &mut packed);
            (convolution, packed)
        };
        let convolutions = layers.all.iter().zip(&self.folded).map(pack).collect();
        Plan { size, few, layers, convolutions }
    }

    /// Features of a few images, in memory from `maps`.
    fn run(&self, plan: &Plan, threads: Threads, images: &[f32], maps: &mut [Vec<f32>; 3], features: &mut Vec<f32>) {
        let count = images.len() / plan.layers.all[0].shape.input_values(self.isa);
        let layer = |index: usize, input: &[f32], accumulate: bool, relu: bool, output: &mut Vec<f32>| {
            let (convolution, packed) = &plan.convolutions[index];
            let values = count * convolution.shape().output_values(self.isa);
            output.resize(values, 0.0);
            let epilogue = Epilogue { bias: Some(&self.folded[index].bias), accumulate, relu };
            convolution.forward(threads, input, packed, epilogue, output);
        };
        let [map, inner, side] = maps;
        layer(0, images, false, true, map);
        if let Some(pool) = &plan.layers.pool {
            side.resize(count * pool.output_values(), 0.0);
            pool.forward(threads, map, None, side, None);
            std::mem::swap(map, side);
        }
        for &BlockLayers { first, second, shortcut, .. } in &plan.layers.blocks {
            layer(first, map, false, true, inner);
            if let Some(shortcut) = shortcut {
                layer(shortcut, map, false, false, side);
                std::mem::swap(map, side);
            }
            layer(second, inner, true, true, map);
        }
        let stored = self.isa.stored(self.features);
        let mut pooled = vec![0.0; count * stored];
        global_average(map, plan.layers.last_pixels(), stored, &mut pooled);
        features.extend(pooled.chunks_exact(stored).flat_map(|image| &image[..self.features]));
    }
}

impl Embedder for CpuEmbedder {
    fn features(&self) -> usize {
        self.features
    }

    fn embed(&self, images: &Tensor) -> Result<Tensor> {
        let (count, height, width) = super::image_shape(images)?;
        let few = count <= FEW;
        let plan = self.plan((height, width), few);
        let threads = if few { Threads::Caller } else { Threads::Pool };
        let lent = self.maps.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut maps: [Vec<f32>; 3] = lent.and_then(|maps| maps.try_into().ok()).unwrap_or_default();
        let mut features = Vec::with_capacity(count * self.features);
        with_values(images, |images| {
            threads.run(|| {
                let stem = plan.layers.all[0].shape.output_values(self.isa);
                let together = (TOGETHER_VALUES / stem).clamp(threads.count().min(TOGETHER), TOGETHER);
                for images in images.chunks(together * height * width * 3) {
                    self.run(&plan, threads, images, &mut maps, &mut features);
                }
            });
        })?;
        self.maps.lock().unwrap_or_else(PoisonError::into_inner).push(maps.into());
        Tensor::from_vec(features, (count, self.features), &Device::Cpu)
    }
}

/// For few images the definition beats Winograd's algorithm on small maps: there, fetching kernels takes longer than
/// multiplying, and transformed kernels are four times as large.
fn convolution((isa, products): (Isa, Products), shape: Shape, few: bool) -> Convolution {
    const SMALL_MAP: usize = 8 * 8;
    if few && shape.height * shape.width <= SMALL_MAP {
        Convolution::direct(isa, shape)
    } else {
        Convolution::with_products(isa, shape, products)
    }
}
