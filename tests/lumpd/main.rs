//! Tests of the library and the program from outside: one module a corpus.

mod parity;
