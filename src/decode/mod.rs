//! From bytes to pixels, within stated limits.
//!
//! [`Decoder`] takes what strangers send: it knows a format by its first bytes and never by a name, checks size and dimensions
//! in the header before it decodes, refuses images that are cut short (decoders often fill the rest with grey and say
//! nothing), and survives a decoder that panics. [`to_square`] makes the encoder's input, [`png_bytes`] a picture for people.
//!
//! What it does not do: it ignores colour profiles and EXIF orientation (every image is taken as stored: an encoder that learns
//! from one camera sees one orientation anyway), and it does not bound time; the limits on pixels do.
//!
//! ```
//! use lumpd::config::{DecodeSettings, Fit};
//! use lumpd::decode::{Decoder, Image, png_bytes, to_square};
//! let decoder = Decoder::new(&DecodeSettings::default());
//! let png = png_bytes(&Image::new(4, 2, vec![7; 24]));
//! let square = to_square(&decoder.decode(&png)?, 2, Fit::Crop);
//! assert_eq!(square.pixels(), [7; 12]);
//! assert_eq!(decoder.decode(&png[..20]).unwrap_err().code(), "truncated-image");
//! # Ok::<(), lumpd::decode::DecodeError>(())
//! ```

mod complete;
mod decoder;
mod encode;
mod error;
mod format;
mod image;
mod resize;

pub use decoder::{Decoder, claimed_pixels};
pub use encode::png_bytes;
pub use error::DecodeError;
pub use image::Image;
pub use resize::to_square;
