//! The only room that knows hardware.

pub mod kernels;
