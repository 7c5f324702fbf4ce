//! Asking a running daemon: HTTP/1.1 over its unix socket or its loopback address, one connection a question.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::Exit;
use crate::serve::{PROBLEM_JSON, Problem};

/// Until the daemon's system takes the connection.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// Until the whole answer is there; posting an image may wait for its commit.
const ANSWER_TIME: Duration = Duration::from_secs(60);

/// Largest answer that is read.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Largest file that is read: 2 million embeddings of 512 numbers.
const MAX_FILE_BYTES: usize = 4 << 30;

/// Where a daemon answers.
///
/// ```
/// use lumpd::cli::Address;
/// assert!(matches!("/run/lumpd/lumpd.sock".parse(), Ok(Address::Unix(_))));
/// assert_eq!("http://127.0.0.1:7717/".parse::<Address>().unwrap().to_string(), "127.0.0.1:7717");
/// assert!("example.org:7717".parse::<Address>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// The path of its socket.
    Unix(PathBuf),
    /// Its port on this machine, with the name to call it by.
    Tcp(String),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        let name = text.strip_prefix("http://").map(|rest| rest.trim_end_matches('/')).unwrap_or(text);
        let local = name.strip_prefix("localhost:").is_some_and(|port| port.parse::<u16>().is_ok());
        if local || name.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_loopback()) {
            return Ok(Self::Tcp(name.into()));
        }
        if text.contains('/') && !text.contains("://") {
            return Ok(Self::Unix(text.into()));
        }
        Err("give the path of a socket (with a slash), or an address of this machine such as 127.0.0.1:7717".into())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(name) => f.write_str(name),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    #[error(
        "no daemon answers at {address} ({source}); is lumpd running? start it with `lumpd run`, or say where it is with --api"
    )]
    Unreachable { address: Address, source: io::Error },
    #[error(
        "{address} is not for this user ({source}); ask as the daemon's user or as one of its group: of the packaged service with \
         `sudo adduser NAME lumpd` and a new login"
    )]
    Forbidden { address: Address, source: io::Error },
    #[error("the daemon at {address} did not answer in time; look at its log, or try again later")]
    TimedOut { address: Address },
    #[error("the connection to {address} broke off ({detail}); try again, and look at the daemon's log")]
    BrokenOff { address: Address, detail: String },
    /// Said by the daemon: what, where and what to do.
    #[error("{0}")]
    Problem(Problem),
    #[error("the answer of {address} is not lumpd's ({detail}); check that --api names lumpd, of this version")]
    Strange { address: Address, detail: String },
}

impl ClientError {
    /// The error with the exit code it stands for.
    pub fn classed(self) -> anyhow::Error {
        let exit = match &self {
            Self::Unreachable { .. } | Self::Forbidden { .. } => Some(Exit::Unreachable),
            Self::TimedOut { .. } => Some(Exit::Temporary),
            Self::BrokenOff { .. } => Some(Exit::Io),
            Self::Problem(problem) => match problem.status {
                400 => Some(Exit::Usage),
                408 | 429 | 503 => Some(Exit::Temporary),
                _ => None,
            },
            Self::Strange { .. } => None,
        };
        let error = anyhow::Error::new(self);
        match exit {
            Some(exit) => error.context(exit),
            None => error,
        }
    }
}

/// Asks one daemon.
#[derive(Clone)]
pub struct Client {
    address: Address,
    token: Option<String>,
    /// Largest answer that is read, in bytes.
    most: usize,
}

impl fmt::Debug for Client {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Client {
    pub fn new(address: Address) -> Self {
        Self { address, token: None, most: MAX_ANSWER_BYTES }
    }

    /// The same with a token, where the daemon asks for one.
    pub fn with_token(self, token: Option<String>) -> Self {
        Self { token, ..self }
    }

    /// The same for answers that are whole files.
    pub fn for_files(self) -> Self {
        Self { most: MAX_FILE_BYTES, ..self }
    }

    /// # Errors
    /// See [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.read(&self.get_bytes(path).await?)
    }

    /// The answer as it came.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get_bytes(&self, path: &str) -> Result<Bytes, ClientError> {
        self.send(Method::GET, path, None).await
    }

    /// Sends an encoded image.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn post_image<T: DeserializeOwned>(&self, path: &str, image: Bytes) -> Result<T, ClientError> {
        self.read(&self.send(Method::POST, path, Some(("application/octet-stream", image))).await?)
    }

    /// Sends a JSON object.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn send_json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        json: &serde_json::Value,
    ) -> Result<T, ClientError> {
        self.read(&self.send(method, path, Some(("application/json", json.to_string().into()))).await?)
    }

    /// Asks for something to be done that needs no further words.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.read(&self.send(Method::POST, path, None).await?)
    }

    /// # Errors
    /// See [`ClientError`].
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.read(&self.send(Method::DELETE, path, None).await?)
    }

    fn read<T: DeserializeOwned>(&self, answer: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(answer).map_err(|error| self.strange(error.to_string()))
    }

    /// One request on a connection of its own. `body` is its content type and its bytes.
    async fn send(&self, method: Method, path: &str, body: Option<(&str, Bytes)>) -> Result<Bytes, ClientError> {
        let host = match &self.address {
            Address::Unix(_) => "localhost",
            Address::Tcp(name) => name,
        };
        let mut request = Request::builder().method(method).uri(path).header(HOST, host);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let mut bytes = Bytes::new();
        if let Some((kind, content)) = body {
            request = request.header(CONTENT_TYPE, kind);
            bytes = content;
        }
        let request = request.body(Full::new(bytes)).map_err(|error| self.broken(error))?;
        match &self.address {
            Address::Unix(path) => {
                let stream = self.connect(UnixStream::connect(path)).await?;
                self.within(self.exchange(stream, request)).await
            }
            Address::Tcp(name) => {
                let stream = self.connect(TcpStream::connect(name)).await?;
                self.within(self.exchange(stream, request)).await
            }
        }
    }

    async fn within<T>(&self, answer: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        timeout(ANSWER_TIME, answer).await.map_err(|_| ClientError::TimedOut { address: self.address.clone() })?
    }

    async fn connect<S>(&self, connection: impl Future<Output = io::Result<S>>) -> Result<S, ClientError> {
        let connected = timeout(CONNECT_TIME, connection).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()));
        let address = || self.address.clone();
        connected.map_err(|source| match source.kind() {
            ErrorKind::PermissionDenied => ClientError::Forbidden { address: address(), source },
            _ => ClientError::Unreachable { address: address(), source },
        })
    }

    async fn exchange<S>(&self, stream: S, request: Request<Full<Bytes>>) -> Result<Bytes, ClientError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(error))?;
        let answer = async {
            let answer = sender.send_request(request).await.map_err(|error| self.broken(error))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, self.most).collect().await.map_err(|error| self.broken(error))?;
            self.judge(Response::from_parts(head, body.to_bytes()))
        };
        tokio::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            // The connection may end before its last answer has been read.
            _ = connection => answer.await,
        }
    }

    fn judge(&self, answer: Response<Bytes>) -> Result<Bytes, ClientError> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer.into_body());
        }
        let kind = answer.headers().get(CONTENT_TYPE).map(|kind| kind.as_bytes());
        if kind != Some(PROBLEM_JSON.as_bytes()) {
            return Err(self.strange(format!("status {status} without a problem")));
        }
        let problem: Problem = self.read(answer.body())?;
        Err(ClientError::Problem(match status {
            StatusCode::UNAUTHORIZED => {
                problem.remedy("name its file with --token-file, or ask over the daemon's socket")
            }
            _ => problem,
        }))
    }

    fn broken(&self, error: impl fmt::Display) -> ClientError {
        ClientError::BrokenOff { address: self.address.clone(), detail: error.to_string() }
    }

    fn strange(&self, detail: String) -> ClientError {
        ClientError::Strange { address: self.address.clone(), detail }
    }
}

/// Runs what a verb asks, on this thread.
///
/// # Errors
/// What was asked may fail: the error carries its exit code. So may the system, short of threads or files.
pub fn ask<T>(question: impl Future<Output = Result<T, ClientError>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot begin to talk to the daemon")?;
    runtime.block_on(question).map_err(ClientError::classed)
}
