//! A daemon under test: the built binary on a state folder of its own, asked through its own command line.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Long enough for a busy machine; nothing waits this long unless it has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// The binary with a clean environment.
pub fn lumpd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lumpd"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("LUMPD")) {
        command.env_remove(name);
    }
    command.env_remove("RUST_LOG").env_remove("STATE_DIRECTORY").env("XDG_CONFIG_HOME", "/nonexistent").stdin(Stdio::null());
    command
}

/// Runs it to its end.
pub fn run<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Output {
    lumpd().args(arguments).output().expect("the built binary starts")
}

/// What a finished process said on standard error.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A running daemon; killed when dropped.
pub struct Daemon {
    child: Child,
    socket: PathBuf,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Daemon {
    /// Starts `lumpd run` on the state folder with further settings, and waits until it is ready.
    pub fn start(state: &Path, settings: &[&str]) -> Self {
        let daemon = Self::spawn(state, settings);
        daemon.wait("readiness", |d| d.get("/readyz").is_some());
        daemon
    }

    /// Starts it without waiting.
    pub fn spawn(state: &Path, settings: &[&str]) -> Self {
        let mut command = lumpd();
        command.arg("run").arg("--set").arg(format!("daemon.state_dir={}", state.display()));
        for setting in ["serve.listen=127.0.0.1:0", "encoder.preset=resnet18-w16", "replay.slots=256"].iter().chain(settings) {
            command.arg("--set").arg(setting);
        }
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the built binary starts");
        let log = Arc::new(Mutex::new(String::new()));
        let pipe = child.stderr.take().expect("standard error is piped");
        let reader = thread::spawn({
            let log = Arc::clone(&log);
            move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                    log.push_str(&line);
                    log.push('\n');
                }
            }
        });
        Self { child, socket: state.join("lumpd.sock"), log, reader: Some(reader) }
    }

    /// Everything it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The API's unix socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Runs a client verb with `--json` against it.
    pub fn ask<S: AsRef<std::ffi::OsStr>>(&self, verb: &[S]) -> Value {
        let output = lumpd().args(verb).arg("--json").arg("--api").arg(&self.socket).output().expect("client starts");
        assert!(output.status.success(), "{}\nlog:\n{}", stderr(&output), self.log());
        serde_json::from_slice(&output.stdout).expect("--json prints JSON")
    }

    /// `lumpd status --json`.
    pub fn status(&self) -> Value {
        self.ask(&["status"])
    }

    /// The body of a GET over the unix socket, if it is answered with success.
    pub fn get(&self, path: &str) -> Option<String> {
        use std::io::Write;
        let mut stream = std::os::unix::net::UnixStream::connect(&self.socket).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
    }

    /// Waits until the condition holds.
    ///
    /// # Panics
    /// With the daemon's log, if it does not come to hold.
    pub fn wait(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !holds(self) {
            assert!(start.elapsed() < PATIENCE, "no {what} within {PATIENCE:?}; log:\n{}", self.log());
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().expect("the daemon runs");
        self.child.wait().expect("the daemon ends");
    }

    /// Asks it to stop, waits, and gives the exit code and the log.
    pub fn stop(mut self) -> (Option<i32>, String) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").arg("-TERM").arg(pid).status().is_ok_and(|s| s.success()), "kill -TERM");
        self.finish()
    }

    /// Waits for it to end by itself.
    pub fn finish(&mut self) -> (Option<i32>, String) {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("the daemon can be waited for") {
                break status;
            }
            assert!(start.elapsed() < PATIENCE, "it does not end; log:\n{}", self.log());
            thread::sleep(Duration::from_millis(50));
        };
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the log is read to its end");
        }
        (status.code(), self.log())
    }

    /// The resident memory of the process, bytes, where the system tells.
    pub fn resident_bytes(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS"))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already: then there is nothing to kill.
        if self.child.kill().is_ok() {
            let _ = self.child.wait();
        }
    }
}
