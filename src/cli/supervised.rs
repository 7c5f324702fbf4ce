//! A daemon under a service manager: it says when it is ready and what it is doing, and gives signs of life as long as the
//! training thread does.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::notify::Notifier;
use crate::daemon::answers::{Answers, Status};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// Between two lines about what it is doing.
const STATUS: Duration = Duration::from_secs(10);

/// Ends the signs of life when dropped.
pub(super) struct Supervised {
    _end: Sender<()>,
}

/// Starts to tell the service manager, where there is one. `silence`: since when nothing was seen of the training thread.
pub(super) fn start(
    notifier: Notifier,
    answers: Arc<dyn Answers>,
    silence: impl Fn() -> Duration + Send + 'static,
) -> std::io::Result<Supervised> {
    let (end, ended) = channel();
    if notifier.is_heard() {
        thread::Builder::new().name("notify".into()).spawn(move || tell(&notifier, &*answers, &silence, &ended))?;
    }
    Ok(Supervised { _end: end })
}

fn tell(notifier: &Notifier, answers: &dyn Answers, silence: &dyn Fn() -> Duration, ended: &Receiver<()>) {
    let (mut ready, mut told, mut alive) = (false, Instant::now(), Instant::now());
    loop {
        match ended.recv_timeout(LOOK) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
        if !ready && answers.readiness().ready {
            ready = true;
            notifier.say(&format!("READY=1\nSTATUS={}", line(&answers.status())));
        }
        if ready && told.elapsed() >= STATUS {
            told = Instant::now();
            notifier.say(&format!("STATUS={}", line(&answers.status())));
        }
        // Half of the time allowed; a thread that hangs longer than that is not vouched for.
        let due = notifier.watchdog().map(|time| time / 2);
        if due.is_some_and(|due| alive.elapsed() >= due / 2 && silence() < due) {
            alive = Instant::now();
            notifier.say("WATCHDOG=1");
        }
    }
}

/// For `systemctl status`.
fn line(status: &Status) -> String {
    let training = match (&status.learn.frozen, status.learn.paused_since) {
        (Some(_), _) => "training frozen".into(),
        (None, Some(_)) => "training paused".into(),
        (None, None) => format!("step {}", status.learn.steps),
    };
    format!(
        "{} images seen, {} stored, {training}, on {}",
        status.stream.accepted, status.buffer.used, status.device.taken
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::answers::fake::Fake;

    #[test]
    fn the_line_says_what_it_does() {
        let fake = Fake::new();
        assert_eq!(line(&fake.status()), "6 images seen, 6 stored, step 130, on cpu (2 threads)");
    }
}
