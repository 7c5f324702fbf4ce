//! The processor and memory of this machine, as far as the operating system tells.

use super::{Backend, DeviceInfo};

/// The CPU as a device.
pub fn cpu() -> DeviceInfo {
    DeviceInfo {
        backend: Backend::Cpu,
        ordinal: 0,
        name: field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        cores: std::thread::available_parallelism().ok().map(usize::from),
        memory_bytes: kibibytes("/proc/meminfo", "MemTotal"),
        features: features(),
    }
}

/// Physical memory that this process holds now, in bytes; `None` where the system does not tell.
pub fn resident_bytes() -> Option<u64> {
    kibibytes("/proc/self/status", "VmRSS")
}

/// The most physical memory that this process has held, in bytes; `None` where the system does not tell.
pub fn peak_resident_bytes() -> Option<u64> {
    kibibytes("/proc/self/status", "VmHWM")
}

/// What threads that train add to their niceness.
#[cfg(target_os = "linux")]
const GIVE_WAY: i32 = 10;

/// How long a turn threads that train ask for. One that wakes for a shorter turn is let in at once (Linux 6.12 and later);
/// as it is, it would wait for a millisecond where training has just begun its own. Linux allows no longer one.
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
/// rounds after each piece, a millisecond or two in which nobody else has their core. What is set already stays.
///
/// # Safety
/// No other thread may run yet: the setting is an environment variable.
pub unsafe fn let_idle_threads_sleep() {
    const ROUNDS: &str = "CANDLE_BARRIER_POOL_SPIN_LIMIT";
    if std::env::var_os(ROUNDS).is_none() {
        // SAFETY: by this function's own condition nobody reads the environment meanwhile.
        unsafe { std::env::set_var(ROUNDS, "100") };
    }
}

/// The first value of `name: value` lines, as Linux writes them.
fn field(path: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

fn kibibytes(path: &str, name: &str) -> Option<u64> {
    let value = field(path, name)?;
    value.strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<String> {
    let found = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
    ];
    found.into_iter().filter(|(_, has)| *has).map(|(name, _)| name.to_owned()).collect()
}

#[cfg(target_arch = "aarch64")]
fn features() -> Vec<String> {
    let found = [
        ("neon", std::arch::is_aarch64_feature_detected!("neon")),
        ("fp16", std::arch::is_aarch64_feature_detected!("fp16")),
        ("bf16", std::arch::is_aarch64_feature_detected!("bf16")),
    ];
    found.into_iter().filter(|(_, has)| *has).map(|(name, _)| name.to_owned()).collect()
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn features() -> Vec<String> {
    Vec::new()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn memory_in_use_grows_with_what_is_held() {
        let before = resident_bytes().unwrap();
        let held = vec![1u8; 64 << 20];
        let after = resident_bytes().unwrap();
        assert!(std::hint::black_box(&held).len() == 64 << 20);
        assert!(after > before + (32 << 20), "{before} then {after}");
        assert!(peak_resident_bytes().unwrap() >= after - (1 << 20));
    }
}
