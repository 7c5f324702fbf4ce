//! Shots of the simulated camera as PNG files.

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder, ImageResult};

use crate::stream::camera::Shot;

/// Noise hardly compresses: a fast encoder's files are as small.
pub(super) fn encode(shot: &Shot) -> ImageResult<Vec<u8>> {
    let mut bytes = Vec::new();
    PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::Sub).write_image(
        &shot.pixels,
        shot.side,
        shot.side,
        ExtendedColorType::Rgb8,
    )?;
    Ok(bytes)
}
