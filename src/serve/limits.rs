//! What serving may cost: every bound in one place.

use std::thread::available_parallelism;
use std::time::Duration;

use crate::config::{DecodeSettings, ServeSettings};

/// Largest body, whatever `[decode]` allows: larger images come through a directory or a socket.
const MAX_BODY_BYTES: usize = 16 << 20;

/// Bounds of the API.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Of one request's body.
    pub body_bytes: usize,
    /// Of all bodies that are held at once.
    pub held_body_bytes: usize,
    /// For the head of a request to arrive, from the connection's start or the end of the answer before it.
    pub head_time: Duration,
    /// For the body of a request to arrive.
    pub request_time: Duration,
    /// For the client to take some more of an answer.
    pub write_stall_time: Duration,
    /// Connections served at once, on each of the two listeners.
    pub connections: usize,
    /// Of these, connections of one peer: a process (unix) or an address (TCP).
    pub connections_per_peer: usize,
    /// For requests under way to be answered after the stop.
    pub drain_time: Duration,
    /// Questions that are worked on at once.
    pub compute_running: usize,
    /// Questions that wait for it; more get 429.
    pub compute_waiting: usize,
    /// Posted images that wait for their commit at once.
    pub ingest_running: usize,
}

impl Limits {
    pub fn new(serve: &ServeSettings, decode: &DecodeSettings) -> Self {
        let body_bytes = decode.max_bytes.min(MAX_BODY_BYTES);
        // A setting that is no duration (negative, not finite) means no patience at all; `check` refuses it before.
        let request_time = Duration::try_from_secs_f64(serve.request_seconds).unwrap_or_default();
        Self {
            body_bytes,
            held_body_bytes: body_bytes.saturating_mul(4),
            head_time: request_time.min(Duration::from_secs(10)),
            request_time,
            write_stall_time: Duration::from_secs(30),
            connections: serve.max_connections,
            connections_per_peer: (serve.max_connections - serve.max_connections / 4).max(1),
            drain_time: Duration::from_secs(5),
            compute_running: available_parallelism().map_or(1, usize::from),
            compute_waiting: 64,
            ingest_running: 64,
        }
    }

    /// Most memory that requests take, in bytes, beside what answering one costs.
    pub fn memory_bytes(&self) -> usize {
        let connections = self.connections.saturating_mul(2).saturating_mul(super::connection::BUFFER_BYTES);
        self.held_body_bytes.saturating_mul(2).saturating_add(connections)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_limit_is_the_smaller_of_ours_and_the_decoders() {
        let limits =
            |max_bytes| Limits::new(&ServeSettings::default(), &DecodeSettings { max_bytes, ..Default::default() });
        assert_eq!(limits(32 << 20).body_bytes, 16 << 20);
        assert_eq!(limits(1000).body_bytes, 1000);
    }

    #[test]
    fn the_memory_is_stated() {
        let limits = Limits::new(&ServeSettings::default(), &DecodeSettings::default());
        assert!(limits.memory_bytes() < 256 << 20, "{}", limits.memory_bytes());
    }
}
