//! The daemon as a process, and its API over the unix socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The built binary.
pub const BINARY: &str = env!("CARGO_BIN_EXE_lumpd");

/// A running daemon; stopped when dropped.
pub struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Daemon {
    /// Starts `lumpd run` on a state folder, with further arguments, and waits until it is ready. Its log goes beside the folder.
    pub fn start(state: &Path, arguments: &[String]) -> Result<Self, String> {
        let log = std::fs::File::create(state.with_extension("log")).map_err(|e| format!("the daemon's log: {e}"))?;
        let mut command = Command::new(BINARY);
        command.arg("run").arg("--set").arg(format!("daemon.state_dir={}", state.display()));
        command.arg("--set").arg("serve.listen=127.0.0.1:0").args(arguments);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|e| format!("{BINARY}: {e}"))?;
        let mut daemon = Self { child, socket: state.join("lumpd.sock") };
        let start = Instant::now();
        while daemon.request("GET", "/readyz", &[]).is_err() {
            let ended = daemon.child.try_wait().map_err(|e| e.to_string())?;
            if ended.is_some() || start.elapsed() > Duration::from_secs(120) {
                let log = std::fs::read_to_string(state.with_extension("log")).unwrap_or_default();
                return Err(format!("the daemon does not become ready:\n{log}"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(daemon)
    }

    /// One request, its JSON answer.
    pub fn request(&self, method: &str, path: &str, body: &[u8]) -> Result<Value, String> {
        let fail = |e: std::io::Error| format!("{method} {path}: {e}");
        let mut stream = UnixStream::connect(&self.socket).map_err(fail)?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).map_err(fail)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).map_err(fail)?;
        let split = answer.windows(4).position(|w| w == b"\r\n\r\n").ok_or(format!("{method} {path}: no answer"))?;
        let (head, body) = (String::from_utf8_lossy(&answer[..split]), &answer[split + 4..]);
        if !head.starts_with("HTTP/1.1 2") {
            return Err(format!("{method} {path}: {}", String::from_utf8_lossy(body)));
        }
        Ok(serde_json::from_slice(body).unwrap_or(Value::Null))
    }

    /// `GET /v1/status`.
    pub fn status(&self) -> Result<Value, String> {
        self.request("GET", "/v1/status", &[])
    }

    /// Embeddings (n x d) of encoded images, and d.
    pub fn embed(&self, images: &[Vec<u8>]) -> Result<(Vec<f32>, usize), String> {
        let (mut rows, mut width) = (Vec::new(), 0);
        for image in images {
            let answer = self.request("POST", "/v1/embed", image)?;
            let vector = answer["vector"].as_array().ok_or("an embedding without a vector")?;
            width = vector.len();
            rows.extend(vector.iter().filter_map(Value::as_f64).map(|x| x as f32));
        }
        Ok((rows, width))
    }

    /// Highest resident memory so far, MiB.
    pub fn peak_mib(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
    }

    /// Waits until this many frames have been taken in.
    pub fn wait_accepted(&self, frames: u64, patience: Duration) -> Result<(), String> {
        let start = Instant::now();
        loop {
            let accepted = self.status()?["stream"]["accepted"].as_u64().unwrap_or(0);
            if accepted >= frames {
                return Ok(());
            }
            if start.elapsed() > patience {
                return Err(format!("only {accepted} of {frames} frames were taken in"));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Asks it to stop and waits for its end.
    pub fn stop(mut self) -> Result<(), String> {
        let asked = Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status();
        asked.map_err(|e| format!("kill: {e}"))?;
        let status = self.child.wait().map_err(|e| e.to_string())?;
        if status.success() { Ok(()) } else { Err(format!("the daemon ended with {status}")) }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Fails only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
