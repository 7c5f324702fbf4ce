//! From bytes to pixels, within stated limits.

mod image;

pub use image::Image;
