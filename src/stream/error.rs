use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// What can be wrong with a source as a whole. What is wrong with one frame is a refusal, not an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    #[error("source '{source_name}': `{key}` is missing; give {what}")]
    MissingKey { source_name: String, key: &'static str, what: &'static str },
    #[error("source '{source_name}': `{key}` does not belong to kind = \"{kind}\"; remove it")]
    WrongKey { source_name: String, key: &'static str, kind: &'static str },
    #[error("source '{source_name}': poll_seconds = {seconds} is not an interval; give at least 0.01")]
    PollSeconds { source_name: String, seconds: f64 },
    #[error("folder {path} cannot be read: {error}; create it, or correct `path`")]
    Folder { path: PathBuf, error: io::Error },
    #[error("{path} is not a folder; name a folder, or use `lumpd feed` for single files")]
    NotAFolder { path: PathBuf },
    #[error("folder {path} cannot be watched: {reason}; raise {sysctl} (sysctl -w {sysctl}=N) or set watch = \"poll\"")]
    WatchLimit { path: PathBuf, reason: String, sysctl: &'static str },
    #[error("folder {path} cannot be watched: {reason}; set watch = \"poll\"")]
    Watch { path: PathBuf, reason: String },
    #[error("files cannot be moved to {path}: {reason}; set `done` to another folder")]
    Done { path: PathBuf, reason: String },
    #[error("{address} is not a loopback address; frames carry no credentials, so listen on 127.0.0.1 or [::1] only")]
    NotLoopback { address: SocketAddr },
    #[error("{address} cannot be listened on: {error}; stop what uses it, or take another port")]
    Bind { address: SocketAddr, error: io::Error },
    #[error("unix socket {path} cannot be made: {error}; see that its folder exists and may be written")]
    BindUnix { path: PathBuf, error: io::Error },
    #[error("unix socket {path} is in use by a running process; stop that one, or choose another path")]
    SocketInUse { path: PathBuf },
    #[error("{path} exists and is not a socket; remove it, or choose another path")]
    NotASocket { path: PathBuf },
    #[error("the socket could not be handed to the runtime: {error}; raise the limit of open files")]
    Listener { error: io::Error },
    #[error(
        "the ledger of files cannot be used: {reason}; see that the state folder is writable and its disk not full"
    )]
    Ledger { reason: String },
    #[error("a worker of this source died: {reason}; restart the daemon and report this")]
    Worker { reason: String },
}

impl StreamError {
    /// Stable name for exit codes, logs, metrics and API problems.
    pub fn code(&self) -> &'static str {
        match self {
            Self::MissingKey { .. } => "source-key-missing",
            Self::WrongKey { .. } => "source-key-misplaced",
            Self::PollSeconds { .. } => "source-poll-seconds",
            Self::Folder { .. } => "folder-unreadable",
            Self::NotAFolder { .. } => "not-a-folder",
            Self::WatchLimit { .. } => "watch-limit",
            Self::Watch { .. } => "watch-failed",
            Self::Done { .. } => "done-folder",
            Self::NotLoopback { .. } => "not-loopback",
            Self::Bind { .. } => "address-in-use",
            Self::BindUnix { .. } => "socket-bind",
            Self::SocketInUse { .. } => "socket-in-use",
            Self::NotASocket { .. } => "not-a-socket",
            Self::Listener { .. } => "listener",
            Self::Ledger { .. } => "ledger",
            Self::Worker { .. } => "source-worker",
        }
    }
}
