//! Speed of the CPU kernels on the layers of a ResNet-18, by processor time: what each takes of a training step.
//!
//! ```text
//! cargo bench --bench kernels -- [WIDTH] [SIDE] [IMAGES] [bf16]
//! ```
//!
//! For every kind of layer: milliseconds and effective GFLOP/s (those of the definition, so that Winograd's algorithm may
//! exceed the processor) of one thread, for each pass; and the share of each pass in the whole network's step.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Duration;

use lumpd::device::kernels::{BatchNorm, Convolution, Direction, Epilogue, Isa, Mask, Products, Shape, Threads};
use rustix::time::{ClockId, clock_gettime};

/// Processor time of this thread.
fn now() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Seconds of the fastest of a few calls.
fn best(mut work: impl FnMut()) -> f64 {
    work();
    let start = now();
    let mut best = f64::MAX;
    for _ in 0..20 {
        let begun = now();
        work();
        best = best.min((now() - begun).as_secs_f64());
        if (now() - start).as_secs_f64() > 0.3 {
            break;
        }
    }
    best
}

fn noise(count: usize) -> Vec<f32> {
    let mut state = 12345_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

struct Totals {
    isa: Isa,
    images: usize,
    products: Products,
    seconds: BTreeMap<&'static str, f64>,
}

impl Totals {
    fn add(&mut self, pass: &'static str, seconds: f64, times: usize) {
        *self.seconds.entry(pass).or_default() += seconds * times as f64;
    }

    /// Measures a layer that occurs `times` times.
    fn layer(&mut self, name: &str, shape: Shape, times: usize) {
        let (isa, images, threads) = (self.isa, self.images, Threads::Caller);
        let convolution = Convolution::with_products(isa, shape, self.products);
        let (x, dy) = (noise(images * shape.input_values(isa)), noise(images * shape.output_values(isa)));
        let weights = noise(shape.weights());
        let (mut y, mut dx) = (dy.clone(), x.clone());
        let mut packed = vec![0.0; convolution.packed_values(Direction::Forward)];
        let pack = best(|| convolution.pack(threads, Direction::Forward, &weights, &mut packed));
        let forward = best(|| convolution.forward(threads, &x, &packed, Epilogue::default(), &mut y));
        let mut dw = weights.clone();
        let mut workspace = Vec::new();
        let by_weights = best(|| convolution.weight_gradient(threads, &x, &dy, &mut workspace, &mut dw));
        let (mut pack_back, mut by_input) = (0.0, 0.0);
        if !shape.packed_input {
            let mut packed = vec![0.0; convolution.packed_values(Direction::Backward)];
            pack_back = best(|| convolution.pack(threads, Direction::Backward, &weights, &mut packed));
            by_input = best(|| convolution.input_gradient(threads, &dy, &packed, false, &mut dx));
        }
        let [norm_forward, norm_backward] = self.norm(&shape, &y);
        let pixels = shape.output_height() * shape.output_width();
        let operations = (2 * images * pixels * shape.weights()) as f64 / 1e9;
        println!(
            "{name:14} x{times} pack {:6.2} {:6.2}  forward {:7.2} ms {:4.0}  input {:7.2} ms {:4.0}  weights {:7.2} ms {:4.0}  norm {:6.2} {:6.2} ms",
            pack * 1e3,
            pack_back * 1e3,
            forward * 1e3,
            operations / forward,
            by_input * 1e3,
            operations / by_input.max(1e-9),
            by_weights * 1e3,
            operations / by_weights,
            norm_forward * 1e3,
            norm_backward * 1e3,
        );
        self.add("pack", pack + pack_back, times);
        self.add("convolution forward", forward, times);
        self.add("convolution input gradient", by_input, times);
        self.add("convolution weight gradient", by_weights, times);
        self.add("batch norm forward", norm_forward, times);
        self.add("batch norm backward", norm_backward, times);
        black_box((&y, &dx, &dw));
    }

    fn norm(&self, shape: &Shape, x: &[f32]) -> [f64; 2] {
        let norm = BatchNorm { isa: self.isa, channels: self.isa.stored(shape.outputs), epsilon: 1e-5 };
        let weight = vec![1.0; norm.channels];
        let bias = vec![0.0; norm.channels];
        let (mut y, mut dy) = (x.to_vec(), x.to_vec());
        let mut moments = norm.moments(Threads::Caller, x);
        let forward = best(|| {
            moments = norm.moments(Threads::Caller, x);
            norm.fitted(&moments, &weight, &bias).forward(Threads::Caller, x, None, true, &mut y);
        });
        let mut sums = (weight.clone(), bias.clone());
        let backward = best(|| {
            let sums = (sums.0.as_mut_slice(), sums.1.as_mut_slice());
            let fitted = norm.fitted(&moments, &weight, &bias);
            fitted.backward(Threads::Caller, x, Mask::Recompute, &mut dy, None, sums);
        });
        [forward, backward]
    }
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let products = if arguments.iter().any(|argument| argument == "bf16") { Products::Bf16 } else { Products::F32 };
    let numbers: Vec<usize> =
        arguments.iter().filter(|argument| *argument != "bf16").map(|a| a.parse()).collect::<Result<_, _>>()?;
    let number = |place: usize, default: usize| numbers.get(place).copied().unwrap_or(default);
    let (width, side, images) = (number(0, 64), number(1, 32), number(2, 32));
    let isa = Isa::for_channels(width);
    let mut totals = Totals { isa, images, products, seconds: BTreeMap::new() };
    let shape = |side: usize, inputs: usize, outputs: usize, size: usize, stride: usize| Shape {
        height: side,
        width: side,
        inputs,
        outputs,
        size,
        stride,
        padding: size / 2,
        packed_input: inputs == 3,
    };
    totals.layer("stem", shape(side, 3, width, 3, 1), 1);
    totals.layer("3x3 stage 1", shape(side, width, width, 3, 1), 4);
    for stage in 1..4 {
        let (from, to, before) = (width << (stage - 1), width << stage, side >> (stage - 1));
        totals.layer(&format!("3x3/2 stage {}", stage + 1), shape(before, from, to, 3, 2), 1);
        totals.layer(&format!("1x1/2 stage {}", stage + 1), shape(before, from, to, 1, 2), 1);
        totals.layer(&format!("3x3 stage {}", stage + 1), shape(side >> stage, to, to, 3, 1), 3);
    }
    let sum: f64 = totals.seconds.values().sum();
    println!(
        "{} {products:?} on one thread, {images} images of {side} px, width {width}: {:.1} ms, {:.2} images a second",
        isa.name(),
        sum * 1e3,
        images as f64 / sum
    );
    for (pass, seconds) in &totals.seconds {
        println!("  {pass:28} {:8.1} ms  {:4.1} %", seconds * 1e3, 100.0 * seconds / sum);
    }
    Ok(())
}
