//! Tests of the library and the built binary from outside, and of the house itself: one binary, a module a corpus.

mod architecture;
mod parity;

mod pictures;
mod process;

mod answers;
mod demo;
mod drift;
mod full_disk;
mod ingest;
mod policy;
mod refusals;
mod restart;
mod startup;
