//! Tests of the library and the built binary from outside, and of the house itself: one binary, a module a corpus.

mod architecture;
mod parity;
mod parity_strategies;
mod torchvision;

mod pictures;
mod process;

mod crash;
#[path = "../fuzz/mod.rs"]
mod fuzz;

mod access;
mod answers;
mod command_line;
mod demo;
mod deploy;
mod drift;
mod experiment;
mod full_disk;
mod ingest;
mod policy;
mod refusals;
mod restart;
mod service;
mod startup;
mod weights;
