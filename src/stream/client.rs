//! The client's side of the sockets: sends frames, collects verdicts.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use lumpd::stream::client::{Address, Client};
//! let address: Address = "/run/lumpd/in.sock".parse()?;
//! let mut client = Client::connect(&address).await?;
//! for path in ["a.jpg", "b.jpg"] {
//!     for (sequence, reply) in client.send(std::fs::read(path)?.into(), None, None).await?.replies {
//!         println!("{sequence}: {reply:?}");
//!     }
//! }
//! let rest = client.finish().await?;
//! # Ok(()) }
//! ```

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::wire::{self, ClientFrame, MAX_REPLY_BYTES, Message, Notice, Reply, WireError};

/// Frames in flight before [`Client::send`] waits; below the server's window.
const WINDOW: usize = 128;

/// Where a daemon takes frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// `tcp:127.0.0.1:7718` or `127.0.0.1:7718` is TCP; `unix:PATH` or any other text a path.
impl FromStr for Address {
    type Err = ClientError;

    fn from_str(text: &str) -> Result<Self, ClientError> {
        if let Some(address) = text.strip_prefix("tcp:") {
            return address.parse().map(Self::Tcp).map_err(|_| ClientError::Address(text.to_owned()));
        }
        let path = text.strip_prefix("unix:").unwrap_or(text);
        match path.parse() {
            Ok(address) => Ok(Self::Tcp(address)),
            Err(_) if path.is_empty() => Err(ClientError::Address(text.to_owned())),
            Err(_) => Ok(Self::Unix(path.into())),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

/// What can go wrong with a connection. A refused frame is a [`Reply`], not an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    #[error("'{0}' is no address; give the path of a unix socket, or tcp:127.0.0.1:PORT")]
    Address(String),
    #[error("{address} cannot be connected to: {error}; see that the daemon runs and has such a source")]
    Connect { address: Address, error: io::Error },
    #[error("the daemon closed the connection: {detail} ({code})", code = .0.code, detail = .0.detail)]
    Closed(Notice),
    #[error("the connection ended with {unanswered} frames unanswered; send those again")]
    Unanswered { unanswered: usize },
    #[error("the connection failed: {0}")]
    Wire(#[from] WireError),
}

impl ClientError {
    /// Stable name for exit codes and logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Address(_) => "bad-address",
            Self::Connect { .. } => "cannot-connect",
            Self::Closed(_) => "closed-by-daemon",
            Self::Unanswered { .. } => "frames-unanswered",
            Self::Wire(error) => error.code(),
        }
    }
}

/// The answer to the frame of that sequence.
pub type Answer = (u64, Reply);

/// A frame on its way, and the answers that came in meanwhile.
#[derive(Debug)]
pub struct Sent {
    /// The number that the answer to this frame will carry.
    pub sequence: u64,
    pub replies: Vec<Answer>,
}

/// One connection. Frames are numbered from 0 in the order of sending.
#[derive(Debug)]
pub struct Client {
    writer: BufWriter<Box<dyn Write>>,
    answers: mpsc::Receiver<Result<Answer, ClientError>>,
    reading: JoinHandle<()>,
    next: u64,
    in_flight: usize,
}

trait Write: AsyncWrite + Send + Sync + Unpin + fmt::Debug {}
impl<T: AsyncWrite + Send + Sync + Unpin + fmt::Debug> Write for T {}

impl Client {
    /// # Errors
    /// [`ClientError::Connect`].
    pub async fn connect(address: &Address) -> Result<Self, ClientError> {
        let connect = async {
            Ok(match address {
                Address::Unix(path) => {
                    let (reader, writer) = UnixStream::connect(path).await?.into_split();
                    Self::over(reader, Box::new(writer))
                }
                Address::Tcp(socket) => {
                    let stream = TcpStream::connect(socket).await?;
                    stream.set_nodelay(true)?;
                    let (reader, writer) = stream.into_split();
                    Self::over(reader, Box::new(writer))
                }
            })
        };
        connect.await.map_err(|error| ClientError::Connect { address: address.clone(), error })
    }

    fn over(reader: impl AsyncRead + Send + Unpin + 'static, writer: Box<dyn Write>) -> Self {
        // Answers are read apart from the sending: a daemon that waits for us to take them would stop taking frames.
        let (sender, answers) = mpsc::channel(WINDOW + 1);
        let reading = tokio::spawn(read_answers(BufReader::new(reader), sender));
        Self { writer: BufWriter::with_capacity(64 << 10, writer), answers, reading, next: 0, in_flight: 0 }
    }

    /// Frames sent and not answered yet.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Sends an encoded image; waits where too many are unanswered. `label` is for evaluation only, at most 64 bytes.
    ///
    /// # Errors
    /// Any [`ClientError`] of a connection.
    pub async fn send(
        &mut self,
        image: Bytes,
        label: Option<String>,
        captured_at_ns: Option<i64>,
    ) -> Result<Sent, ClientError> {
        let mut replies = Vec::new();
        while self.in_flight >= WINDOW {
            replies.push(self.answer().await?);
        }
        let sequence = self.next;
        let frame = ClientFrame { sequence, captured_at_ns, label, image };
        if let Err(error) = self.write(&Message::Frame(frame)).await {
            return Err(self.reason(error).await);
        }
        self.next += 1;
        self.in_flight += 1;
        while let Ok(answer) = self.answers.try_recv() {
            self.in_flight -= 1;
            replies.push(answer?);
        }
        Ok(Sent { sequence, replies })
    }

    /// Waits for an answer, where one is to come, and takes all that are there.
    ///
    /// # Errors
    /// Any [`ClientError`] of a connection.
    pub async fn replies(&mut self) -> Result<Vec<Answer>, ClientError> {
        let mut replies = Vec::new();
        if self.in_flight > 0 {
            replies.push(self.answer().await?);
        }
        while let Ok(answer) = self.answers.try_recv() {
            self.in_flight -= 1;
            replies.push(answer?);
        }
        Ok(replies)
    }

    /// Ends the connection after every answer has come; the answers not handed out before.
    ///
    /// # Errors
    /// Any [`ClientError`] of a connection.
    pub async fn finish(mut self) -> Result<Vec<Answer>, ClientError> {
        let mut replies = Vec::new();
        if let Err(error) = self.writer.shutdown().await {
            return Err(self.reason(error.into()).await);
        }
        while self.in_flight > 0 {
            replies.push(self.answer().await?);
        }
        Ok(replies)
    }

    async fn write(&mut self, message: &Message) -> Result<(), WireError> {
        wire::write(&mut self.writer, message).await?;
        self.writer.flush().await.map_err(WireError::from)
    }

    async fn answer(&mut self) -> Result<Answer, ClientError> {
        let unanswered = self.in_flight;
        let answer = self.answers.recv().await.unwrap_or(Err(ClientError::Unanswered { unanswered }))?;
        self.in_flight -= 1;
        Ok(answer)
    }

    /// Why writing failed: what the daemon said before it closed, if anything.
    async fn reason(&mut self, error: WireError) -> ClientError {
        while let Some(answer) = self.answers.recv().await {
            if let Err(said) = answer {
                return said;
            }
        }
        error.into()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// Reads until the end; an answer nobody waits for is an error of the daemon's.
async fn read_answers(mut reader: impl AsyncRead + Unpin, answers: mpsc::Sender<Result<Answer, ClientError>>) {
    loop {
        let answer = match wire::read(&mut reader, MAX_REPLY_BYTES).await {
            Ok(Some(Message::Ack { sequence, reply })) => Ok((sequence, reply)),
            Ok(Some(Message::Pong)) => continue,
            Ok(Some(Message::Error(notice))) => Err(ClientError::Closed(notice)),
            Ok(Some(Message::Frame(_) | Message::Ping)) => Err(WireError::Malformed("a server sends no frames").into()),
            Ok(None) => return,
            Err(error) => Err(error.into()),
        };
        let last = answer.is_err();
        if answers.send(answer).await.is_err() || last {
            return;
        }
    }
}
