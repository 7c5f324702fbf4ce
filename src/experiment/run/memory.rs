//! The run's replay buffer and segmentation: the daemon's own.

use std::path::{Path, PathBuf};

use crate::config::{Random, Seed, SegmentSettings};
use crate::experiment::{ExperimentError, RunSettings};
use crate::replay::{Record, ReplayBuffer, StoreReader};
use crate::segment::{SegmentEvent, Segmenter, TaskRegister};
use crate::stream::{FrameId, SourceId};

/// Name of the buffer's file, in the run's folder and in a checkpoint.
pub(super) const FILE: &str = "replay.buf";

/// A presentation's number holds the number of the image in its lowest bits, so that a replayed image has its class.
const IMAGE_BITS: u32 = 20;

/// The number of a presentation.
pub(super) fn id(presentation: u64, image: usize) -> u64 {
    (presentation + 1) << IMAGE_BITS | image as u64
}

/// The image that was presented.
pub(super) fn image_of(id: u64) -> usize {
    (id & ((1 << IMAGE_BITS) - 1)) as usize
}

pub(super) fn check_numbers(images: usize) -> Result<(), ExperimentError> {
    match images >> IMAGE_BITS {
        0 => Ok(()),
        _ => Err(ExperimentError::setting("dataset", images, "an experiment has at most 1,048,576 training images")),
    }
}

pub(super) struct Memory {
    path: PathBuf,
    buffer: ReplayBuffer,
    reader: StoreReader,
    segmenter: Segmenter,
}

impl Memory {
    /// An empty one.
    pub(super) fn create(settings: &RunSettings, folder: &Path, side: usize) -> Result<Self, ExperimentError> {
        Self::remove(folder)?;
        Self::open(settings, folder, side)
    }

    /// The one whose file's bytes are these.
    pub(super) fn restore(
        settings: &RunSettings,
        folder: &Path,
        side: usize,
        image: &[u8],
    ) -> Result<Self, ExperimentError> {
        Self::remove(folder)?;
        let path = folder.join(FILE);
        std::fs::write(&path, image).map_err(ExperimentError::io("write", &path))?;
        Self::open(settings, folder, side)
    }

    pub(super) fn remove(folder: &Path) -> Result<(), ExperimentError> {
        let path = folder.join(FILE);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(ExperimentError::io("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    fn open(settings: &RunSettings, folder: &Path, side: usize) -> Result<Self, ExperimentError> {
        let path = folder.join(FILE);
        let (buffer, _) = ReplayBuffer::open_or_create(&path, &settings.replay(), side, Seed(settings.seed))?;
        let reader = buffer.reader();
        let segment = SegmentSettings::default();
        let segmenter = Segmenter::new(segment.clone(), TaskRegister::in_memory(segment.max_tasks));
        Ok(Self { path, buffer, reader, segmenter })
    }

    /// The file's bytes.
    pub(super) fn image(&mut self) -> Result<Vec<u8>, ExperimentError> {
        self.buffer.sync()?;
        std::fs::read(&self.path).map_err(ExperimentError::io("read", &self.path))
    }

    /// Pixels and numbers of images drawn without repetition, as many as there are.
    pub(super) fn sample(&self, count: usize, random: &mut Random) -> (Vec<u8>, Vec<u64>) {
        if count == 0 {
            return (Vec::new(), Vec::new());
        }
        let batch = self.reader.sample(count, random);
        (batch.pixels, batch.ids.into_iter().map(|id| id.0).collect())
    }

    pub(super) fn offer(&mut self, ids: &[u64], pixels: &[u8]) -> Result<(), ExperimentError> {
        let bytes = pixels.len() / ids.len().max(1);
        for (id, image) in ids.iter().zip(pixels.chunks_exact(bytes.max(1))) {
            if self.buffer.room() == 0 {
                self.buffer.commit()?;
            }
            let (id, hash) = (FrameId(*id), blake3::hash(image));
            let mut content_hash = [0; 16];
            content_hash.copy_from_slice(&hash.as_bytes()[..16]);
            let wall_time_ns = id.0 as i64;
            let source = SourceId(1);
            self.buffer.offer(&Record { id, source, source_sequence: 0, wall_time_ns, content_hash, pixels: image })?;
        }
        self.buffer.commit()?;
        Ok(())
    }

    /// Whether a task ended with this image.
    pub(super) fn segment(&mut self, number: u64, image: &[u8], side: usize) -> Result<bool, ExperimentError> {
        let seen = self.segmenter.observe(SourceId(1), FrameId(number + 1), image, side)?;
        Ok(seen.events.iter().any(|event| matches!(event, SegmentEvent::TaskClosed { .. })))
    }
}
