//! The encoder: from pixels to features.

mod backbone;

pub use backbone::{Backbone, Embedder, Parameter};
