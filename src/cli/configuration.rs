//! The flags that say where the settings come from; shared by every verb that reads them.

use std::path::PathBuf;

use clap::Args;

/// `--config`, `--set` and the named flags of common settings.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Settings")]
pub struct ConfigurationArguments {
    /// Read this file instead of $XDG_CONFIG_HOME/lumpd/lumpd.toml or /etc/lumpd/lumpd.toml
    #[arg(long, short, value_name = "FILE", env = "LUMPD_CONFIG")]
    pub config: Option<PathBuf>,

    /// Set one value, as in --set replay.slots=512; may be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub settings: Vec<String>,

    /// Folder of everything that survives a restart (daemon.state_dir)
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// Address of the HTTP API (serve.listen)
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,

    /// Unix socket of the HTTP API (serve.socket)
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}
