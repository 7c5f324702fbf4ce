//! Rate of making views: `cargo bench --bench views [side] [seconds]`, one thread.

use std::time::{Duration, Instant};

use lumpd::config::Seed;
use lumpd::encoder::Preset;
use lumpd::learn::ViewMaker;

fn main() {
    let numbers: Vec<u64> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let side = numbers.first().map_or(32, |side| *side as usize);
    let seconds = numbers.get(1).copied().unwrap_or(3);
    let preset = Preset { side, ..Preset::load("resnet18").unwrap() };
    let mut random = Seed(0).random("pixels", 0);
    let images: Vec<u8> = (0..64 * preset.image_bytes()).map(|_| random.below(256) as u8).collect();
    let maker = ViewMaker::new(&preset);
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let (start, mut views) = (Instant::now(), 0u64);
    while start.elapsed() < Duration::from_secs(seconds) {
        let made = alone.install(|| maker.pair(&images, &mut random, &candle_core::Device::Cpu)).unwrap();
        views += 2 * made.count() as u64;
    }
    println!(
        "{{\"side\": {side}, \"views_per_second_per_core\": {:.0}}}",
        views as f64 / start.elapsed().as_secs_f64()
    );
}
