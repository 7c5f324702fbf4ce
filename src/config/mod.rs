//! Typed settings, each with its default, its unit and its meaning.
//!
//! The structures here are the single source of truth: the TOML file, the environment and the flags are overlaid on them
//! ([`load()`]), a checked configuration becomes a plan with its memory and disk budget ([`check()`]), and the machine is asked
//! whether it can run that plan ([`probe()`]). This room knows no other.
//!
//! ```
//! let config: lumpd::config::Config = toml::from_str("[replay]\nslots = 512").unwrap();
//! assert_eq!(config.replay.slots, 512);
//! assert_eq!(config.learn.objective, lumpd::config::ObjectiveKind::SimClr);
//! ```

mod check;
mod load;
mod nearest;
mod plan;
mod probe;
mod problem;
mod random;
mod settings;

pub use check::{HTTP_SOURCE, check};
pub use load::{Flags, LoadError, Loaded, Origin, default_file, load};
pub use plan::{Budget, BudgetLine, Bytes, EncoderShape, Plan, replay_file_bytes};
pub use probe::probe;
pub use problem::{Problem, Severity};
pub use random::{Random, Seed};
pub use settings::*;
