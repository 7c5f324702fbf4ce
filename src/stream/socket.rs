//! Frames over a unix or a loopback TCP socket, in the format of [`wire`].
//!
//! A connection may have [`SocketLimits::window`] frames in flight; each is answered when it is decided. Room in the queue is
//! taken before a payload is read, so that all connections of a socket together hold no more than `queue_bytes`. What a client
//! does wrong is answered by an error frame that names it, counted, and ends that connection only.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufWriter, ReadHalf, WriteHalf};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::frame::{Draft, MAX_LABEL_BYTES, Origin, Receipt, Verdict};
use super::source::{RunFuture, Source};
use super::unix::{UnixSocketFile, bind_unix};
use super::wire::{self, ClientFrame, FRAME_HEAD_BYTES, Header, Kind, Message, Notice, Reply, WireError};
use super::{Inlet, Peer, Peers, Rejected, StreamError};
use crate::config::WhenFull;

/// How long and how much a client may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketLimits {
    /// From the connection to its first byte.
    pub first_byte: Duration,
    /// From the first byte of a message to its last header byte, and again to the last byte of its payload.
    pub message: Duration,
    /// Without a message while no frame is in flight.
    pub idle: Duration,
    /// For a client to take a reply.
    pub reply: Duration,
    /// For frames in flight to be decided when the daemon stops.
    pub drain: Duration,
    /// Connections of one socket.
    pub connections: usize,
    /// Of these, connections of one peer: a process (unix) or an address (TCP).
    pub connections_per_peer: usize,
    /// Frames of one connection in flight.
    pub window: u32,
}

impl Default for SocketLimits {
    fn default() -> Self {
        Self {
            first_byte: Duration::from_secs(5),
            message: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            reply: Duration::from_secs(10),
            drain: Duration::from_secs(10),
            connections: 64,
            connections_per_peer: 48,
            window: 256,
        }
    }
}

/// After an error of `accept` (out of file descriptors, say): wait, not spin.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// What a sender is told to wait where its frame found the queue full.
const RETRY_AFTER_FULL: Duration = Duration::from_secs(1);

/// A bound socket, ready to run.
#[derive(Debug)]
pub struct Socket {
    listener: Bound,
    max_bytes: usize,
    limits: SocketLimits,
    when_full: WhenFull,
}

#[derive(Debug)]
enum Bound {
    Unix(std::os::unix::net::UnixListener, UnixSocketFile),
    Tcp(std::net::TcpListener, SocketAddr),
}

impl Socket {
    /// Binds a unix socket (see [`bind_unix`]) for images of at most `max_bytes`.
    ///
    /// # Errors
    /// A path that is in use, is no socket, or cannot be made.
    pub fn unix(path: &Path, max_bytes: usize) -> Result<Self, StreamError> {
        let (listener, file) = bind_unix(path)?;
        Ok(Self::bound(Bound::Unix(listener, file), max_bytes))
    }

    /// Binds a TCP socket on a loopback address; port 0 takes a free one.
    ///
    /// # Errors
    /// An address that is not loopback or is in use.
    pub fn tcp(address: SocketAddr, max_bytes: usize) -> Result<Self, StreamError> {
        if !address.ip().is_loopback() {
            return Err(StreamError::NotLoopback { address });
        }
        let bind = || {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let bound = listener.local_addr()?;
            Ok((listener, bound))
        };
        let (listener, bound) = bind().map_err(|error: io::Error| StreamError::Bind { address, error })?;
        Ok(Self::bound(Bound::Tcp(listener, bound), max_bytes))
    }

    fn bound(listener: Bound, max_bytes: usize) -> Self {
        Self { listener, max_bytes, limits: SocketLimits::default(), when_full: WhenFull::Block }
    }

    /// What becomes of a frame for which the queue has no room.
    pub fn when_full(self, when_full: WhenFull) -> Self {
        Self { when_full, ..self }
    }

    /// Other limits than the default ones.
    pub fn with_limits(self, limits: SocketLimits) -> Self {
        Self { limits, ..self }
    }

    /// The address of a TCP socket, its port resolved.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.listener {
            Bound::Tcp(_, address) => Some(*address),
            Bound::Unix(..) => None,
        }
    }
}

impl Source for Socket {
    fn describe(&self) -> String {
        match &self.listener {
            Bound::Unix(_, file) => format!("unix socket {}", file.path().display()),
            Bound::Tcp(_, address) => format!("TCP socket {address}"),
        }
    }

    fn address(&self) -> Option<SocketAddr> {
        Self::address(self)
    }

    fn run(self: Box<Self>, inlet: Inlet, stop: CancellationToken) -> RunFuture {
        Box::pin(accept_loop(*self, inlet, stop))
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Sync {}
impl<T: AsyncRead + AsyncWrite + Send + Sync> Stream for T {}
type AnyStream = Pin<Box<dyn Stream>>;

enum Listener {
    Unix(tokio::net::UnixListener),
    Tcp(tokio::net::TcpListener),
}

impl Listener {
    /// The next connection and a name for its peer.
    async fn accept(&self, number: u64) -> io::Result<(AnyStream, String, Peer)> {
        match self {
            Self::Unix(listener) => {
                let stream = listener.accept().await?.0;
                let peer = Peer::of_unix(&stream);
                Ok((Box::pin(stream), format!("connection {number}"), peer))
            }
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Acks are small and waited for.
                stream.set_nodelay(true)?;
                Ok((Box::pin(stream), peer.to_string(), Peer::Address(peer.ip())))
            }
        }
    }
}

async fn accept_loop(socket: Socket, inlet: Inlet, stop: CancellationToken) -> Result<(), StreamError> {
    let Socket { listener, max_bytes, limits, when_full } = socket;
    // The file of a unix socket lives as long as this future: dropping it removes the file.
    let (listener, _file) = match listener {
        Bound::Unix(listener, file) => (tokio::net::UnixListener::from_std(listener).map(Listener::Unix), Some(file)),
        Bound::Tcp(listener, _) => (tokio::net::TcpListener::from_std(listener).map(Listener::Tcp), None),
    };
    let listener = listener.map_err(|error| StreamError::Listener { error })?;
    let places = Arc::new(Semaphore::new(limits.connections));
    let peers = Peers::new(limits.connections_per_peer);
    let mut connections = JoinSet::new();
    let mut number = 0;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept(number + 1) => accepted,
        };
        match accepted {
            Ok((stream, name, peer)) => {
                number += 1;
                let place = peers.admit(peer).zip(Arc::clone(&places).try_acquire_owned().ok());
                let connection = Connection::new(stream, name, inlet.clone(), max_bytes, limits, when_full);
                let stop = stop.clone();
                connections.spawn(async move {
                    match place {
                        Some(_place) => connection.serve(stop).await,
                        None => connection.turn_away().await,
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted; trying again in 100 ms");
                inlet.count_refusal("accept-failed");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
    while connections.join_next().await.is_some() {}
    Ok(())
}

struct Connection {
    reader: BufReader<ReadHalf<AnyStream>>,
    writer: WriteHalf<AnyStream>,
    peer: String,
    inlet: Inlet,
    max_bytes: usize,
    limits: SocketLimits,
    when_full: WhenFull,
}

/// What ends a connection other than the client's own end.
enum Trouble {
    Wire(WireError),
    Stopping,
    /// The client does not take its replies.
    Gone,
}

impl From<WireError> for Trouble {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

impl Connection {
    fn new(
        stream: AnyStream,
        peer: String,
        inlet: Inlet,
        max_bytes: usize,
        limits: SocketLimits,
        when_full: WhenFull,
    ) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self { reader: BufReader::new(reader), writer, peer, inlet, max_bytes, limits, when_full }
    }

    async fn turn_away(mut self) {
        self.inlet.count_refusal("too-many-connections");
        let notice = Notice {
            code: "too-many-connections".into(),
            detail: format!(
                "{} connections are open, or {} of this peer; close one, or send over an open one",
                self.limits.connections, self.limits.connections_per_peer
            ),
            retry_after: Some(Duration::from_secs(1)),
        };
        // The client has either read it by the end of the limit or never will.
        let _ = timeout(self.limits.reply, wire::write(&mut self.writer, &Message::Error(notice))).await;
        let _ = self.writer.shutdown().await;
    }

    async fn serve(self, stop: CancellationToken) {
        let Self { reader, writer, peer, inlet, max_bytes, limits, when_full } = self;
        let gone = CancellationToken::new();
        let (replies, queue) = mpsc::channel(limits.window as usize);
        let writing = tokio::spawn(write_replies(writer, queue, limits.reply, gone.clone()));
        let window = Arc::new(Semaphore::new(limits.window as usize));
        let mut receiver = Receiver { reader, peer, inlet, max_bytes, limits, when_full, window, replies };
        let trouble = tokio::select! {
            () = stop.cancelled() => Err(Trouble::Stopping),
            () = gone.cancelled() => Err(Trouble::Gone),
            end = receiver.receive() => end,
        };
        receiver.say_goodbye(trouble).await;
        drop(receiver);
        // Ends when the last frame in flight has been answered, or the client takes no replies.
        let _ = writing.await;
    }
}

struct Receiver {
    reader: BufReader<ReadHalf<AnyStream>>,
    peer: String,
    inlet: Inlet,
    max_bytes: usize,
    limits: SocketLimits,
    when_full: WhenFull,
    window: Arc<Semaphore>,
    replies: mpsc::Sender<Message>,
}

impl Receiver {
    /// Takes messages until the client ends the connection.
    async fn receive(&mut self) -> Result<(), Trouble> {
        let mut patience = self.limits.first_byte;
        while let Some(first) = self.first_byte(patience).await? {
            patience = self.limits.idle;
            let header = self.read_header(first).await?;
            match header.kind {
                Kind::Frame => self.take_frame(header).await?,
                Kind::Ping => {
                    self.read_payload(header).await?;
                    self.replies.send(Message::Pong).await.map_err(|_| Trouble::Gone)?;
                }
                other => return Err(WireError::BadType(other as u8).into()),
            }
        }
        Ok(())
    }

    async fn read_header(&mut self, first: u8) -> Result<Header, WireError> {
        let limit = self.limits.message;
        let max_bytes = self.max_bytes.saturating_add(FRAME_HEAD_BYTES + MAX_LABEL_BYTES);
        timeout(limit, wire::read_header(&mut self.reader, first, max_bytes))
            .await
            .unwrap_or(Err(WireError::Slow { what: "no whole header", limit }))
    }

    /// The first byte of the next message; `None` at the end. Waiting for verdicts is not idling.
    async fn first_byte(&mut self, patience: Duration) -> Result<Option<u8>, WireError> {
        let mut first = [0];
        loop {
            match timeout(patience, self.reader.read(&mut first)).await {
                Ok(Ok(0)) => return Ok(None),
                Ok(Ok(_)) => return Ok(Some(first[0])),
                Ok(Err(error)) => return Err(error.into()),
                Err(_) if self.window.available_permits() < self.limits.window as usize => {}
                Err(_) => return Err(WireError::Slow { what: "no message", limit: patience }),
            }
        }
    }

    async fn read_payload(&mut self, header: Header) -> Result<Message, WireError> {
        let limit = self.limits.message;
        timeout(limit, wire::read_payload(&mut self.reader, header))
            .await
            .unwrap_or(Err(WireError::Slow { what: "no whole payload", limit }))
    }

    async fn take_frame(&mut self, header: Header) -> Result<(), Trouble> {
        let place = Arc::clone(&self.window).acquire_owned().await.map_err(|_| Trouble::Stopping)?;
        let room = match self.when_full {
            WhenFull::Block => self.inlet.reserve(header.length).await,
            WhenFull::DropNewest => self.inlet.try_reserve(header.length),
        };
        let room = match room {
            Ok(room) => room,
            Err(Rejected::Full) => return self.drop_frame(header).await,
            Err(Rejected::Closed) => return Err(Trouble::Stopping),
        };
        let Message::Frame(frame) = self.read_payload(header).await? else {
            return Err(WireError::BadType(header.kind as u8).into());
        };
        let ClientFrame { sequence, captured_at_ns, label, image } = frame;
        let origin = Origin::Peer { name: self.peer.clone(), sequence };
        let receipt =
            room.send(Draft { origin, bytes: image, captured_at_ns, label }).map_err(|_| Trouble::Stopping)?;
        let replies = self.replies.clone();
        tokio::spawn(async move {
            answer(sequence, receipt, replies).await;
            drop(place);
        });
        Ok(())
    }

    /// Reads a frame past the full queue, keeping nothing of it, and says when to send it again.
    async fn drop_frame(&mut self, header: Header) -> Result<(), Trouble> {
        let limit = self.limits.message;
        let sequence = timeout(limit, wire::skip_frame(&mut self.reader, header))
            .await
            .unwrap_or(Err(WireError::Slow { what: "no whole payload", limit }))?;
        let notice = Notice {
            code: Rejected::Full.code().into(),
            detail: Rejected::Full.to_string(),
            retry_after: Some(RETRY_AFTER_FULL),
        };
        let message = Message::Ack { sequence, reply: Reply::Refused(notice) };
        self.replies.send(message).await.map_err(|_| Trouble::Gone)
    }

    /// Waits for the frames in flight, then says why the connection ends.
    async fn say_goodbye(&self, end: Result<(), Trouble>) {
        let notice = match end {
            // The writer ends by itself after the last reply.
            Ok(()) | Err(Trouble::Gone) => return,
            Err(Trouble::Stopping) => match Verdict::shutting_down() {
                Verdict::Refused { code, detail, retry_after } => Notice { code: code.into(), detail, retry_after },
                _ => return,
            },
            Err(Trouble::Wire(error)) => {
                self.inlet.count_refusal(error.code());
                tracing::debug!(peer = self.peer, %error, "connection closed");
                Notice { code: error.code().into(), detail: error.to_string(), retry_after: None }
            }
        };
        let _ = timeout(self.limits.drain, self.window.acquire_many(self.limits.window)).await;
        // Fails only where the client has gone.
        let _ = timeout(self.limits.reply, self.replies.send(Message::Error(notice))).await;
    }
}

async fn answer(sequence: u64, receipt: Receipt, replies: mpsc::Sender<Message>) {
    let reply = receipt.await.into();
    // A client that has gone needs no answer.
    let _ = replies.send(Message::Ack { sequence, reply }).await;
}

async fn write_replies(
    writer: WriteHalf<AnyStream>,
    mut queue: mpsc::Receiver<Message>,
    limit: Duration,
    gone: CancellationToken,
) {
    let mut writer = BufWriter::new(writer);
    while let Some(message) = queue.recv().await {
        let last = matches!(message, Message::Error(_));
        let write = async {
            wire::write(&mut writer, &message).await?;
            if queue.is_empty() { writer.flush().await.map_err(WireError::from) } else { Ok(()) }
        };
        if !matches!(timeout(limit, write).await, Ok(Ok(()))) {
            gone.cancel();
            return;
        }
        if last {
            break;
        }
    }
    let _ = timeout(limit, writer.shutdown()).await;
    gone.cancel();
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
