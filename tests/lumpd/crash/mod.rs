//! One harness a promise of reliability, each with a count: a small one here, the full one by `cargo bench --bench promises`.

pub mod corpus;
pub mod disk_full;
pub mod failing_calls;
pub mod half_written;
pub mod kill9;
pub mod many_files;
pub mod memory;
pub mod oracle;
pub mod resume;
pub mod stored;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A network that takes no time worth mentioning, so that what is measured is the rest.
const TINY: &str = r#"name = "tiny"
description = "as small as it gets"
architecture = "resnet18"
width = 2
side = 16
stem = "cifar"
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
"#;

/// Writes the card of a tiny network into `folder`; the setting that names it.
pub fn tiny_network(folder: &Path) -> String {
    let path = folder.join("tiny.toml");
    fs::write(&path, TINY).expect("a card can be written");
    format!("encoder.preset={}", path.display())
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary folder has a plain name")
}

/// `--set` before each.
pub fn settings<'a>(settings: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    settings.into_iter().flat_map(|setting| ["--set".to_owned(), setting.to_owned()]).collect()
}

/// A TCP port that is free now.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    listener.local_addr().expect("it is bound").port()
}

/// Resident memory of a process, bytes; `peak` since its start.
pub fn resident(pid: u32, peak: bool) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = if peak { "VmHWM:" } else { "VmRSS:" };
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.trim().split(' ').next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// A folder for a run, kept where it fails: it is what the failure is found in.
pub struct Scratch {
    path: PathBuf,
    keep: bool,
}

impl Scratch {
    pub fn new() -> Self {
        Self { path: tempfile::tempdir().expect("a temporary folder").keep(), keep: false }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() || self.keep {
            eprintln!("kept: {}", self.path.display());
        } else {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Seconds since then, for the line that a run ends with.
pub fn seconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64()
}
