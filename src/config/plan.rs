//! The plan: checked settings, and the memory and disk that they may take.

use std::fmt;

use super::problem::Problem;
use super::settings::{Config, PolicyKind};

/// What the budget needs to know of an encoder preset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncoderShape {
    /// Width and height of an input, in pixels.
    pub side: usize,
    /// Length of a feature vector.
    pub features: usize,
    /// Trained numbers, the heads' included.
    pub parameters: usize,
}

/// A configuration that can be run.
#[derive(Debug, Clone)]
pub struct Plan {
    pub config: Config,
    pub encoder: EncoderShape,
    pub budget: Budget,
    /// What looks wrong but does not keep the daemon from starting.
    pub warnings: Vec<Problem>,
}

/// Upper bounds in bytes of everything that grows with a setting. Displays as a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    pub lines: Vec<BudgetLine>,
}

/// One row of the budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetLine {
    pub what: &'static str,
    /// How the bytes come about, in the settings' words.
    pub how: String,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
}

/// Fixed part of a slot of the replay file, before its pixels.
const SLOT_HEADER_BYTES: u64 = 128;
/// Slots begin at multiples of a page.
const PAGE_BYTES: u64 = 4096;
/// Identity and commit records of the replay file.
const REPLAY_HEAD_PAGES: u64 = 4;
/// Numbers of segmentation's frozen features.
const FROZEN_FEATURES: usize = 512;
/// Bytes of a 32-bit float.
const FLOAT_BYTES: u64 = 4;

impl Budget {
    pub(super) fn of(config: &Config, encoder: EncoderShape) -> Self {
        let lines = vec![
            replay(config, encoder),
            policy(config, encoder),
            bank(config, encoder),
            probes(config, encoder),
            weights(encoder),
            checkpoints(config, encoder),
            queues(config),
            decoding(config),
        ];
        Self { lines }
    }

    pub fn memory_bytes(&self) -> u64 {
        self.lines.iter().map(|line| line.memory_bytes).sum()
    }

    pub fn disk_bytes(&self) -> u64 {
        self.lines.iter().map(|line| line.disk_bytes).sum()
    }
}

/// Bytes of the replay file: its head, and a page-aligned slot for every kept and every spare image.
pub fn replay_file_bytes(slots: usize, spare_slots: usize, side: usize) -> u64 {
    let stride = (SLOT_HEADER_BYTES + image_bytes(side)).next_multiple_of(PAGE_BYTES);
    (slots as u64 + spare_slots as u64) * stride + REPLAY_HEAD_PAGES * PAGE_BYTES
}

fn image_bytes(side: usize) -> u64 {
    (side * side * 3) as u64
}

fn replay(config: &Config, encoder: EncoderShape) -> BudgetLine {
    let (slots, spare) = (config.replay.slots, config.replay.commit_frames);
    BudgetLine {
        what: "replay buffer",
        how: format!("{slots} + {spare} spare slots of {side}x{side}, a file", side = encoder.side),
        // Its pages are the system's cache: they give way when memory is short.
        memory_bytes: 0,
        disk_bytes: replay_file_bytes(slots, spare, encoder.side),
    }
}

fn policy(config: &Config, encoder: EncoderShape) -> BudgetLine {
    let slots = config.replay.slots as u64;
    // Rows of two bytes a number, two neighbours and the tables beside them; the frozen features before the first
    // version are at most as wide as this.
    let width = encoder.features.max(FROZEN_FEATURES) as u64;
    let bytes = if config.replay.policy == PolicyKind::MinRed { slots * (2 * width + 60) } else { 0 };
    let how = match config.replay.policy {
        PolicyKind::MinRed => {
            format!("{slots} features of up to {width} for minred, a file of them twice while written")
        }
        PolicyKind::Reservoir | PolicyKind::Fifo => "no features".into(),
    };
    BudgetLine { what: "policy", how, memory_bytes: bytes, disk_bytes: 2 * bytes }
}

fn bank(config: &Config, encoder: EncoderShape) -> BudgetLine {
    BudgetLine {
        what: "bank",
        how: format!("{} embeddings of {}, old and new version", config.replay.slots, encoder.features),
        memory_bytes: 2 * (config.replay.slots * encoder.features) as u64 * FLOAT_BYTES,
        disk_bytes: 0,
    }
}

fn probes(config: &Config, encoder: EncoderShape) -> BudgetLine {
    let probes = config.evaluate.max_probes as u64;
    // Reference embeddings as well as the images.
    let bytes = probes * (image_bytes(encoder.side) + encoder.features as u64 * FLOAT_BYTES);
    BudgetLine { what: "probes", how: format!("{probes} images held out"), memory_bytes: bytes, disk_bytes: bytes }
}

fn weights(encoder: EncoderShape) -> BudgetLine {
    // Weights, gradients and momentum of the learner, and the published version before and after a swap, each of these in
    // the form that answers and in the one that is exported.
    let bytes = 7 * encoder.parameters as u64 * FLOAT_BYTES;
    let how = format!("{} parameters, without activations", encoder.parameters);
    BudgetLine { what: "encoder", how, memory_bytes: bytes, disk_bytes: 0 }
}

fn checkpoints(config: &Config, encoder: EncoderShape) -> BudgetLine {
    let keep = config.checkpoint.keep as u64;
    // An old generation goes only after the new one is known to be sound: one more than are kept.
    let bytes = (keep + 1) * 2 * encoder.parameters as u64 * FLOAT_BYTES;
    let how = format!("{keep} generations and the one being written: weights and momentum");
    BudgetLine { what: "checkpoints", how, memory_bytes: 0, disk_bytes: bytes }
}

fn queues(config: &Config) -> BudgetLine {
    let bytes = config.source.iter().map(|source| source.queue_bytes as u64).sum();
    let how = format!("undecoded frames of {} sources", config.source.len());
    BudgetLine { what: "queues", how, memory_bytes: bytes, disk_bytes: 0 }
}

fn decoding(config: &Config) -> BudgetLine {
    let threads = match config.daemon.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let image = config.decode.max_bytes as u64 + 3 * config.decode.max_pixels;
    let how = format!("{threads} threads, each with the largest image allowed");
    BudgetLine { what: "decoding", how, memory_bytes: threads as u64 * image, disk_bytes: 0 }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |f: &mut fmt::Formatter<'_>, what: &str, memory: u64, disk: u64, how: &str| {
            let line = format!("{what:<14} {:>10} {:>10}  {how}", Bytes(memory).to_string(), Bytes(disk).to_string());
            writeln!(f, "{}", line.trim_end())
        };
        writeln!(f, "{:<14} {:>10} {:>10}  at most, for", "", "memory", "disk")?;
        for line in &self.lines {
            row(f, line.what, line.memory_bytes, line.disk_bytes, &line.how)?;
        }
        row(f, "total", self.memory_bytes(), self.disk_bytes(), "")
    }
}

/// A number of bytes for people: three digits and a binary unit.
#[derive(Debug, Clone, Copy)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("-");
        }
        let mut value = self.0 as f64;
        let mut units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].into_iter();
        let mut unit = units.next().unwrap_or_default();
        while value >= 1000.0 {
            let Some(larger) = units.next() else { break };
            (value, unit) = (value / 1024.0, larger);
        }
        let decimals = if value < 10.0 && unit != "B" { 1 } else { 0 };
        write!(f, "{value:.decimals$} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_replay_file_is_counted_in_whole_pages() {
        // 128 + 3072 bytes fit one page; 128 + 12288 need four.
        assert_eq!(replay_file_bytes(100, 10, 32), 110 * 4096 + 4 * 4096);
        assert_eq!(replay_file_bytes(100, 10, 64), 110 * 4 * 4096 + 4 * 4096);
    }

    #[test]
    fn the_table_ends_with_the_sums() {
        let budget = Budget::of(&Config::default(), EncoderShape { side: 32, features: 128, parameters: 700_000 });
        let text = budget.to_string();
        let total = text.lines().last().unwrap();
        assert!(total.starts_with("total"), "{text}");
        assert!(total.contains(&Bytes(budget.memory_bytes()).to_string()), "{text}");
        assert!(total.contains(&Bytes(budget.disk_bytes()).to_string()), "{text}");
        let replay = &budget.lines[0];
        assert_eq!(replay.disk_bytes, replay_file_bytes(4096, 64, 32));
    }

    #[test]
    fn bytes_are_shown_with_a_binary_unit() {
        let shown = |bytes| Bytes(bytes).to_string();
        assert_eq!(shown(0), "-");
        assert_eq!(shown(999), "999 B");
        assert_eq!(shown(1 << 10), "1.0 KiB");
        assert_eq!(shown(17 << 20), "17 MiB");
        assert_eq!(shown(u64::MAX), "16384 PiB");
    }
}
