//! Decoding on one core: JPEG and PNG of three sizes, with and without the resize to the encoder's square.
//!
//! `cargo bench --bench decode`. The pictures are gradients with noise, encoded here; a JPEG of quality 90.

use std::time::{Duration, Instant};

use image::{ExtendedColorType, ImageEncoder};
use lumpd::config::{DecodeSettings, Fit, Seed};
use lumpd::decode::{Decoder, to_square};

const RUN: Duration = Duration::from_secs(2);
const SIDE: u32 = 32;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let decoder = Decoder::new(&DecodeSettings::default());
    for (width, height) in [(32, 32), (224, 224), (640, 480)] {
        let pixels = picture(width, height);
        for (format, bytes) in [("JPEG", jpeg(&pixels, width, height)?), ("PNG", png(&pixels, width, height)?)] {
            let decoded = rate(|| decoder.decode(&bytes).map(|image| image.pixels().len()))?;
            let squared =
                rate(|| decoder.decode(&bytes).map(|image| to_square(&image, SIDE, Fit::Crop).pixels().len()))?;
            let megapixels = decoded * f64::from(width * height) / 1e6;
            println!(
                "{format} {width}x{height}, {} bytes: {decoded:.0} images/s ({megapixels:.1} megapixels/s), \
                 {squared:.0} images/s resized to {SIDE} px",
                bytes.len()
            );
        }
    }
    Ok(())
}

/// Calls a second, on this thread.
fn rate<E>(mut work: impl FnMut() -> Result<usize, E>) -> Result<f64, E> {
    // Once for the caches.
    std::hint::black_box(work()?);
    let (start, mut calls) = (Instant::now(), 0_u64);
    while start.elapsed() < RUN {
        std::hint::black_box(work()?);
        calls += 1;
    }
    Ok(calls as f64 / start.elapsed().as_secs_f64())
}

/// Shape (height, width, 3).
fn picture(width: u32, height: u32) -> Vec<u8> {
    let mut random = Seed(1).random("picture", u64::from(width));
    let mut pixels = Vec::with_capacity((width * height * 3) as usize);
    for y in 0..height {
        for x in 0..width {
            let (across, down) = (x as f64 / f64::from(width), y as f64 / f64::from(height));
            for shade in [across, down, (1.0 - across) * down] {
                pixels.push((30.0 + 190.0 * shade + 6.0 * random.normal()).clamp(0.0, 255.0) as u8);
            }
        }
    }
    pixels
}

fn jpeg(pixels: &[u8], width: u32, height: u32) -> Result<Vec<u8>, jpeg_encoder::EncodingError> {
    let mut bytes = Vec::new();
    let encoder = jpeg_encoder::Encoder::new(&mut bytes, 90);
    encoder.encode(pixels, width as u16, height as u16, jpeg_encoder::ColorType::Rgb)?;
    Ok(bytes)
}

fn png(pixels: &[u8], width: u32, height: u32) -> image::ImageResult<Vec<u8>> {
    let mut bytes = Vec::new();
    image::codecs::png::PngEncoder::new(&mut bytes).write_image(pixels, width, height, ExtendedColorType::Rgb8)?;
    Ok(bytes)
}
