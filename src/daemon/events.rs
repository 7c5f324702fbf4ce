//! What happened lately: a bounded ring that readers follow by number.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::answers::{Event, Events, Timestamp};

/// Events kept for readers that were away.
const KEPT: usize = 1024;

/// The ring. Every event is also a line of the log.
pub struct EventLog {
    ring: Mutex<Ring>,
    /// The number of the latest, for those who wait for the next.
    latest: watch::Sender<u64>,
}

impl Default for EventLog {
    fn default() -> Self {
        Self { ring: Mutex::default(), latest: watch::Sender::new(0) }
    }
}

#[derive(Default)]
struct Ring {
    events: VecDeque<Event>,
    last: u64,
}

impl EventLog {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event. `kind` is a stable name, `message` one line for people.
    pub fn tell(&self, kind: &str, message: String, data: serde_json::Value) {
        tracing::info!(event = kind, "{message}");
        let mut ring = self.ring();
        ring.last += 1;
        let event = Event { sequence: ring.last, at: Timestamp::now(), kind: kind.into(), message, data };
        if ring.events.len() == KEPT {
            ring.events.pop_front();
        }
        ring.events.push_back(event);
        let last = ring.last;
        drop(ring);
        self.latest.send_replace(last);
    }

    /// Follows the number of the latest event.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.latest.subscribe()
    }

    /// Events after number `after`, at most `limit`, oldest first.
    pub fn after(&self, after: u64, limit: usize) -> Events {
        let ring = self.ring();
        let events: Vec<Event> = ring.events.iter().filter(|e| e.sequence > after).take(limit).cloned().collect();
        let next = events.last().map_or_else(|| after.min(ring.last), |e| e.sequence);
        Events { oldest: ring.events.front().map(|e| e.sequence), next, events }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_follows_by_number_and_sees_what_it_missed() {
        let log = EventLog::default();
        assert_eq!(log.after(0, 10), Events::default());
        for i in 0..KEPT as u64 + 5 {
            log.tell("test", format!("event {i}"), serde_json::Value::Null);
        }
        let first = log.after(0, 3);
        assert_eq!((first.oldest, first.next, first.events.len()), (Some(6), 8, 3));
        let rest = log.after(first.next, usize::MAX);
        assert_eq!(rest.events.first().map(|e| e.sequence), Some(9));
        assert_eq!(rest.next, KEPT as u64 + 5);
        assert!(log.after(rest.next, 10).events.is_empty());
        assert_eq!(log.after(rest.next, 10).next, rest.next);
    }
}
