//! Tests of the store as a whole.

mod crash;
mod damage;
mod files;
mod format;
mod model;
mod resizing;
mod simulator;
