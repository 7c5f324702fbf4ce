//! Tests of the store as a whole.

mod crash;
mod damage;
mod errors;
mod files;
mod format;
mod knowledge;
mod model;
mod resizing;
mod simulator;
