//! The only room that knows hardware: which devices there are, which one trains, what it can do.
//!
//! Everyone else gets a [`candle_core::Device`] and asks no further. A device that was named is the one that is used or the
//! program says why not; only `auto` chooses, and then it says what it took.
//!
//! ```
//! use lumpd::config::{DeviceKind, DeviceSettings};
//! let chosen = lumpd::device::choose(&DeviceSettings { kind: DeviceKind::Cpu, ordinal: 0 }).unwrap();
//! assert!(chosen.device.is_cpu());
//! ```

mod backends;
mod checks;
pub mod cuda;
mod host;
pub mod kernels;
mod process;
mod turns;

use candle_core::Device;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::config::{Bytes, DeviceKind, DeviceSettings};

pub use checks::{Check, check_kernels};
pub use cuda::{Fault, fault};
pub use host::{peak_resident_bytes, resident_bytes};
pub use process::{give_way, let_idle_threads_sleep};
pub use turns::Turn;

/// Why a device cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    #[error(
        "device \"{kind}\" is not part of this build: build with `--features {kind}`, or set device.kind to \"cpu\" or \"auto\""
    )]
    NotBuilt { kind: Backend },
    #[error(
        "no usable {kind} device: {reason}; check the driver with its own tool, or set device.kind to \"cpu\" or \"auto\""
    )]
    Unusable { kind: Backend, reason: String },
    #[error("device.ordinal is {ordinal}, but there {}: set it to one of 0..{found}", devices(*.found, .kind))]
    NoSuchOrdinal { kind: Backend, ordinal: usize, found: usize },
}

impl DeviceError {
    /// Stable name for logs, metrics and exit codes.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotBuilt { .. } => "device-not-built",
            Self::Unusable { .. } => "device-unusable",
            Self::NoSuchOrdinal { .. } => "no-such-ordinal",
        }
    }
}

fn devices(found: usize, kind: &Backend) -> String {
    match found {
        1 => format!("is 1 {kind} device"),
        _ => format!("are {found} {kind} devices"),
    }
}

/// Kinds of device that a build may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    Cpu,
    Cuda,
    Metal,
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Metal => "metal",
        })
    }
}

/// One device as the `devices` verb and the status show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceInfo {
    pub backend: Backend,
    pub ordinal: usize,
    /// The maker's name of it.
    pub name: String,
    /// Threads that may run at once; only known of a CPU.
    pub cores: Option<usize>,
    /// Memory of its own, in bytes.
    pub memory_bytes: Option<u64>,
    /// Instruction sets that the kernels make use of.
    pub features: Vec<String>,
}

impl std::fmt::Display for DeviceInfo {
    /// `cpu:0 AMD EPYC, 2 threads, 25.2 GB, avx512`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{} {}", self.backend, self.ordinal, self.name)?;
        if let Some(cores) = self.cores {
            write!(f, ", {cores} threads")?;
        }
        if let Some(bytes) = self.memory_bytes {
            write!(f, ", {}", Bytes(bytes))?;
        }
        if !self.features.is_empty() {
            write!(f, ", {}", self.features.join(" "))?;
        }
        Ok(())
    }
}

/// Memory of an accelerator, as its driver counts it: all programs on it together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceMemory {
    pub free_bytes: u64,
    pub total_bytes: u64,
}

/// The memory of an accelerator now; `None` of the CPU, and where the driver does not tell.
pub fn memory(device: &Device) -> Option<DeviceMemory> {
    backends::memory(device)
}

/// Does work on a device that hands out objects which live until a pool of theirs ends (Metal), in such a pool; elsewhere the
/// work alone. A thread of Rust has none, so that without it they would never be freed. Every gradient step and every
/// embedding goes through here; tensors that leave it stay valid.
pub fn in_pool<T>(work: impl FnOnce() -> T) -> T {
    backends::in_pool(work)
}

/// Does work on the threads that compute for a device: of the CPU's pool, else this one.
pub fn on_compute_threads<T: Send>(device: &Device, work: impl FnOnce() -> T + Send) -> T {
    let threads = if device.is_cpu() { kernels::Threads::Pool } else { kernels::Threads::Caller };
    threads.run(work)
}

/// What was found, and what was not and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inventory {
    pub devices: Vec<DeviceInfo>,
    /// One line for each backend without a device: not built, or the driver's complaint.
    pub missing: Vec<String>,
}

/// The device that trains.
#[derive(Debug, Clone)]
pub struct Chosen {
    pub device: Device,
    pub info: DeviceInfo,
    /// Why this one, in one sentence for the log and the status.
    pub reason: String,
}

/// Every device of this machine that this build can use.
pub fn describe() -> Inventory {
    let mut devices = vec![host::cpu()];
    let mut missing = Vec::new();
    for kind in [Backend::Cuda, Backend::Metal] {
        match backends::list(kind) {
            Ok(found) => devices.extend(found),
            Err(error) => missing.push(error.to_string()),
        }
    }
    Inventory { devices, missing }
}

/// The device of the settings.
///
/// # Errors
/// Where the settings name a device, anything that keeps it from being used. `auto` never fails: the CPU is always there.
pub fn choose(settings: &DeviceSettings) -> Result<Chosen, DeviceError> {
    let named = |kind| {
        let reason = format!("{kind}: set by device.kind");
        open(kind, settings.ordinal, reason)
    };
    match settings.kind {
        DeviceKind::Cpu => named(Backend::Cpu),
        DeviceKind::Cuda => named(Backend::Cuda),
        DeviceKind::Metal => named(Backend::Metal),
        DeviceKind::Auto => automatic(settings.ordinal),
    }
}

fn automatic(ordinal: usize) -> Result<Chosen, DeviceError> {
    let mut refused = Vec::new();
    for kind in [Backend::Cuda, Backend::Metal] {
        match open(kind, ordinal, format!("auto: took {kind}, the fastest device found")) {
            Ok(chosen) => return Ok(chosen),
            Err(DeviceError::NotBuilt { .. }) => refused.push(format!("{kind} is not part of this build")),
            Err(error) => refused.push(error.to_string()),
        }
    }
    // The ordinal counts accelerators; where there are none it has nothing to choose from.
    open(Backend::Cpu, 0, format!("auto: took the cpu, because {}", refused.join(" and ")))
}

fn open(kind: Backend, ordinal: usize, reason: String) -> Result<Chosen, DeviceError> {
    if kind == Backend::Cpu {
        return match ordinal {
            0 => Ok(Chosen { device: Device::Cpu, info: host::cpu(), reason }),
            _ => Err(DeviceError::NoSuchOrdinal { kind, ordinal, found: 1 }),
        };
    }
    let found = backends::list(kind)?;
    let count = found.len();
    let info = found.into_iter().nth(ordinal).ok_or(DeviceError::NoSuchOrdinal { kind, ordinal, found: count })?;
    Ok(Chosen { device: backends::open(kind, ordinal)?, info, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(kind: DeviceKind, ordinal: usize) -> DeviceSettings {
        DeviceSettings { kind, ordinal }
    }

    #[test]
    fn the_cpu_is_always_there_and_there_is_one() {
        let chosen = choose(&settings(DeviceKind::Cpu, 0)).unwrap();
        assert!(chosen.device.is_cpu());
        assert!(chosen.info.cores.unwrap() >= 1);
        assert_eq!(choose(&settings(DeviceKind::Cpu, 1)).unwrap_err().code(), "no-such-ordinal");
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_named_device_that_is_not_built_in_is_refused_and_not_replaced() {
        let error = choose(&settings(DeviceKind::Cuda, 0)).unwrap_err();
        assert_eq!(error.code(), "device-not-built");
        assert!(error.to_string().contains("--features cuda"), "{error}");
    }

    #[cfg(not(any(feature = "cuda", feature = "metal")))]
    #[test]
    fn auto_says_what_it_took_and_why() {
        let chosen = choose(&settings(DeviceKind::Auto, 0)).unwrap();
        assert!(chosen.device.is_cpu());
        assert!(chosen.reason.contains("took the cpu") && chosen.reason.contains("cuda"), "{}", chosen.reason);
        assert_eq!(memory(&chosen.device), None);
        let inventory = describe();
        assert_eq!(inventory.devices.len(), 1);
        assert_eq!(inventory.missing.len(), 2);
    }
}
