//! Experiments: continual learning with labels at hand, on the very objects that the daemon runs on.
//!
//! A [`RunSettings`] names a dataset, a split, a stream, an objective and a strategy; [`run::run`] plays the stream through the
//! encoder, the learner and the replay buffer of the daemon, measures what is known of every task after each of them, and leaves
//! a result file. [`sweep`] is a table of runs in one file, [`report`] makes tables and pictures of results.
//!
//! Left to others: drawing the network's gradient (learn), keeping images (replay), voting (knn), averages and pictures
//! (evaluate), progress bars and verbs (cli).
//!
//! ```no_run
//! use lumpd::experiment::{RunSettings, run};
//! let folder = tempfile::tempdir().unwrap();
//! let settings: RunSettings = toml::from_str(
//!     "dataset = 'simulated'\nobjective = 'simclr'\nstrategy = 'finetune'\npreset = 'resnet18-w16'\nside = 8\nwidth = 1\n\
//!      epochs = 1\nlimit_per_task = 8\ntest_limit = 4\nbatch = 4\nviews = false",
//! ).unwrap();
//! let place = run::Place { data: folder.path().into(), out: folder.path().into(), command: "doc".into() };
//! let result = run::run(&settings, &place, &mut |_| std::ops::ControlFlow::Continue(())).unwrap().unwrap();
//! assert_eq!(result.strict.rows().len(), 5);
//! ```

pub mod dataset;
mod error;
pub mod plan;
pub mod published;
pub mod report;
pub mod result;
pub mod run;
mod settings;
mod split;
pub mod sweep;

pub use error::ExperimentError;
pub use result::RunResult;
pub use settings::{BoundaryKind, RunSettings, SplitKind, StreamKind};
pub use split::{Split, TaskSplit};
