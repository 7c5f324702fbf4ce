//! lumpd learns, without labels and without forgetting, from the images that pass through one machine.
//!
//! The rooms follow the data: a frame enters on the left and becomes an answer on the right.
//!
//! ```text
//! stream -> decode -> segment -> replay -> learn -> knn -> evaluate -> serve
//! (in)      (pixels)  (tasks)    (memory)  (encoder) (bank)  (metrics)   (out)
//! ```

pub mod cli;
pub mod config;
pub mod daemon;
pub mod decode;
pub mod device;
pub mod docs;
pub mod encoder;
pub mod evaluate;
pub mod experiment;
pub mod knn;
pub mod learn;
pub mod replay;
pub mod segment;
pub mod serve;
pub mod stream;
pub mod telemetry;
