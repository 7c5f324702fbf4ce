//! What is asked of the operating system for this process and its threads, so that those who wait for an answer go before
//! training. Nothing here changes a result.

/// What threads that train add to their niceness.
#[cfg(target_os = "linux")]
const GIVE_WAY: i32 = 10;

/// How long a turn threads that train ask for. One that wakes for a shorter turn is let in at once (Linux 6.12 and later);
/// otherwise it waits for a millisecond where training has just begun its own turn. Linux allows no longer one.
#[cfg(target_os = "linux")]
const LONG_TURN: std::time::Duration = std::time::Duration::from_millis(100);

/// Lets threads that answer go before the calling one, which computes for long. On Linux niceness is of a thread; elsewhere
/// it is of the whole process, and nothing is done.
pub fn give_way() {
    #[cfg(target_os = "linux")]
    if ask_for_long_turns().is_err()
        && let Err(error) = rustix::process::nice(GIVE_WAY)
    {
        tracing::warn!(%error, "a thread that computes cannot give way: questions may wait for it");
    }
}

/// Both at once, as the kernel sets them. Kernels before 6.12 take the niceness alone.
#[cfg(target_os = "linux")]
fn ask_for_long_turns() -> std::io::Result<()> {
    const KEEP_POLICY: u64 = 0x08;
    let nice = rustix::process::getpriority_process(None)?;
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: 0,
        sched_flags: KEEP_POLICY,
        sched_nice: (nice + GIVE_WAY).min(19),
        sched_priority: 0,
        sched_runtime: LONG_TURN.as_nanos() as u64,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel reads as many bytes as `size` says, and keeps nothing.
    let status = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if status == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Makes candle's own threads for elementwise work sleep when they have nothing to do; they would turn in circles for 25,000
/// rounds after each piece, a millisecond or two in which nobody else has their core. What is set already stays. Called before
/// any thread is started; afterwards, and where the system does not tell how many there are, it does nothing.
pub fn let_idle_threads_sleep() {
    const ROUNDS: &str = "CANDLE_BARRIER_POOL_SPIN_LIMIT";
    let alone = std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1);
    if alone && std::env::var_os(ROUNDS).is_none() {
        // SAFETY: this is the only thread, so that nobody reads the environment meanwhile.
        unsafe { std::env::set_var(ROUNDS, "100") };
    }
}
