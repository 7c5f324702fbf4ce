//! Which state folder, held against a daemon as long as it is looked at.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use crate::cli::{ConfigurationArguments, Exit, json};
use crate::config::Config;
use crate::config::durable::Database;
use crate::daemon::{StateDir, StateDirError};
use crate::replay::{Offline, ReplayError, SlotMeta};
use crate::segment::TaskRegister;
use crate::stream::{Ledger, SourceId};

#[derive(Debug, Clone, Default, Args)]
pub(super) struct Place {
    /// The daemon's state folder (daemon.state_dir)
    #[arg(long, value_name = "DIR")]
    pub(super) state_dir: Option<PathBuf>,

    /// The daemon's configuration file, in place of $XDG_CONFIG_HOME/lumpd/lumpd.toml or /etc/lumpd/lumpd.toml
    #[arg(long, short, value_name = "FILE", env = "LUMPD_CONFIG")]
    pub(super) config: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// A state folder that no daemon uses.
pub(super) struct Held {
    pub(super) config: Config,
    pub(super) buffer: PathBuf,
    _lock: StateDir,
}

impl Place {
    /// # Errors
    /// A daemon runs on it, or there is no such folder.
    pub(super) fn hold(&self) -> anyhow::Result<Held> {
        let arguments = ConfigurationArguments {
            config: self.config.clone(),
            state_dir: self.state_dir.clone(),
            ..Default::default()
        };
        let config = arguments.load()?.config;
        let folder = &config.daemon.state_dir;
        let buffer = folder.join("replay.buf");
        // Before the folder would be made.
        std::fs::metadata(&buffer)
            .with_context(|| format!("there is no replay buffer in {}; name the state folder", folder.display()))
            .context(Exit::Io)?;
        let lock = StateDir::open(folder).map_err(busy)?;
        Ok(Held { buffer, _lock: lock, config })
    }

    /// As JSON where that is asked for, else as `for_people` has it.
    pub(super) fn print<T: Serialize>(
        &self,
        answer: &T,
        out: &mut dyn Write,
        for_people: impl FnOnce(&T, &mut dyn Write) -> std::io::Result<()>,
    ) -> anyhow::Result<()> {
        if self.json {
            return json::print(answer, out);
        }
        Ok(for_people(answer, out)?)
    }
}

fn busy(error: StateDirError) -> anyhow::Error {
    let temporary = error.is_temporary();
    let error = anyhow::Error::from(error);
    if temporary {
        error
            .context("the buffer is in use: stop the daemon first; while it runs, GET /v1/buffer answers")
            .context(Exit::Temporary)
    } else {
        error.context(Exit::Io)
    }
}

/// An error of the store, with its exit code.
pub(super) fn failed(error: ReplayError) -> anyhow::Error {
    let exit = if matches!(error, ReplayError::Locked { .. }) { Exit::Temporary } else { Exit::Io };
    anyhow::Error::from(error).context(exit)
}

impl Held {
    pub(super) fn open(&self) -> anyhow::Result<Offline> {
        Offline::open(&self.buffer).map_err(failed)
    }

    /// Names of sources and tasks; without a readable database there are none, and that is said.
    pub(super) fn names(&self) -> Names {
        let path = self.config.daemon.state_dir.join("state.redb");
        let read = || -> anyhow::Result<Names> {
            std::fs::metadata(&path)?;
            let database = Arc::new(Database::create(&path)?);
            let register = TaskRegister::open(Arc::clone(&database), self.config.segment.max_tasks)?;
            Ok(Names { sources: Ledger::new(database)?.sources()?, register: Some(register) })
        };
        read().unwrap_or_else(|error| {
            let mut stderr = std::io::stderr();
            // Nothing can be told where standard error is closed.
            let _ = writeln!(
                stderr,
                "lumpd: {} cannot be read, so that sources and tasks have no names: {error}",
                path.display()
            );
            Names { sources: BTreeMap::new(), register: None }
        })
    }
}

/// What the numbers in the buffer stand for.
pub(super) struct Names {
    sources: BTreeMap<SourceId, String>,
    register: Option<TaskRegister>,
}

impl Names {
    pub(super) fn source(&self, meta: &SlotMeta) -> String {
        self.sources.get(&meta.source).cloned().unwrap_or_else(|| format!("source-{}", meta.source))
    }

    pub(super) fn task(&self, meta: &SlotMeta) -> Option<u32> {
        self.register.as_ref()?.task_of(meta.source, meta.id).map(|task| task.0)
    }
}
