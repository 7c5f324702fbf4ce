//! What a checkpoint holds of the daemon: the learner, the detectors, the measurements, the number of the last version.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use super::answers::Timestamp;
use super::shared::Written;
use crate::config::CheckpointSettings;
use crate::learn::checkpoint::{CheckpointError, Generations, Keep};
use crate::learn::{LearnError, Trainer};

/// The detectors (see `Segmenter::state`).
const SEGMENT_FILE: &str = "segment.bin";
/// The measurements (see `ForgettingMonitor::to_bytes`).
const MONITOR_FILE: &str = "forgetting.safetensors";

/// Why a state could not be kept or taken up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResumeError {
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("the checkpoint of step {step} does not fit: {source}")]
    Fit { step: u64, source: LearnError },
    #[error(transparent)]
    Learn(#[from] LearnError),
}

impl ResumeError {
    /// Stable name for logs and events.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Checkpoint(error) => error.code(),
            Self::Fit { source, .. } | Self::Learn(source) => source.code(),
        }
    }
}

/// What goes into a checkpoint beside the learner.
pub struct State {
    /// Number of the last published version.
    pub version: u64,
    /// Frames that the replay buffer had been offered, and the newest it held.
    pub offered: u64,
    pub newest: Option<u64>,
    /// The last frame that was learnt from, where steps are locked to the stream.
    pub covered: Option<u64>,
    pub segment: Vec<u8>,
    pub monitor: Option<Vec<u8>>,
}

/// What a restart goes on from.
pub struct Resumed {
    pub step: u64,
    pub written_at: Timestamp,
    pub version: u64,
    /// The last frame that was learnt from, where steps were locked to the stream.
    pub covered: Option<u64>,
    pub segment: Option<Vec<u8>>,
    pub monitor: Option<Vec<u8>>,
}

/// The checkpoints of one state folder.
pub struct Checkpoints {
    generations: Generations,
    last: Option<u64>,
}

impl Checkpoints {
    /// # Errors
    /// Where the folder cannot be made or listed.
    pub fn open(folder: &Path, settings: &CheckpointSettings) -> Result<Self, ResumeError> {
        let keep = Keep { generations: settings.keep, bytes: settings.max_bytes };
        Ok(Self { generations: Generations::open(folder, keep)?, last: None })
    }

    /// Step of the newest checkpoint written or taken up.
    pub fn last_step(&self) -> Option<u64> {
        self.last
    }

    /// Takes up the newest checkpoint that verifies and whose weights can be read; `None` where there is none. Damaged ones
    /// are passed over, loudly.
    ///
    /// # Errors
    /// Where the newest that verifies was made with other settings: the message says which, and what to do.
    pub fn resume(&mut self, trainer: &mut Trainer) -> Result<Option<Resumed>, ResumeError> {
        let mut failed = None;
        let search = self.generations.newest(|loaded| {
            let files: Vec<(String, Vec<u8>)> =
                loaded.files.iter().map(|(name, bytes)| (name.clone(), bytes.clone())).collect();
            match trainer.restore(&files) {
                Ok(()) => Ok(()),
                Err(error) if error.is_damaged_checkpoint() => Err(error.to_string()),
                Err(source) => {
                    failed = Some(ResumeError::Fit { step: loaded.step, source });
                    Ok(())
                }
            }
        })?;
        for (name, reason) in &search.skipped {
            tracing::error!(checkpoint = name, "a damaged checkpoint was put aside: {reason}");
        }
        if let Some(error) = failed {
            return Err(error);
        }
        let Some(mut loaded) = search.loaded else { return Ok(None) };
        let step = loaded.step;
        let (segment, monitor) = (loaded.files.remove(SEGMENT_FILE), loaded.files.remove(MONITOR_FILE));
        self.last = Some(step);
        let version = loaded.meta["encoder_version"].as_u64().unwrap_or(0);
        let written_at = loaded.meta["written_at"].as_str().and_then(|text| text.parse().ok());
        let written_at = written_at.unwrap_or(Timestamp::UNIX_EPOCH);
        let covered = loaded.meta["covered"].as_u64();
        Ok(Some(Resumed { step, written_at, version, covered, segment, monitor }))
    }

    /// Gives the learner the weights of the newest checkpoint that verifies, and says whether there is one; without it keeps
    /// those it has.
    ///
    /// # Errors
    /// As [`Checkpoints::resume`].
    pub fn roll_back(&mut self, trainer: &mut Trainer) -> Result<bool, ResumeError> {
        Ok(self.resume(trainer)?.is_some())
    }

    /// Writes a checkpoint whole.
    ///
    /// # Errors
    /// Where it cannot be written; earlier ones are as they were.
    pub fn write(&mut self, trainer: &Trainer, state: State) -> Result<Written, ResumeError> {
        let mut files: BTreeMap<String, Vec<u8>> = trainer.save()?.into_iter().collect();
        files.insert(SEGMENT_FILE.into(), state.segment);
        files.extend(state.monitor.map(|bytes| (MONITOR_FILE.to_owned(), bytes)));
        let borrowed: Vec<(&str, &[u8])> =
            files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        let at = Timestamp::now();
        let meta = json!({
            "encoder_version": state.version,
            "written_at": at,
            "lumpd": env!("CARGO_PKG_VERSION"),
            "covered": state.covered,
            "buffer": { "offered": state.offered, "newest": state.newest },
        });
        let generation = self.generations.write(trainer.steps(), &borrowed, &meta)?;
        self.last = Some(generation.step);
        Ok(Written { at, step: generation.step })
    }
}
