//! One image in, one image out, or the reason why not.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use super::complete::check_complete;
use super::format::Format;
use super::{DecodeError, Image};
use crate::config::DecodeSettings;

/// Bytes that a decoder may take for a pixel: 16 bits of four channels, and as much again to work in.
const WORKING_BYTES_PER_PIXEL: u64 = 16;
/// And beside the pixels: tables, windows of decompression.
const WORKING_BYTES: u64 = 4 << 20;

/// Decodes JPEG, PNG, WebP, BMP and PNM to 8-bit RGB within the limits of `[decode]`.
///
/// Grey becomes three equal channels, 16 bits are rounded to 8, CMYK is converted, transparency is laid over black, of an
/// animation the first frame is taken. Cheap to clone and to share: it has no state.
#[derive(Debug, Clone)]
pub struct Decoder {
    settings: DecodeSettings,
}

impl Decoder {
    /// `settings.fit` is not looked at here.
    pub fn new(settings: &DecodeSettings) -> Self {
        Self { settings: settings.clone() }
    }

    /// # Errors
    /// Every reason why these bytes are no image within the limits. With `strict = false` an image that is cut short is decoded
    /// as far as its decoder goes.
    pub fn decode(&self, bytes: &[u8]) -> Result<Image, DecodeError> {
        let (len, limit) = (bytes.len(), self.settings.max_bytes);
        if len > limit {
            return Err(DecodeError::TooManyBytes { bytes: len, limit });
        }
        let format = Format::of(bytes)?;
        // The decoders are free of unsafe state that a panic could leave behind: they own all they touch.
        catch_unwind(AssertUnwindSafe(|| self.decode_as(format, bytes))).unwrap_or_else(|panic| {
            let detail = panic.downcast_ref::<String>().cloned();
            let detail = detail.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(DecodeError::DecoderPanicked { format: format.name(), detail: detail.unwrap_or_default() })
        })
    }

    fn decode_as(&self, format: Format, bytes: &[u8]) -> Result<Image, DecodeError> {
        match format {
            Format::Jpeg => self.decode_jpeg(bytes),
            Format::Png => self.decode_other(Format::Png, ImageFormat::Png, bytes),
            Format::WebP => self.decode_other(Format::WebP, ImageFormat::WebP, bytes),
            Format::Bmp => self.decode_other(Format::Bmp, ImageFormat::Bmp, bytes),
            Format::Pnm => self.decode_other(Format::Pnm, ImageFormat::Pnm, bytes),
        }
    }

    fn decode_jpeg(&self, bytes: &[u8]) -> Result<Image, DecodeError> {
        let complete = check_complete(Format::Jpeg, bytes);
        let failed = |error: zune_jpeg::errors::DecodeErrors| match &complete {
            // What the decoder trips over at the end of a cut file has many names; this is the useful one.
            Err(cut) => cut.clone(),
            Ok(()) => DecodeError::Corrupt { format: "JPEG", detail: format!("{error:?}") },
        };
        let side = self.settings.max_side_pixels as usize;
        let options = DecoderOptions::default()
            .set_strict_mode(self.settings.strict)
            // Beyond ours by one, so that it is we who name the limit.
            .set_max_width(side.saturating_add(1))
            .set_max_height(side.saturating_add(1))
            .jpeg_set_out_colorspace(ColorSpace::RGB);
        if let Some((width, height)) = jpeg_dimensions(bytes) {
            self.check_size(width.into(), height.into())?;
        }
        let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
        decoder.decode_headers().map_err(&failed)?;
        let (width, height) = decoder.dimensions().ok_or_else(|| corrupt(Format::Jpeg, "it has no dimensions"))?;
        self.check_size(width as u64, height as u64)?;
        if self.settings.strict {
            complete.clone()?;
        }
        let pixels = decoder.decode().map_err(&failed)?;
        image_of(Format::Jpeg, width as u32, height as u32, pixels)
    }

    fn decode_other(&self, format: Format, codec: ImageFormat, bytes: &[u8]) -> Result<Image, DecodeError> {
        let failed = |error: image::ImageError| match check_complete(format, bytes) {
            Err(cut) => cut,
            Ok(()) => explain(format, &error),
        };
        let mut reader = ImageReader::with_format(Cursor::new(bytes), codec);
        // Width and height are checked below, where the refusal can name them.
        let mut limits = Limits::no_limits();
        limits.max_alloc =
            Some(self.settings.max_pixels.saturating_mul(WORKING_BYTES_PER_PIXEL).saturating_add(WORKING_BYTES));
        reader.limits(limits);
        let decoder = reader.into_decoder().map_err(failed)?;
        let (width, height) = decoder.dimensions();
        self.check_size(width.into(), height.into())?;
        if self.settings.strict {
            check_complete(format, bytes)?;
        }
        let image = DynamicImage::from_decoder(decoder).map_err(failed)?;
        let pixels = if image.color().has_alpha() { over_black(&image) } else { image.into_rgb8().into_raw() };
        image_of(format, width, height, pixels)
    }

    fn check_size(&self, width: u64, height: u64) -> Result<(), DecodeError> {
        let (side, pixels) = (self.settings.max_side_pixels, self.settings.max_pixels);
        if width > side.into() || height > side.into() {
            return Err(DecodeError::TooLarge { width, height, limit: format!("decode.max_side_pixels = {side}") });
        }
        if width.saturating_mul(height) > pixels {
            return Err(DecodeError::TooLarge { width, height, limit: format!("decode.max_pixels = {pixels}") });
        }
        Ok(())
    }
}

/// Pixels that the header of an image claims; none where these bytes are no image, or its header is not whole. Nothing is decoded,
/// and no limit is looked at.
pub fn claimed_pixels(bytes: &[u8]) -> Option<u64> {
    let size = |codec| ImageReader::with_format(Cursor::new(bytes), codec).into_dimensions().ok();
    let size = || match Format::of(bytes).ok()? {
        Format::Jpeg => jpeg_dimensions(bytes).map(|(width, height)| (width.into(), height.into())),
        Format::Png => size(ImageFormat::Png),
        Format::WebP => size(ImageFormat::WebP),
        Format::Bmp => size(ImageFormat::Bmp),
        Format::Pnm => size(ImageFormat::Pnm),
    };
    let (width, height) = catch_unwind(AssertUnwindSafe(size)).ok()??;
    Some(u64::from(width) * u64::from(height))
}

/// Dimensions from the first frame header (ITU-T T.81, B.2.2), before the decoder allocates anything by them.
fn jpeg_dimensions(bytes: &[u8]) -> Option<(u16, u16)> {
    let mut rest = bytes.get(2..)?;
    loop {
        let (&marker, after) = rest.split_first()?;
        if marker != 0xff {
            return None;
        }
        let (&code, segment) = after.split_first()?;
        match code {
            0xff => rest = after,
            0x01 | 0xd0..=0xd7 => rest = segment,
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                let [_, _, _, h1, h0, w1, w0, ..] = *segment else { return None };
                return Some((u16::from_be_bytes([w1, w0]), u16::from_be_bytes([h1, h0])));
            }
            _ => {
                let (length, _) = segment.split_first_chunk()?;
                rest = segment.get(usize::from(u16::from_be_bytes(*length))..)?;
            }
        }
    }
}

fn explain(format: Format, error: &image::ImageError) -> DecodeError {
    match error {
        image::ImageError::Limits(_) => corrupt(format, "it asks for more memory than its dimensions explain"),
        image::ImageError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            DecodeError::Truncated { format: format.name(), detail: "the data ends early".into() }
        }
        other => corrupt(format, other.to_string()),
    }
}

fn corrupt(format: Format, detail: impl Into<String>) -> DecodeError {
    DecodeError::Corrupt { format: format.name(), detail: detail.into() }
}

fn image_of(format: Format, width: u32, height: u32, pixels: Vec<u8>) -> Result<Image, DecodeError> {
    let expected = u64::from(width) * u64::from(height) * 3;
    if pixels.is_empty() || pixels.len() as u64 != expected {
        return Err(corrupt(format, format!("{} bytes of pixels came out, not {expected}", pixels.len())));
    }
    Ok(Image::new(width, height, pixels))
}

/// Colours of transparent pixels are arbitrary; over black they are all the same.
fn over_black(image: &DynamicImage) -> Vec<u8> {
    let over = |colour: u8, alpha: u8| ((u16::from(colour) * u16::from(alpha) + 127) / 255) as u8;
    let rgba = image.to_rgba8();
    rgba.pixels().flat_map(|pixel| [0, 1, 2].map(|channel| over(pixel.0[channel], pixel.0[3]))).collect()
}

#[cfg(test)]
#[path = "decoder_tests.rs"]
mod tests;
