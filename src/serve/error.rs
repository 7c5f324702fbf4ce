//! Why the API cannot be served.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use thiserror::Error;

/// Why a listener was not opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServeError {
    #[error(
        "[serve] listen = {address} can be reached from other machines, and no token says who may ask; \
         listen on 127.0.0.1 or [::1], or set [serve] admin_token_file (and read_token_file, ingest_token_file)"
    )]
    NotLoopback { address: SocketAddr },
    #[error(
        "{address} is in use, perhaps by another lumpd; stop the program that has it, or set another [serve] listen \
         (port 0 takes a free one)"
    )]
    AddressInUse { address: SocketAddr },
    #[error("cannot listen on {address}: {source}; set another [serve] listen")]
    Tcp { address: SocketAddr, source: io::Error },
    #[error("the token file {} cannot be used: {why}", path.display())]
    Token { path: PathBuf, why: String },
    #[error("another process serves the socket {}; stop it, or set another [serve] socket", path.display())]
    SocketInUse { path: PathBuf },
    #[error("{} exists and is no socket; move it away, or set another [serve] socket", path.display())]
    NotASocket { path: PathBuf },
    #[error("the path of the socket {} is too long; set a [serve] socket of less than 100 bytes", path.display())]
    SocketPathTooLong { path: PathBuf },
    #[error("cannot make the socket {}: {source}; check that its folder exists and can be written", path.display())]
    Unix { path: PathBuf, source: io::Error },
}

impl ServeError {
    /// Stable name, for logs and exit codes.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotLoopback { .. } => "not-loopback",
            Self::AddressInUse { .. } => "address-in-use",
            Self::Token { .. } => "bad-token-file",
            Self::Tcp { .. } => "listen-failed",
            Self::SocketInUse { .. } => "socket-in-use",
            Self::NotASocket { .. } => "not-a-socket",
            Self::SocketPathTooLong { .. } => "socket-path-too-long",
            Self::Unix { .. } => "socket-failed",
        }
    }
}
