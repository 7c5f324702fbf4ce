//! How many connections one peer may have: whoever takes all of them keeps everyone else out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer {
    /// Of a unix socket, where the system tells.
    Process(i32),
    /// Of a TCP socket. On the loopback interface all of 127.0.0.1 are one.
    Address(IpAddr),
    /// Nobody knows: not counted.
    Unknown,
}

impl Peer {
    /// The process at the other end of a unix socket.
    pub fn of_unix(stream: &tokio::net::UnixStream) -> Self {
        stream.peer_cred().ok().and_then(|credentials| credentials.pid()).map_or(Self::Unknown, Self::Process)
    }
}

/// Counts connections by peer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Peers {
    open: Arc<Mutex<HashMap<Peer, usize>>>,
    most: usize,
}

/// A connection that is counted until this is dropped.
#[derive(Debug)]
pub struct Admitted {
    peers: Peers,
    peer: Peer,
}

impl Peers {
    /// At most `most` connections of each peer.
    pub fn new(most: usize) -> Self {
        Self { open: Arc::default(), most }
    }

    /// None where the peer has as many as it may.
    pub fn admit(&self, peer: Peer) -> Option<Admitted> {
        if peer != Peer::Unknown {
            let mut open = self.lock();
            let count = open.entry(peer).or_insert(0);
            if *count >= self.most {
                return None;
            }
            *count += 1;
        }
        Some(Admitted { peers: self.clone(), peer })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Peer, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut open = self.peers.lock();
        if let Some(count) = open.get_mut(&self.peer) {
            *count -= 1;
            // Only peers that are connected are remembered.
            if *count == 0 {
                open.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_peer_has_its_own_share_which_comes_back() {
        let peers = Peers::new(2);
        let (a, b) = (Peer::Process(1), Peer::Address([127, 0, 0, 2].into()));
        let first = peers.admit(a).unwrap();
        let _second = peers.admit(a).unwrap();
        assert!(peers.admit(a).is_none());
        let _other = peers.admit(b).unwrap();
        drop(first);
        let _again = peers.admit(a).unwrap();
        assert!(peers.admit(a).is_none());
        let unknown: Vec<_> = (0..5).map(|_| peers.admit(Peer::Unknown).unwrap()).collect();
        drop(unknown);
        assert_eq!(peers.lock().len(), 2);
    }
}
