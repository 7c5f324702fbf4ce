//! Listening: both addresses are opened before anything is served, and closed with an end to every connection.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{Terms, serve_connection, turn_away};
use super::guard::{Door, OwnNames};
use super::unix::{Socket, SocketFile};
use super::{Limits, ServeError};
use crate::config::ServeSettings;
use crate::stream::{Peer, Peers};

/// Pause after a failure to accept that will not pass by trying again at once, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections beyond the limit that are told so at once; more are closed without a word.
const TURNED_AWAY_AT_ONCE: usize = 16;

/// Where the API is to be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    pub tcp: SocketAddr,
    pub unix: PathBuf,
}

/// Both listeners, open but not serving yet.
#[derive(Debug)]
pub struct Server {
    tcp: TcpListener,
    unix: UnixListener,
    /// Dropped, and so removed, once nothing is accepted any more.
    file: SocketFile,
    bound: Bound,
    /// Further names under which the TCP listener may be called.
    hosts: Vec<String>,
}

impl Server {
    /// Opens both listeners. Port 0 takes a free one: [`Server::bound`] tells which.
    ///
    /// # Errors
    /// An address beyond loopback while no token is set, one that is in use, a socket that another process serves or that
    /// cannot be made.
    pub async fn bind(settings: &ServeSettings, socket: &Path) -> Result<Self, ServeError> {
        let listen = settings.listen;
        if !listen.ip().is_loopback() && !settings.has_token() {
            return Err(ServeError::NotLoopback { address: listen });
        }
        let failed = |source: io::Error| match source.kind() {
            ErrorKind::AddrInUse => ServeError::AddressInUse { address: listen },
            _ => ServeError::Tcp { address: listen, source },
        };
        let tcp = TcpListener::bind(listen).await.map_err(failed)?;
        let address = tcp.local_addr().map_err(failed)?;
        let Socket { listener, file } = Socket::bind(socket).await?;
        let bound = Bound { tcp: address, unix: file.path().into() };
        Ok(Self { tcp, unix: listener, file, bound, hosts: settings.hosts.clone() })
    }

    /// The addresses that were opened.
    pub fn bound(&self) -> &Bound {
        &self.bound
    }

    /// Serves until `stop`, then answers what is under way, within the drain limit, and removes the socket.
    pub async fn run(self, router: Router, limits: &Limits, stop: CancellationToken) {
        let own = OwnNames::of(self.bound.tcp, &self.hosts);
        let kill = CancellationToken::new();
        let connections = TaskTracker::new();
        let terms = Arc::new(Terms { router, limits: limits.clone(), stop: stop.clone(), kill: kill.clone() });
        tokio::join!(
            accept(self.tcp, Door::Tcp(own.clone()), &terms, &connections),
            accept(self.unix, Door::Unix(own), &terms, &connections),
        );
        drop(self.file);
        connections.close();
        if timeout(limits.drain_time, connections.wait()).await.is_err() {
            tracing::warn!(connections = connections.len(), "connections that did not end in time are cut");
            kill.cancel();
            connections.wait().await;
        }
    }
}

/// What both kinds of listener can do.
trait Inlet {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Peer)>> + Send;
}

impl Inlet for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Peer)> {
        let (stream, peer) = TcpListener::accept(self).await?;
        // Answers are small and written whole: waiting to fill a packet only delays them.
        stream.set_nodelay(true)?;
        Ok((stream, Peer::Address(peer.ip())))
    }
}

impl Inlet for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, Peer)> {
        let (stream, _) = UnixListener::accept(self).await?;
        let peer = Peer::of_unix(&stream);
        Ok((stream, peer))
    }
}

async fn accept<I: Inlet>(inlet: I, door: Door, terms: &Arc<Terms>, connections: &TaskTracker) {
    let places = Arc::new(Semaphore::new(terms.limits.connections));
    let peers = Peers::new(terms.limits.connections_per_peer);
    let farewells = Arc::new(Semaphore::new(TURNED_AWAY_AT_ONCE));
    loop {
        let accepted = tokio::select! {
            () = terms.stop.cancelled() => return,
            accepted = inlet.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted; trying again");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if let Some(place) = peers.admit(peer).zip(Arc::clone(&places).try_acquire_owned().ok()) {
            let (terms, door) = (Arc::clone(terms), door.clone());
            connections.spawn(async move {
                serve_connection(stream, door, &terms).await;
                drop(place);
            });
        } else if let Ok(place) = Arc::clone(&farewells).try_acquire_owned() {
            let stop = terms.stop.clone();
            connections.spawn(async move {
                tokio::select! {
                    () = turn_away(stream) => {}
                    () = stop.cancelled() => {}
                }
                drop(place);
            });
        }
    }
}

/// The client has gone again before it was accepted: nothing to wait for.
fn is_of_one_connection(error: &io::Error) -> bool {
    use ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, InvalidInput, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | InvalidInput | NotConnected)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::DuplexStream;

    use super::*;
    use crate::config::{DecodeSettings, ServeSettings};

    /// Fails every time, at once.
    struct Failing(ErrorKind, Arc<AtomicUsize>);

    impl Inlet for Failing {
        type Stream = DuplexStream;

        async fn accept(&self) -> io::Result<(DuplexStream, Peer)> {
            self.1.fetch_add(1, Ordering::Relaxed);
            // A socket's accept gives way to other tasks; so must this one.
            tokio::task::yield_now().await;
            Err(self.0.into())
        }
    }

    /// How often a listener that always fails is asked within three pauses.
    async fn attempts(kind: ErrorKind) -> usize {
        let (count, stop) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        let limits = Limits::new(&ServeSettings::default(), &DecodeSettings::default());
        let terms =
            Arc::new(Terms { router: Router::new(), limits, stop: stop.clone(), kill: CancellationToken::new() });
        let door = Door::Tcp(OwnNames::of(([127, 0, 0, 1], 1).into(), &[]));
        let (inlet, connections) = (Failing(kind, Arc::clone(&count)), TaskTracker::new());
        let end = async {
            sleep(ACCEPT_PAUSE * 3).await;
            stop.cancel();
        };
        tokio::join!(accept(inlet, door, &terms, &connections), end);
        count.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn a_lack_of_files_is_waited_out_and_a_client_that_left_is_not() {
        assert!((1..=5).contains(&attempts(ErrorKind::Other).await), "the loop pauses");
        assert!(attempts(ErrorKind::ConnectionAborted).await > 5, "the loop goes on");
    }
}
