//! The memory thread: frames in, verdicts out.
//!
//! One thread takes frames from the queue in fair order, decodes a group in parallel, numbers what decoded, and lets
//! segmentation, probes and the replay buffer see the frames in that order. A frame is answered after the commit that holds
//! it. Training gets a copy and never holds this thread up.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rayon::prelude::*;
use serde_json::json;

use super::learner::Command;
use super::lockstep::{LockStep, Pending};
use super::mailbox::Mailbox;
use super::moments::Moments;
use super::probe_file::ProbeFile;
use super::shared::Shared;
use crate::config::Fit;
use crate::decode::{DecodeError, Decoder, to_square};
use crate::evaluate::{EvaluateError, Placement, ProbeSets};
use crate::knn::{KnnError, Labels};
use crate::replay::{Decision, Record, ReplayBuffer, ReplayError, SlotMeta};
use crate::segment::{Observation, SegmentError, SegmentEvent, Segmenter, TaskId};
use crate::stream::{Frame, FrameId, Intake, Next, Verdict};
use crate::telemetry::{Metric, observe};

/// How long the thread waits for a frame before it looks whether it shall end.
const PATIENCE: Duration = Duration::from_millis(200);

/// Frames whose bytes are remembered, so that one sent again is answered and not taken twice.
const DUPLICATE_WINDOW: usize = 4096;

/// What ends the memory thread: the daemon can promise nothing any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    #[error("the replay buffer cannot be written: {0}; nothing more is acknowledged")]
    Replay(#[from] ReplayError),
    #[error("the probe store cannot be written: {0}; nothing more is acknowledged")]
    Probes(#[from] EvaluateError),
    #[error("segmentation does not take a frame: {0}")]
    Segment(#[from] SegmentError),
    #[error("the journal of locked steps cannot be written: {0}; nothing more is acknowledged")]
    Journal(std::io::Error),
}

/// Everything a frame passes through. Owned by the memory thread.
pub struct Pipeline {
    pub intake: Intake,
    pub decoder: Decoder,
    pub fit: Fit,
    /// Pixels of a side of the encoder's input.
    pub side: u32,
    /// Most frames of one commit.
    pub group: usize,
    pub segmenter: Arc<RwLock<Segmenter>>,
    pub buffer: ReplayBuffer,
    pub probes: Arc<Mutex<ProbeSets<ProbeFile>>>,
    pub labels: Arc<Labels>,
    pub moments: Arc<Moments>,
    pub mailbox: Arc<Mailbox<Command>>,
    pub shared: Arc<Shared>,
    pub next: FrameId,
    pub recent: Recent,
    /// Where steps are locked to the stream.
    pub lock: Option<Arc<LockStep>>,
}

/// A decoded frame as the encoder takes it.
struct Square {
    /// Of the bytes as they came.
    hash: [u8; 16],
    pixels: Vec<u8>,
}

/// A decoded frame on its way through the group.
struct Taken {
    frame: Frame,
    id: FrameId,
    hash: [u8; 16],
    pixels: Vec<u8>,
}

/// What became of a group.
struct Remembered {
    for_training: Vec<Vec<u8>>,
    /// Probes, and what the replay buffer took.
    kept: HashSet<FrameId>,
}

impl Pipeline {
    /// Runs until the queue is closed and empty.
    ///
    /// # Errors
    /// Where a commit fails: frames that were not answered are answered with a refusal.
    pub fn run(mut self) -> Result<(), PipelineError> {
        self.wait_for_training();
        loop {
            match self.intake.next_batch(self.group.min(self.buffer.room()), PATIENCE) {
                Next::Frames(frames) => self.take(frames)?,
                Next::Idle => {}
                Next::End => return Ok(self.buffer.sync().map(|_| ())?),
            }
        }
    }

    fn take(&mut self, frames: Vec<Frame>) -> Result<(), PipelineError> {
        let taken = self.number(self.decode(frames));
        if taken.is_empty() {
            return Ok(());
        }
        let observations = self.segment(&taken)?;
        let Remembered { for_training, kept } = self.remember(&taken)?;
        self.keep_for_training(&taken)?;
        let started = Instant::now();
        self.buffer.commit()?;
        observe(Metric::ReplayCommitDuration, &[], started.elapsed());
        self.moments.note(taken.iter().map(|t| (t.id, t.frame.captured_at_ns.unwrap_or(t.frame.received_at_ns))));
        self.label(&taken, &kept);
        self.shared.images_seen(taken.len() as u64);
        let events: Vec<SegmentEvent> = observations.iter().flat_map(|o| o.events.iter().copied()).collect();
        // Before the images, so that the learner knows of a boundary when it learns from what came after it.
        self.tell(&events);
        self.mailbox.push_images(for_training);
        for (taken, observation) in taken.into_iter().zip(&observations) {
            taken.frame.settle(Verdict::Accepted { id: taken.id, task: Some(observation.task.0) });
        }
        self.wait_for_training();
        Ok(())
    }

    /// Where steps are locked to the stream, nothing is committed that a restart could not learn from again.
    fn keep_for_training(&self, taken: &[Taken]) -> Result<(), PipelineError> {
        let Some(lock) = &self.lock else { return Ok(()) };
        taken.iter().try_for_each(|frame| {
            let pending = Pending { id: frame.id, hash: frame.hash, pixels: frame.pixels.clone() };
            lock.append(&pending).map_err(PipelineError::Journal)
        })
    }

    /// Where steps are locked to the stream, it waits for those of a whole batch.
    fn wait_for_training(&self) {
        self.lock.iter().for_each(|lock| lock.wait());
    }

    /// Decodes in parallel; what cannot be decoded is answered here.
    fn decode(&self, mut frames: Vec<Frame>) -> Vec<(Frame, Square)> {
        let (decoder, fit, side) = (&self.decoder, self.fit, self.side);
        let decoded: Vec<Result<Square, DecodeError>> =
            frames.par_iter().map(|frame| square_of(decoder, fit, side, &frame.bytes)).collect();
        let mut good = Vec::with_capacity(frames.len());
        for (mut frame, result) in frames.drain(..).zip(decoded) {
            frame.bytes = bytes::Bytes::new();
            match result {
                Ok(square) => good.push((frame, square)),
                Err(error) => {
                    tracing::warn!(code = error.code(), origin = %frame.origin, "refused: {error}");
                    frame.settle(Verdict::refused(error.code(), error.to_string()));
                }
            }
        }
        good
    }

    /// Gives numbers to new frames; answers those whose bytes were taken lately.
    fn number(&mut self, decoded: Vec<(Frame, Square)>) -> Vec<Taken> {
        let mut taken = Vec::with_capacity(decoded.len());
        for (frame, Square { hash, pixels }) in decoded {
            match self.recent.get(&hash) {
                Some(id) => frame.settle(Verdict::Duplicate { id }),
                None => {
                    let id = self.next;
                    self.next = FrameId(id.0 + 1);
                    self.recent.insert(hash, id);
                    taken.push(Taken { frame, id, hash, pixels });
                }
            }
        }
        taken
    }

    fn segment(&mut self, taken: &[Taken]) -> Result<Vec<Observation>, PipelineError> {
        let frames: Vec<_> = taken.iter().map(|t| (t.frame.source, t.id, t.pixels.as_slice())).collect();
        let mut segmenter = self.segmenter.write().unwrap_or_else(PoisonError::into_inner);
        let observations = segmenter.observe_batch(&frames, self.side as usize)?;
        if observations.iter().any(|o| !o.events.is_empty())
            && let Err(error) = segmenter.register_mut().save()
        {
            // The register is whole in memory and written again with the next change and with the checkpoint.
            tracing::error!(code = error.code(), "the task register could not be written: {error}");
        }
        Ok(observations)
    }

    /// Holds probes out, offers the rest to the replay buffer.
    fn remember(&mut self, taken: &[Taken]) -> Result<Remembered, PipelineError> {
        let segmenter = self.segmenter.read().unwrap_or_else(PoisonError::into_inner);
        let register = segmenter.register();
        let mut probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut for_training, mut kept, mut gone) = (Vec::with_capacity(taken.len()), HashSet::new(), Vec::new());
        for Taken { frame, id, hash, pixels } in taken {
            let wall_time_ns = frame.captured_at_ns.unwrap_or(frame.received_at_ns);
            let record =
                Record { id: *id, source: frame.source, source_sequence: 0, wall_time_ns, content_hash: *hash, pixels };
            let task = register.task_of(frame.source, *id).unwrap_or(TaskId(0));
            if probes.observe(*id, &meta_of(&record), pixels, task)? == Placement::HeldOut {
                kept.insert(*id);
                continue;
            }
            if let Decision::Stored { evicted, .. } = self.buffer.offer(&record)? {
                kept.insert(*id);
                gone.extend(evicted);
            }
            for_training.push(pixels.clone());
        }
        probes.storage_mut().commit()?;
        drop(probes);
        drop(segmenter);
        self.forget_labels(&gone);
        Ok(Remembered { for_training, kept })
    }

    /// Keeps the labels that senders gave, of what is kept itself.
    fn label(&self, taken: &[Taken], kept: &HashSet<FrameId>) {
        let labelled = taken.iter().filter_map(|t| Some((t.id, t.frame.label.as_deref()?)));
        let given: Vec<(FrameId, &str)> = labelled.filter(|(id, _)| kept.contains(id)).collect();
        if !given.is_empty() {
            note_label_failure(self.labels.set(&given));
        }
    }

    /// Labels live as long as their images.
    fn forget_labels(&self, gone: &[FrameId]) {
        let labelled: Vec<FrameId> = gone.iter().copied().filter(|&id| self.labels.get(id).is_some()).collect();
        if !labelled.is_empty() {
            note_label_failure(self.labels.remove(&labelled).map(|_| ()));
        }
    }

    fn tell(&self, events: &[SegmentEvent]) {
        for &event in events {
            let (kind, message) = describe(event);
            if let SegmentEvent::TaskOpened { first, .. } = event {
                self.moments.keep(first);
            }
            self.shared.events.tell(kind, message, json!(event));
            match event {
                SegmentEvent::TaskClosed { task, .. } => self.mailbox.send(Command::TaskClosed(task)),
                SegmentEvent::TaskOpened { task, .. } => self.mailbox.send(Command::TaskOpened(task)),
                SegmentEvent::TasksMerged { gone, .. } => self.mailbox.send(Command::TaskGone(gone)),
                SegmentEvent::TaskReturned { task, provisional, .. }
                | SegmentEvent::BoundaryWithdrawn { task, provisional, .. } => {
                    self.mailbox.send(Command::TaskGone(provisional));
                    self.mailbox.send(Command::TaskOpened(task));
                }
                _ => {}
            }
        }
    }
}

fn note_label_failure(result: Result<(), KnnError>) {
    if let Err(error) = result {
        tracing::error!(code = error.code(), "labels could not be written: {error}");
    }
}

/// The stable name and the line for people.
fn describe(event: SegmentEvent) -> (&'static str, String) {
    match event {
        SegmentEvent::Warning { task, frame, statistic } => {
            ("drift-warning", format!("frame {frame} is unusual for task {task} (statistic {statistic:.1})"))
        }
        SegmentEvent::TaskClosed { task, last } => ("task-closed", format!("task {task} ended with frame {last}")),
        SegmentEvent::TaskOpened { task, first, detected_at, .. } => {
            ("task-opened", format!("task {task} began with frame {first}, noticed at frame {detected_at}"))
        }
        SegmentEvent::TaskReturned { task, first, provisional, .. } => (
            "task-returned",
            format!("task {task} is back since frame {first} (it was called task {provisional} until now)"),
        ),
        SegmentEvent::BoundaryWithdrawn { task, first, .. } => {
            ("boundary-withdrawn", format!("task {task} goes on: nothing changed at frame {first}"))
        }
        SegmentEvent::TasksMerged { kept, gone, .. } => {
            ("tasks-merged", format!("task {gone} is part of task {kept} now: there were more tasks than the limit"))
        }
    }
}

/// Decodes within the limits and makes the encoder's square.
fn square_of(decoder: &Decoder, fit: Fit, side: u32, bytes: &[u8]) -> Result<Square, DecodeError> {
    let started = Instant::now();
    let pixels = to_square(&decoder.decode(bytes)?, side, fit).into_pixels();
    observe(Metric::DecodeDuration, &[], started.elapsed());
    Ok(Square { hash: hash_of(bytes), pixels })
}

fn meta_of(record: &Record<'_>) -> SlotMeta {
    let &Record { id, source, source_sequence, wall_time_ns, content_hash, .. } = record;
    SlotMeta { id, source, source_sequence, wall_time_ns, content_hash, tag: 0 }
}

/// First 16 bytes of the BLAKE3 hash.
fn hash_of(bytes: &[u8]) -> [u8; 16] {
    let mut hash = [0; 16];
    hash.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    hash
}

/// The bytes taken lately.
#[derive(Debug, Default)]
pub struct Recent {
    ids: HashMap<[u8; 16], FrameId>,
    order: VecDeque<[u8; 16]>,
}

impl Recent {
    /// From what is stored, in the order of the frames: a frame sent again after a restart is known.
    pub fn of(mut stored: Vec<(FrameId, [u8; 16])>) -> Self {
        stored.sort_unstable_by_key(|(id, _)| *id);
        let mut recent = Self::default();
        stored.into_iter().for_each(|(id, hash)| recent.insert(hash, id));
        recent
    }

    fn get(&self, hash: &[u8; 16]) -> Option<FrameId> {
        self.ids.get(hash).copied()
    }

    fn insert(&mut self, hash: [u8; 16], id: FrameId) {
        if self.ids.insert(hash, id).is_none() {
            self.order.push_back(hash);
        }
        if self.order.len() > DUPLICATE_WINDOW
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: usize) -> [u8; 16] {
        hash_of(&number.to_le_bytes())
    }

    #[test]
    fn recent_bytes_are_known_for_a_window_and_then_forgotten() {
        let mut recent = Recent::of(vec![(FrameId(2), hash(2)), (FrameId(1), hash(1))]);
        assert_eq!(recent.get(&hash(1)), Some(FrameId(1)));
        for number in 3..=DUPLICATE_WINDOW + 1 {
            recent.insert(hash(number), FrameId(number as u64));
        }
        assert_eq!(recent.get(&hash(1)), None, "the oldest makes room");
        assert_eq!(recent.get(&hash(2)), Some(FrameId(2)));
        assert_eq!((recent.ids.len(), recent.order.len()), (DUPLICATE_WINDOW, DUPLICATE_WINDOW));
    }
}
