//! Ctrl-C and SIGTERM: the first asks for an orderly stop, the second ends at once. SIGHUP asks for the settings to be read
//! again.

use std::io::{Write, stderr};
use std::thread;

use anyhow::Context;
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that the first signal cancels. From then on another signal ends the process at once.
pub(super) fn on_signal() -> anyhow::Result<CancellationToken> {
    let runtime = Builder::new_current_thread().enable_io().build().context("prepare to hear signals")?;
    let (interrupt, terminate) = {
        let _context = runtime.enter();
        let listen = |kind| signal(kind).context("prepare to hear signals");
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?)
    };
    let stop = CancellationToken::new();
    let first = stop.clone();
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || runtime.block_on(wait(interrupt, terminate, first)))
        .context("start a thread that hears signals")?;
    Ok(stop)
}

/// Calls back at every SIGHUP, on a thread of its own.
pub(super) fn on_hangup(reload: impl Fn() + Send + 'static) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().enable_io().build().context("prepare to hear SIGHUP")?;
    let mut hangup = {
        let _context = runtime.enter();
        signal(SignalKind::hangup()).context("prepare to hear SIGHUP")?
    };
    let listen = move || {
        while runtime.block_on(hangup.recv()).is_some() {
            reload();
        }
    };
    thread::Builder::new().name("reload".into()).spawn(listen).context("start a thread that hears SIGHUP")?;
    Ok(())
}

async fn wait(mut interrupt: Signal, mut terminate: Signal, stop: CancellationToken) {
    next(&mut interrupt, &mut terminate).await;
    stop.cancel();
    let _ = writeln!(
        stderr(),
        "lumpd: stopping: the last batch is finished and a checkpoint written; again to end at once"
    );
    let number = next(&mut interrupt, &mut terminate).await;
    // What a shell reports of a process that a signal ended.
    std::process::exit(128 + number);
}

async fn next(interrupt: &mut Signal, terminate: &mut Signal) -> i32 {
    tokio::select! {
        _ = interrupt.recv() => SignalKind::interrupt().as_raw_value(),
        _ = terminate.recv() => SignalKind::terminate().as_raw_value(),
    }
}
