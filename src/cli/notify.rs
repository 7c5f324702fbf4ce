//! Words to the service manager (systemd's `sd_notify` protocol): ready, what it is doing, still alive, stopping.
//!
//! Protocol: sd_notify(3). A datagram of `NAME=value` lines to the socket that `NOTIFY_SOCKET` names. Where the variable is not
//! set nothing is sent.

use std::ffi::OsString;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

/// The way to the service manager, if there is one.
#[derive(Debug, Clone)]
pub(super) struct Notifier {
    socket: Option<OsString>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// From the environment that the service manager made.
    pub(super) fn from_environment() -> Self {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        // The time is for one process; another that inherited the variables is not meant.
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|time| ours && *time > 0).map(Duration::from_micros);
        Self { socket: std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()), watchdog }
    }

    /// How long the service manager waits for a sign of life; none where it does not.
    pub(super) fn watchdog(&self) -> Option<Duration> {
        self.watchdog.filter(|_| self.socket.is_some())
    }

    /// Whether anybody listens.
    pub(super) fn is_heard(&self) -> bool {
        self.socket.is_some()
    }

    /// Sends lines such as `READY=1`. That it fails is logged: the service manager then acts as if nothing had been said.
    pub(super) fn say(&self, lines: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = send(socket, lines.as_bytes()) {
            tracing::warn!(%error, "the service manager cannot be told");
        }
    }
}

fn send(socket: &OsString, message: &[u8]) -> std::io::Result<()> {
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    #[cfg(target_os = "linux")]
    if let Some(name) = socket.to_str().and_then(|path| path.strip_prefix('@')) {
        use std::os::linux::net::SocketAddrExt;
        let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
        return sender.send_to_addr(message, &address).map(drop);
    }
    sender.send_to(message, socket).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_reach_the_socket_and_without_one_nothing_happens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify.sock");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier { socket: Some(path.into()), watchdog: Some(Duration::from_secs(3)) };
        notifier.say("READY=1\nSTATUS=fine");
        let mut heard = [0; 64];
        let length = manager.recv(&mut heard).unwrap();
        assert_eq!(&heard[..length], b"READY=1\nSTATUS=fine");
        let silent = Notifier { socket: None, watchdog: Some(Duration::from_secs(3)) };
        silent.say("READY=1");
        assert_eq!((silent.watchdog(), silent.is_heard()), (None, false));
    }
}
