//! Tests of the library and the built binary from outside, and of the house itself: one binary, a module a corpus.

mod architecture;
mod parity;
