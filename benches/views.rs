//! Rate of making views on one thread: `cargo bench --bench views -- [side] [seconds]`.
//!
//! Counted by processor time, so that other load on the machine matters little.

use lumpd::config::Seed;
use lumpd::encoder::Preset;
use lumpd::learn::ViewMaker;
use rustix::time::{ClockId, clock_gettime};

fn processor_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn main() {
    let numbers: Vec<u64> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let side = numbers.first().map_or(32, |side| *side as usize);
    let seconds = numbers.get(1).copied().unwrap_or(3);
    let preset = Preset { side, ..Preset::load("resnet18").unwrap() };
    let mut random = Seed(0).random("pixels", 0);
    let images: Vec<u8> = (0..64 * preset.image_bytes()).map(|_| random.below(256) as u8).collect();
    let maker = ViewMaker::new(&preset);
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let (start, mut views) = (processor_seconds(), 0u64);
    while processor_seconds() < start + seconds as f64 {
        let made = alone.install(|| maker.pair(&images, &mut random, &candle_core::Device::Cpu)).unwrap();
        views += 2 * made.count() as u64;
    }
    println!(
        "{{\"side\": {side}, \"views_per_second_per_core\": {:.0}}}",
        views as f64 / (processor_seconds() - start)
    );
}
