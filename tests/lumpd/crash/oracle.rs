//! A sender that knows what it was told: every acknowledgement is written down, whatever becomes of the daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lumpd::stream::wire::{self, ClientFrame, Message, Reply};

use crate::pictures::png;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was sent, and the frame that each picture was acknowledged as. Pictures are told apart by their number.
#[derive(Debug, Default)]
pub struct Oracle {
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    sent: BTreeSet<u64>,
    acknowledged: BTreeMap<u64, u64>,
    again: u64,
    refused: BTreeMap<String, u64>,
}

impl Oracle {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn sending(&self, picture: u64) {
        let mut told = self.told();
        if !told.sent.insert(picture) {
            told.again += 1;
        }
    }

    pub fn acknowledged(&self, picture: u64, frame: u64) {
        self.told().acknowledged.insert(picture, frame);
    }

    /// Every picture that was sent.
    pub fn sent(&self) -> BTreeSet<u64> {
        self.told().sent.clone()
    }

    /// Frames by the number of the picture.
    pub fn acknowledgements(&self) -> BTreeMap<u64, u64> {
        self.told().acknowledged.clone()
    }

    pub fn count(&self) -> usize {
        self.told().acknowledged.len()
    }

    /// Pictures sent more than once, since no answer had come.
    pub fn again(&self) -> u64 {
        self.told().again
    }

    /// Refusals by their code.
    pub fn refused(&self) -> BTreeMap<String, u64> {
        self.told().refused.clone()
    }

    /// Those of these pictures that no acknowledgement has come for.
    pub fn unanswered(&self, pictures: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let told = self.told();
        pictures.into_iter().filter(|picture| !told.acknowledged.contains_key(picture)).collect()
    }

    /// Sends pictures over a unix socket of the daemon's, `window` of them before their answers. Ends when all are answered
    /// or the connection breaks; whether all were.
    pub fn over_unix(&self, socket: &Path, pictures: &[u64], window: usize) -> bool {
        let Ok(stream) = UnixStream::connect(socket) else { return false };
        let set = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
        let Ok(reader) = set.and_then(|()| stream.try_clone()) else { return false };
        let done = self.exchange(reader, &stream, pictures, window);
        let _ = stream.shutdown(Shutdown::Both);
        done
    }

    /// The same over TCP.
    pub fn over_tcp(&self, port: u16, pictures: &[u64], window: usize) -> bool {
        let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
        let set = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
        let Ok(reader) = set.and_then(|()| stream.try_clone()) else { return false };
        let done = self.exchange(reader, &stream, pictures, window);
        let _ = stream.shutdown(Shutdown::Both);
        done
    }

    fn exchange(&self, mut reader: impl Read, mut writer: impl Write, pictures: &[u64], window: usize) -> bool {
        let (mut bytes, mut next, mut open) = (Vec::new(), 0, 0);
        loop {
            while next < pictures.len() && open < window {
                let picture = pictures[next];
                self.sending(picture);
                let frame =
                    ClientFrame { sequence: picture, captured_at_ns: None, label: None, image: png(picture).into() };
                let message = wire::encode(&Message::Frame(frame)).expect("a small frame can be encoded");
                if writer.write_all(&message).is_err() {
                    // What was answered before the end is in the reader still.
                    next = pictures.len();
                    open = usize::MAX;
                    break;
                }
                (next, open) = (next + 1, open + 1);
            }
            if open == 0 {
                return true;
            }
            let mut part = [0; 4096];
            match reader.read(&mut part) {
                Ok(0) | Err(_) => return false,
                Ok(count) => bytes.extend_from_slice(&part[..count]),
            }
            while let Some((message, length)) = wire::decode(&bytes, wire::MAX_REPLY_BYTES).expect("a whole answer") {
                bytes.drain(..length);
                open = open.saturating_sub(1);
                match message {
                    Message::Ack { sequence, reply: Reply::Accepted { id, .. } | Reply::Duplicate { id } } => {
                        self.acknowledged(sequence, id.0);
                    }
                    Message::Ack { reply: Reply::Refused(notice), .. } | Message::Error(notice) => {
                        *self.told().refused.entry(notice.code).or_default() += 1;
                    }
                    other => panic!("a server does not send {other:?}"),
                }
            }
        }
    }

    /// Posts pictures one by one; ends when all are answered or the connection breaks.
    pub fn over_http(&self, address: &str, pictures: &[u64]) -> bool {
        pictures.iter().all(|&picture| self.post(address, picture).is_some())
    }

    fn post(&self, address: &str, picture: u64) -> Option<()> {
        let image = png(picture);
        self.sending(picture);
        let mut stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let head = format!(
            "POST /v1/images HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/octet-stream\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            image.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&image)).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
        let json: serde_json::Value = serde_json::from_slice(&answer[end + 4..]).ok()?;
        match json["id"].as_u64() {
            Some(id) => self.acknowledged(picture, id),
            None => *self.told().refused.entry(json["code"].to_string()).or_default() += 1,
        }
        Some(())
    }
}
