//! Tests of the built binary and of the house itself: one binary, a module per corpus.

mod architecture;
