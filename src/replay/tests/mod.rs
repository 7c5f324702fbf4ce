//! Tests of the store as a whole.

mod crash;
mod damage;
mod files;
mod model;
mod simulator;
