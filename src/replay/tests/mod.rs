//! Tests of the store as a whole.

mod crash;
mod damage;
mod errors;
mod files;
mod knowledge;
mod model;
mod simulator;
