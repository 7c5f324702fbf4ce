//! A daemon under test: the built binary on a state folder of its own, asked through its own command line and its sockets.

use std::ffi::OsStr;
use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Long enough for a busy machine; nothing waits this long unless it has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// A small learner, so that many daemons fit on a small machine; flags given later win.
const SMALL: [&str; 10] = [
    "serve.listen=127.0.0.1:0",
    "encoder.preset=resnet18-w16",
    "replay.slots=256",
    "learn.batch=8",
    "learn.replay_batch=8",
    "learn.steps_per_batch=1",
    "learn.idle_steps_per_second=0",
    "publish.interval_seconds=1",
    "daemon.threads=2",
    "device.kind=cpu",
];

/// The binary with a clean environment.
pub fn lumpd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lumpd"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("LUMPD")) {
        command.env_remove(name);
    }
    command
        .env_remove("RUST_LOG")
        .env_remove("STATE_DIRECTORY")
        .env("XDG_CONFIG_HOME", "/nonexistent")
        .stdin(Stdio::null());
    command
}

/// Runs it to its end.
pub fn run<S: AsRef<OsStr>>(arguments: &[S]) -> Output {
    lumpd().args(arguments).output().expect("the built binary starts")
}

/// What a finished process said on standard error.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What a finished process said on standard output.
pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a pipe has brought so far.
struct Reading {
    text: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

impl Reading {
    fn of(pipe: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let reader = thread::spawn({
            let text = Arc::clone(&text);
            move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    let mut text = text.lock().unwrap_or_else(PoisonError::into_inner);
                    text.push_str(&line);
                    text.push('\n');
                }
            }
        });
        Self { text, reader }
    }

    /// Everything, once the writer has closed it.
    fn into_text(self) -> String {
        self.reader.join().expect("a pipe is read to its end");
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn text(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A running process whose output is read as it comes; killed when dropped.
pub struct Process {
    child: Child,
    out: Option<Reading>,
    log: Option<Reading>,
}

impl Process {
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the built binary starts");
        let out = child.stdout.take().map(Reading::of);
        let log = child.stderr.take().map(Reading::of);
        Self { child, out, log }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Standard output so far.
    pub fn out(&self) -> String {
        self.out.as_ref().map(Reading::text).unwrap_or_default()
    }

    /// Standard error so far.
    pub fn log(&self) -> String {
        self.log.as_ref().map(Reading::text).unwrap_or_default()
    }

    /// Waits until the condition holds.
    ///
    /// # Panics
    /// With what the process said, if it ends or the condition does not come to hold.
    pub fn wait(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !holds(self) {
            let ended = self.child.try_wait().expect("a child can be waited for");
            assert!(ended.is_none(), "it ended before {what}: {ended:?}\n{self}");
            assert!(start.elapsed() < PATIENCE, "no {what} within {PATIENCE:?}\n{self}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// SIGTERM; then its exit code and its log.
    pub fn stop(mut self) -> (Option<i32>, String) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").arg("-TERM").arg(pid).status().is_ok_and(|s| s.success()), "kill -TERM");
        self.finish()
    }

    /// Waits for it to end by itself: its exit code and its log.
    fn finish(&mut self) -> (Option<i32>, String) {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                break status;
            }
            assert!(start.elapsed() < PATIENCE, "it does not end\n{self}");
            thread::sleep(Duration::from_millis(50));
        };
        let log = self.log.take().map(Reading::into_text);
        (status.code(), log.unwrap_or_default())
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "standard output:\n{}\nlog:\n{}", self.out(), self.log())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already: then there is nothing to kill.
        if self.child.kill().is_ok() {
            let _ = self.child.wait();
        }
    }
}

/// An answer of the HTTP API.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Writes one request and reads its answer to the end of the connection.
fn exchange(mut stream: impl Read + Write, head: &str, body: &[u8]) -> std::io::Result<Answer> {
    write!(stream, "{head}Connection: close\r\nContent-Length: {}\r\n\r\n", body.len())?;
    stream.write_all(body)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or(std::io::ErrorKind::InvalidData)?;
    Ok(Answer { status, head, body: bytes.split_off(end + 4) })
}

/// A running daemon; killed when dropped.
pub struct Daemon {
    process: Process,
    socket: PathBuf,
}

impl Daemon {
    /// Starts `lumpd run` on the state folder with further arguments, and waits until it is ready.
    pub fn start<S: AsRef<OsStr>>(state: &Path, arguments: &[S]) -> Self {
        let mut daemon = Self::spawn(state, arguments);
        daemon.wait("readiness", |daemon| daemon.try_get("/readyz").is_some_and(|answer| answer.status == 200));
        daemon
    }

    /// Starts it without waiting.
    pub fn spawn<S: AsRef<OsStr>>(state: &Path, arguments: &[S]) -> Self {
        let mut command = lumpd();
        command.arg("run").arg("--state-dir").arg(state);
        SMALL.iter().for_each(|setting| {
            command.arg("--set").arg(setting);
        });
        command.args(arguments);
        Self { process: Process::spawn(command), socket: state.join("lumpd.sock") }
    }

    /// As [`Daemon::start`], with further variables in its environment.
    pub fn start_in<S: AsRef<OsStr>>(state: &Path, arguments: &[S], environment: &[(&str, &OsStr)]) -> Self {
        let mut command = lumpd();
        command.arg("run").arg("--state-dir").arg(state);
        SMALL.iter().for_each(|setting| {
            command.arg("--set").arg(setting);
        });
        command.args(arguments).envs(environment.iter().copied());
        let mut daemon = Self { process: Process::spawn(command), socket: state.join("lumpd.sock") };
        daemon.wait("readiness", |daemon| daemon.try_get("/readyz").is_some_and(|answer| answer.status == 200));
        daemon
    }

    /// The API's unix socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sends it a signal, such as `HUP`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -{name}");
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Everything it has logged so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The API's loopback address, as it says it on standard output.
    pub fn address(&self) -> String {
        let start = Instant::now();
        // It is ready as soon as it has said so, and the line may still be on its way through the pipe.
        while start.elapsed() < PATIENCE {
            let out = self.process.out();
            if let Some(address) = out.lines().find_map(|line| line.strip_prefix("lumpd listens on http://")) {
                return address.to_owned();
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("no address\n{}", self.process)
    }

    /// A client verb against it, to its end.
    pub fn client<S: AsRef<OsStr>>(&self, verb: &[S]) -> Output {
        lumpd().args(verb).arg("--api").arg(&self.socket).output().expect("the built binary starts")
    }

    /// Runs a client verb with `--json` against it.
    pub fn ask<S: AsRef<OsStr>>(&self, verb: &[S]) -> Value {
        let output = lumpd().args(verb).arg("--json").arg("--api").arg(&self.socket).output().expect("client starts");
        assert!(output.status.success(), "{}\nlog:\n{}", stderr(&output), self.log());
        serde_json::from_slice(&output.stdout).expect("--json prints JSON")
    }

    /// `lumpd status --json`.
    pub fn status(&self) -> Value {
        self.ask(&["status"])
    }

    /// The source of this name, of `lumpd sources --json`.
    pub fn source(&self, name: &str) -> Value {
        let list = self.ask(&["sources"]);
        let sources = list["sources"].as_array().expect("a list of sources");
        sources.iter().find(|source| source["name"] == name).unwrap_or_else(|| panic!("no {name} in {list}")).clone()
    }

    /// Any request, over the unix socket.
    pub fn request(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> Answer {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n");
        let answer = self.connect().and_then(|stream| exchange(stream, &head, body));
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error}\nlog:\n{}", self.log()))
    }

    /// Over TCP, with headers of one's own.
    pub fn request_over_tcp(&self, headers: &str) -> Answer {
        let stream = TcpStream::connect(self.address()).expect("it listens");
        exchange(stream, &format!("GET /v1/status HTTP/1.1\r\n{headers}"), &[]).expect("it answers")
    }

    /// Over TCP, at an address of one's own choice.
    pub fn request_over_tcp_at(&self, address: &str, headers: &str) -> Answer {
        self.request_at(address, "GET", "/v1/status", headers)
    }

    /// Any method over TCP, without a body.
    pub fn request_at(&self, address: &str, method: &str, path: &str, headers: &str) -> Answer {
        let stream = TcpStream::connect(address).expect("it listens");
        exchange(stream, &format!("{method} {path} HTTP/1.1\r\n{headers}"), &[]).expect("it answers")
    }

    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path, "text/plain", &[])
    }

    fn try_get(&self, path: &str) -> Option<Answer> {
        exchange(self.connect().ok()?, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n"), &[]).ok()
    }

    fn connect(&self) -> std::io::Result<UnixStream> {
        let stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// Posts an encoded image to a resource.
    pub fn post_image(&self, path: &str, image: &[u8]) -> Answer {
        self.request("POST", path, "application/octet-stream", image)
    }

    /// Sends JSON to a resource.
    pub fn send_json(&self, method: &str, path: &str, json: &Value) -> Answer {
        self.request(method, path, "application/json", json.to_string().as_bytes())
    }

    /// Waits until the condition holds.
    ///
    /// # Panics
    /// With the daemon's log, if it does not come to hold.
    pub fn wait(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !holds(self) {
            let ended = self.process.child.try_wait().expect("a child can be waited for");
            assert!(ended.is_none(), "the daemon ended before {what}: {ended:?}\n{}", self.process);
            assert!(start.elapsed() < PATIENCE, "no {what} within {PATIENCE:?}\n{}", self.process);
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a source has accepted so many frames.
    pub fn wait_accepted(&mut self, source: &str, frames: u64) {
        self.wait(&format!("{frames} frames of {source}"), |daemon| {
            daemon.source(source)["accepted"].as_u64().is_some_and(|accepted| accepted >= frames)
        });
    }

    /// `kill -9`.
    pub fn kill(self) {
        self.process.kill();
    }

    /// `kill -9`; then everything it had logged.
    pub fn kill_with_log(mut self) -> String {
        self.process.child.kill().expect("it runs");
        self.process.child.wait().expect("it ends");
        self.process.log.take().map(Reading::into_text).unwrap_or_default()
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.process.ended().is_some()
    }

    /// Posts an encoded image; the status, where there is an answer.
    pub fn try_post(&self, path: &str, image: &[u8]) -> Option<u16> {
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n");
        self.connect().and_then(|stream| exchange(stream, &head, image)).ok().map(|answer| answer.status)
    }

    /// SIGTERM; then its exit code and its log.
    pub fn stop(self) -> (Option<i32>, String) {
        self.process.stop()
    }
}
