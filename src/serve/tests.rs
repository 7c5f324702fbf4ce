//! The API through its real listeners, asked with hand-written requests, on the daemon in memory.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Access, Bound, Hooks, Limits, Server, router};
use crate::config::{DecodeSettings, ServeSettings};
use crate::daemon::answers::Answers;
use crate::daemon::answers::fake::Fake;

mod access;
mod changes;
mod connections;
mod doors;
mod resources;

/// A served [`Fake`]; stopped when dropped.
pub(crate) struct Daemon {
    pub(crate) bound: Bound,
    pub(crate) fake: Arc<Fake>,
    stop: CancellationToken,
    served: JoinHandle<()>,
    folder: TempDir,
}

impl Daemon {
    pub(crate) async fn start() -> Self {
        Self::of(Fake::new(), &limits(), Hooks::default()).await
    }

    pub(crate) async fn of(fake: Fake, limits: &Limits, hooks: Hooks) -> Self {
        Self::with(fake, limits, hooks, &settings()).await
    }

    pub(crate) async fn with(fake: Fake, limits: &Limits, hooks: Hooks, settings: &ServeSettings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::bind(settings, &folder.path().join("lumpd.sock")).await.unwrap();
        let access = Access::load(settings).unwrap();
        let (bound, fake, stop) = (server.bound().clone(), Arc::new(fake), CancellationToken::new());
        let api = router(Arc::clone(&fake) as Arc<dyn Answers>, limits, hooks, &access);
        let (limits, stopped) = (limits.clone(), stop.clone());
        let served = tokio::spawn(async move { server.run(api, &limits, stopped).await });
        Self { bound, fake, stop, served, folder }
    }

    async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.bound.tcp).await.unwrap()
    }

    async fn unix(&self) -> UnixStream {
        UnixStream::connect(&self.bound.unix).await.unwrap()
    }

    /// Sends one request over TCP, with the right `Host`.
    async fn ask(&self, method: &str, target: &str, kind: &str, body: &[u8]) -> Reply {
        let host = format!("Host: {}\r\n", self.bound.tcp);
        ask(self.tcp().await, method, target, &host, kind, body).await
    }

    async fn get(&self, target: &str) -> Reply {
        self.ask("GET", target, "", b"").await
    }

    async fn post_image(&self, target: &str, image: &str) -> Reply {
        self.ask("POST", target, "image/jpeg", image.as_bytes()).await
    }

    async fn post_json(&self, target: &str, json: &str) -> Reply {
        self.ask("POST", target, "application/json", json.as_bytes()).await
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("lumpd.sock")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.fake.release();
        self.stop.cancel();
    }
}

/// A free port, and no limit to what the tests ask in a second.
pub(crate) fn settings() -> ServeSettings {
    ServeSettings { listen: ([127, 0, 0, 1], 0).into(), requests_per_second: 0.0, ..ServeSettings::default() }
}

/// Small and short ones, so that the tests of what exceeds them are fast.
pub(crate) fn limits() -> Limits {
    let limits = Limits::new(&ServeSettings::default(), &DecodeSettings { max_bytes: 10_000, ..Default::default() });
    Limits { head_time: Duration::from_millis(300), request_time: Duration::from_millis(300), ..limits }
}

/// An answer, taken apart.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Reply {
    fn of(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("the answer has a head");
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_ascii_lowercase(), body: bytes[end + 4..].to_vec() }
    }

    fn json(&self) -> Value {
        assert!(self.head.contains("content-type: application/json"), "{}", self.head);
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Asserts that this is a problem, whole and consistent, and returns its code and field.
    #[track_caller]
    fn problem(&self, status: u16) -> (String, Option<String>) {
        let body = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{body}");
        assert!(self.head.contains("content-type: application/problem+json"), "{}", self.head);
        assert!(self.head.contains("x-content-type-options: nosniff"), "{}", self.head);
        let problem: super::Problem = serde_json::from_str(&body).unwrap();
        assert_eq!(problem.status, status);
        let whole: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(whole["type"], format!("urn:lumpd:problem:{}", problem.code));
        assert!(whole["title"].as_str().is_some_and(|title| !title.is_empty()) && !problem.detail.is_empty(), "{body}");
        (problem.code, problem.field)
    }
}

/// Sends one request with these header lines and reads the answer to its end.
async fn ask<S>(mut stream: S, method: &str, target: &str, headers: &str, kind: &str, body: &[u8]) -> Reply
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let kind = if kind.is_empty() { String::new() } else { format!("Content-Type: {kind}\r\n") };
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let head = format!("{method} {target} HTTP/1.1\r\n{headers}{kind}{length}Connection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    Reply::of(&answer)
}
