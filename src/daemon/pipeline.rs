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

use super::answers::DaemonState;
use super::features::FeatureSupply;
use super::learner::Command;
use super::lockstep::{LockStep, Pending, is_full};
use super::mailbox::Mailbox;
use super::moments::Moments;
use super::probe_file::ProbeFile;
use super::requests::{Request, Requests};
use super::shared::Shared;
use super::unwritten::{Unwritten, insist};
use crate::config::Fit;
use crate::decode::{DecodeError, Decoder, to_square};
use crate::evaluate::{EvaluateError, Placement, ProbeSets};
use crate::knn::Labels;
use crate::replay::{Decision, Record, ReplayBuffer, ReplayError};
use crate::segment::{Observation, SegmentError, SegmentEvent, Segmenter, TaskId};
use crate::stream::{Frame, FrameId, Intake, Next, Verdict};
use crate::telemetry::{Metric, observe};

/// How long the thread waits for a frame before it looks whether it shall end.
const PATIENCE: Duration = Duration::from_millis(200);

/// Stored images whose checksum is looked at after each group, and while nothing comes: a buffer of 4,096 is gone through
/// in less than a minute of silence.
const SCRUBBED_AT_ONCE: usize = 16;

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
    pub requests: Arc<Requests>,
    pub unwritten: Unwritten,
    pub features: FeatureSupply,
    /// Slot at which the background check goes on.
    pub scrub: usize,
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

impl Taken {
    fn record(&self) -> Record<'_> {
        let Self { frame, id, hash, pixels } = self;
        let wall_time_ns = frame.captured_at_ns.unwrap_or(frame.received_at_ns);
        Record { id: *id, source: frame.source, source_sequence: 0, wall_time_ns, content_hash: *hash, pixels }
    }
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
            self.attend()?;
            match self.intake.next_batch(self.group.min(self.buffer.room()), PATIENCE) {
                Next::Frames(frames) => self.take(frames)?,
                Next::Idle => {
                    self.write_rest();
                    self.look_after_stored();
                }
                Next::End => {
                    self.write_rest();
                    return Ok(self.buffer.sync().map(|_| ())?);
                }
            }
        }
    }

    /// Does what readers have asked for.
    fn attend(&mut self) -> Result<(), PipelineError> {
        while let Some(Request::Forget { frames, reply }) = self.requests.pop() {
            let gone = self.forget(&frames);
            // Whoever asked may have gone.
            let _ = reply.send(gone.as_ref().cloned().map_err(ToString::to_string));
            gone?;
        }
        Ok(())
    }

    /// Removes images from the replay buffer and from the probes; those that were there.
    fn forget(&mut self, frames: &[FrameId]) -> Result<Vec<FrameId>, PipelineError> {
        let mut gone = Vec::new();
        for &frame in frames {
            if self.buffer.forget(frame)? {
                gone.push(frame);
            }
        }
        let mut probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        let held: Vec<FrameId> = frames.iter().copied().filter(|frame| probes.contains(*frame)).collect();
        if !held.is_empty() {
            probes.forget(&held)?;
            probes.storage_mut().erase_free()?;
            gone.extend(held);
        }
        Ok(gone)
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
        self.insist(ReplayBuffer::commit)?;
        observe(Metric::ReplayCommitDuration, &[], started.elapsed());
        self.moments.note(taken.iter().map(|t| (t.id, t.frame.captured_at_ns.unwrap_or(t.frame.received_at_ns))));
        self.label(&taken, &kept);
        self.shared.images_seen(taken.len() as u64);
        let events: Vec<SegmentEvent> = observations.iter().flat_map(|o| o.events.iter().copied()).collect();
        // Before the images, so that the learner knows of a boundary when it learns from what came after it.
        announce(&events, &self.shared, &self.moments, &self.mailbox);
        self.mailbox.push_images(for_training);
        for (taken, observation) in taken.into_iter().zip(&observations) {
            taken.frame.settle(Verdict::Accepted { id: taken.id, task: Some(observation.task.0) });
        }
        self.write_rest();
        self.look_after_stored();
        self.wait_for_training();
        Ok(())
    }

    /// A little work on what is stored: checksums, and features where the policy keeps some.
    fn look_after_stored(&mut self) {
        let (next, checked) = self.buffer.reader().scrub(self.scrub, SCRUBBED_AT_ONCE);
        self.scrub = next;
        self.shared.scrubbed(checked as u64);
        self.features.renew(&mut self.buffer);
    }

    /// Where steps are locked to the stream, nothing is committed that a restart could not learn from again.
    fn keep_for_training(&self, taken: &[Taken]) -> Result<(), PipelineError> {
        let Some(lock) = &self.lock else { return Ok(()) };
        taken.iter().try_for_each(|frame| {
            let pending = Pending { id: frame.id, hash: frame.hash, pixels: frame.pixels.clone() };
            loop {
                match lock.append(&pending) {
                    Err(error) if is_full(&error) && self.shared.state() != DaemonState::Draining => {
                        std::thread::sleep(PATIENCE);
                    }
                    other => return other.map_err(PipelineError::Journal),
                }
            }
        })
    }

    /// Where steps are locked to the stream, it waits for those of a whole batch.
    fn wait_for_training(&self) {
        self.lock.iter().for_each(|lock| lock.wait());
    }

    /// Writes to the replay buffer, again and again while the disk is full and the daemon is not asked to stop.
    fn insist<T>(
        &mut self,
        mut write: impl FnMut(&mut ReplayBuffer) -> Result<T, ReplayError>,
    ) -> Result<T, ReplayError> {
        let (buffer, shared) = (&mut self.buffer, &self.shared);
        insist(|| shared.state() != DaemonState::Draining, || write(buffer))
    }

    /// Writes to the database what changed. What it does not take is written later: the database says when it fails and
    /// when it is well again.
    fn write_rest(&mut self) {
        if self.unwritten.boundaries {
            let mut segmenter = self.segmenter.write().unwrap_or_else(PoisonError::into_inner);
            match segmenter.register_mut().save() {
                Ok(()) => self.unwritten.boundaries = false,
                Err(error) => tracing::debug!(code = error.code(), "the register of tasks waits: {error}"),
            }
        }
        if let Err(error) = self.moments.save() {
            tracing::debug!("beginnings of tasks wait: {error}");
        }
        if let Err(error) = self.unwritten.write_labels(&self.labels) {
            tracing::debug!(code = error.code(), "labels wait: {error}");
        }
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
        taken.last().into_iter().for_each(|newest| segmenter.tell_time(newest.frame.received_at_ns));
        let observations = segmenter.observe_batch(&frames, self.side as usize)?;
        self.unwritten.boundaries |= observations.iter().any(|o| !o.events.is_empty());
        Ok(observations)
    }

    /// Holds probes out, offers the rest to the replay buffer.
    fn remember(&mut self, taken: &[Taken]) -> Result<Remembered, PipelineError> {
        let mut kept = self.hold_out(taken)?;
        let offered: Vec<&Taken> = taken.iter().filter(|taken| !kept.contains(&taken.id)).collect();
        let features = self.features_of(&offered);
        let mut for_training = Vec::with_capacity(offered.len());
        for (at, taken) in offered.into_iter().enumerate() {
            let feature = features.get(at).map(Vec::as_slice);
            if let Decision::Stored { evicted, .. } = self.offer(&taken.record(), feature)? {
                kept.insert(taken.id);
                // Labels live as long as their images.
                evicted.into_iter().for_each(|gone| self.unwritten.forget(gone, &self.labels));
            }
            for_training.push(taken.pixels.clone());
        }
        Ok(Remembered { for_training, kept })
    }

    /// The frames that became probes.
    fn hold_out(&self, taken: &[Taken]) -> Result<HashSet<FrameId>, PipelineError> {
        let segmenter = self.segmenter.read().unwrap_or_else(PoisonError::into_inner);
        let mut probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut held = HashSet::new();
        for taken in taken {
            let task = segmenter.register().task_of(taken.frame.source, taken.id).unwrap_or(TaskId(0));
            let meta = taken.record().meta();
            if probes.observe(taken.id, &meta, &taken.pixels, task)? == Placement::HeldOut {
                held.insert(taken.id);
            }
        }
        probes.storage_mut().commit()?;
        Ok(held)
    }

    /// In their order; empty where the policy wants none.
    fn features_of(&mut self, offered: &[&Taken]) -> Vec<Vec<f32>> {
        if offered.is_empty() || self.buffer.features().is_none() {
            return Vec::new();
        }
        let pixels: Vec<&[u8]> = offered.iter().map(|taken| taken.pixels.as_slice()).collect();
        self.features.of(&mut self.buffer, &pixels.concat())
    }

    fn offer(&mut self, record: &Record<'_>, feature: Option<&[f32]>) -> Result<Decision, ReplayError> {
        loop {
            match self.insist(|buffer| buffer.offer_with(record, feature)) {
                // Writes that the disk refused count for the group, too.
                Err(ReplayError::GroupFull { .. }) => drop(self.insist(ReplayBuffer::commit)?),
                other => return other,
            }
        }
    }

    /// Keeps the labels that senders gave, of what is kept itself.
    fn label(&mut self, taken: &[Taken], kept: &HashSet<FrameId>) {
        for taken in taken.iter().filter(|taken| kept.contains(&taken.id)) {
            if let Some(label) = &taken.frame.label {
                self.unwritten.label(taken.id, label);
            }
        }
    }
}

/// Tells what happened to the tasks: to those who read, and to the learner.
pub fn announce(events: &[SegmentEvent], shared: &Shared, moments: &Moments, mailbox: &Mailbox<Command>) {
    for &event in events {
        let (kind, message) = describe(event);
        if let SegmentEvent::TaskOpened { first, .. } = event {
            moments.keep(first);
        }
        shared.events.tell(kind, message, json!(event));
        match event {
            SegmentEvent::TaskClosed { task, .. } => mailbox.send(Command::TaskClosed(task)),
            SegmentEvent::TaskOpened { task, .. } => mailbox.send(Command::TaskOpened(task)),
            SegmentEvent::TasksMerged { gone, .. } => mailbox.send(Command::TaskGone(gone)),
            SegmentEvent::TaskReturned { task, provisional, .. }
            | SegmentEvent::BoundaryWithdrawn { task, provisional, .. } => {
                mailbox.send(Command::TaskGone(provisional));
                mailbox.send(Command::TaskOpened(task));
            }
            _ => {}
        }
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

/// First 16 bytes of the BLAKE3 hash.
fn hash_of(bytes: &[u8]) -> [u8; 16] {
    let mut hash = [0; 16];
    hash.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    hash
}

/// The bytes taken lately, so that a frame sent again is answered and not taken twice.
#[derive(Debug)]
pub struct Recent {
    ids: HashMap<[u8; 16], FrameId>,
    order: VecDeque<[u8; 16]>,
    window: usize,
}

impl Recent {
    /// From what is stored, in the order of the frames: a frame sent again after a restart is known. `window`: frames
    /// remembered.
    pub fn of(mut stored: Vec<(FrameId, [u8; 16])>, window: usize) -> Self {
        stored.sort_unstable_by_key(|(id, _)| *id);
        let mut recent = Self { ids: HashMap::new(), order: VecDeque::new(), window };
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
        if self.order.len() > self.window
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
        let mut recent = Recent::of(vec![(FrameId(2), hash(2)), (FrameId(1), hash(1))], 100);
        assert_eq!(recent.get(&hash(1)), Some(FrameId(1)));
        for number in 3..=101 {
            recent.insert(hash(number), FrameId(number as u64));
        }
        assert_eq!(recent.get(&hash(1)), None, "the oldest makes room");
        assert_eq!(recent.get(&hash(2)), Some(FrameId(2)));
        assert_eq!((recent.ids.len(), recent.order.len()), (100, 100));
        let mut none = Recent::of(vec![], 0);
        none.insert(hash(1), FrameId(1));
        assert_eq!(none.get(&hash(1)), None, "a window of nothing remembers nothing");
    }
}
