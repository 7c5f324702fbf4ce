//! What every source is, and the list of kinds.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::directory::{After, Directory, DirectorySettings};
use super::socket::Socket;
use super::{Inlet, Ledger, StreamError};
use crate::config::{AfterKind, SourceKind, SourceSettings};

/// A running source.
pub type RunFuture = Pin<Box<dyn Future<Output = Result<(), StreamError>> + Send>>;

/// Something that frames come from. Opened (and refused with a clear error) before the daemon starts, run as a task after.
pub trait Source: Send {
    /// What and where, for people: "folder /data/in", "unix socket /run/lumpd/in.sock".
    fn describe(&self) -> String;

    /// Where it listens, its port resolved; `None` where it is no TCP socket.
    fn address(&self) -> Option<SocketAddr> {
        None
    }

    /// Offers frames to `inlet` until `stop` is cancelled or the queue is closed. Trouble of one frame is counted and left
    /// behind; an error ends the source.
    fn run(self: Box<Self>, inlet: Inlet, stop: CancellationToken) -> RunFuture;
}

/// Resolves one `[[source]]`: checks its keys, binds its socket, finds its folder. `max_bytes` is the largest frame it lets in.
///
/// # Errors
/// A key that is missing or belongs to another kind, a folder that does not exist, a socket that cannot be bound.
pub fn open(settings: &SourceSettings, max_bytes: usize, ledger: &Ledger) -> Result<Box<dyn Source>, StreamError> {
    match settings.kind {
        SourceKind::Directory => {
            reject(settings, "listen", settings.listen.is_some(), "directory")?;
            let root = path_of(settings, "the folder to watch")?;
            let directory = DirectorySettings {
                after: match settings.after {
                    AfterKind::Keep => After::Keep,
                    AfterKind::Move => After::Move(settings.done.clone().unwrap_or_else(|| root.join(".done"))),
                    AfterKind::Delete => After::Delete,
                },
                root,
                recursive: settings.recursive,
                watch: settings.watch,
                poll: poll_interval(settings)?,
                max_bytes,
            };
            Ok(Box::new(Directory::open(directory, ledger.clone(), ledger.source_id(&settings.name)?)?))
        }
        SourceKind::Unix => {
            reject(settings, "listen", settings.listen.is_some(), "unix")?;
            let socket = Socket::unix(&path_of(settings, "where the socket shall be")?, max_bytes)?;
            Ok(Box::new(socket.when_full(settings.when_full)))
        }
        SourceKind::Tcp => {
            reject(settings, "path", settings.path.is_some(), "tcp")?;
            let address =
                settings.listen.ok_or_else(|| missing(settings, "listen", "an address such as 127.0.0.1:7718"))?;
            Ok(Box::new(Socket::tcp(address, max_bytes)?.when_full(settings.when_full)))
        }
    }
}

fn path_of(settings: &SourceSettings, what: &'static str) -> Result<PathBuf, StreamError> {
    settings.path.clone().ok_or_else(|| missing(settings, "path", what))
}

fn poll_interval(settings: &SourceSettings) -> Result<Duration, StreamError> {
    match Duration::try_from_secs_f64(settings.poll_seconds) {
        Ok(interval) if interval >= Duration::from_millis(10) => Ok(interval),
        _ => Err(StreamError::PollSeconds { source_name: settings.name.clone(), seconds: settings.poll_seconds }),
    }
}

fn missing(settings: &SourceSettings, key: &'static str, what: &'static str) -> StreamError {
    StreamError::MissingKey { source_name: settings.name.clone(), key, what }
}

fn reject(settings: &SourceSettings, key: &'static str, given: bool, kind: &'static str) -> Result<(), StreamError> {
    if given { Err(StreamError::WrongKey { source_name: settings.name.clone(), key, kind }) } else { Ok(()) }
}
