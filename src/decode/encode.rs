//! Pixels to PNG: thumbnails, and the frames of the simulated camera.

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};

use super::Image;

/// A PNG of the image, packed fast rather than small.
///
/// # Panics
/// If `image` has no pixels: a fault of the caller, never of the data (a decoded image has pixels).
pub fn png_bytes(image: &Image) -> Vec<u8> {
    let mut bytes = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::Adaptive);
    let written = encoder.write_image(image.pixels(), image.width(), image.height(), ExtendedColorType::Rgb8);
    assert!(written.is_ok(), "{image:?} has pixels, and memory takes all bytes");
    bytes
}
