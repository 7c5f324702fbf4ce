//! A daemon in memory, for the tests of those who ask.
//!
//! Its images are texts: `image:WORDS` decodes, `short:` is cut, `huge:` is too large, `panic:` panics, `full:` meets a full queue,
//! `slow:` waits until [`Fake::release`]. An image's embedding is its last byte as an angle, so that neighbours are predictable.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::*;

pub(crate) struct Fake {
    latest: watch::Sender<u64>,
    memory: Mutex<Memory>,
    released: Mutex<bool>,
    release: Condvar,
}

#[derive(Default)]
struct Memory {
    images: BTreeMap<u64, (StoredImage, Bytes)>,
    unready: bool,
    paused: Option<Timestamp>,
    /// Numbers of the events that happened beyond the first five.
    further: u64,
    stopping: bool,
    name: Option<String>,
    boundaries: u32,
}

const ENCODER: &str = "0123abcd";

impl Fake {
    /// Six images of two tasks from two sources, the first two labelled.
    pub(crate) fn new() -> Self {
        let fake = Self {
            latest: watch::Sender::new(5),
            memory: Mutex::default(),
            released: Mutex::default(),
            release: Condvar::new(),
        };
        for number in 1..=6_u8 {
            let image = Bytes::from(format!("image:{}", char::from(b'a' + number)));
            let source = if number % 2 == 0 { "even" } else { "odd" };
            fake.ingest(PostedFrame { image, source: Some(source.into()), label: None }).unwrap();
        }
        fake.set_label(&Label::new("cat").unwrap(), &[1, 2]).unwrap();
        fake
    }

    pub(crate) fn unready() -> Self {
        let fake = Self::new();
        fake.memory().unready = true;
        fake
    }

    /// Lets one more event happen.
    pub(crate) fn happen(&self) {
        self.memory().further += 1;
        self.latest.send_modify(|latest| *latest += 1);
    }

    /// From here on the daemon says that it stops.
    pub(crate) fn stopping(&self) {
        self.memory().stopping = true;
        self.happen();
    }

    /// Lets every `slow:` image go on.
    pub(crate) fn release(&self) {
        *self.released.lock().unwrap() = true;
        self.release.notify_all();
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap()
    }

    fn decode(&self, image: &[u8]) -> Result<f64, AnswerError> {
        let text = String::from_utf8_lossy(image);
        match text.split_once(':').unwrap_or((&text, "")).0 {
            "image" => {}
            "short" => return Err(AnswerError::TruncatedImage { detail: "it ends after 6 bytes".into() }),
            "huge" => return Err(AnswerError::TooLarge { detail: "9000 pixels wide, at most 8192".into() }),
            "full" => return Err(AnswerError::Overloaded { what: "the queue of source http" }),
            "panic" => panic!("a test's panic"),
            "slow" => drop(self.release.wait_while(self.released.lock().unwrap(), |released| !*released).unwrap()),
            _ => {
                return Err(AnswerError::NotAnImage {
                    detail: "the bytes are no JPEG, PNG, WebP, BMP or PNM image".into(),
                });
            }
        }
        Ok(f64::from(*image.last().unwrap()) / 100.0)
    }

    fn angle(&self, subject: &Subject) -> Result<f64, AnswerError> {
        let image = match subject {
            Subject::Encoded(image) => image.clone(),
            Subject::Stored(id) => self.memory().images.get(id).ok_or(AnswerError::UnknownImage { id: *id })?.1.clone(),
            Subject::Vector { encoder: Some(given), .. } if given != ENCODER => {
                return Err(AnswerError::OtherEncoder { given: given.clone(), published: ENCODER.into() });
            }
            Subject::Vector { vector, .. } if vector.len() != 2 => {
                let detail = format!("`vector` must have 2 numbers, not {}", vector.len());
                return Err(AnswerError::Invalid { field: "vector", detail, remedy: "send an embedding" });
            }
            Subject::Vector { vector, .. } => return Ok(f64::from(vector[1]).atan2(f64::from(vector[0]))),
        };
        let angle = self.decode(&image)?;
        if self.memory().unready { Err(AnswerError::NoEncoderYet) } else { Ok(angle) }
    }

    fn relabel(&self, label: Option<&Label>, ids: &[u64]) -> Result<LabelChange, AnswerError> {
        let mut memory = self.memory();
        if let Some(id) = ids.iter().find(|id| !memory.images.contains_key(id)) {
            return Err(AnswerError::UnknownImage { id: *id });
        }
        let label = label.map(ToString::to_string);
        let mut changed = 0;
        for id in ids {
            let stored = &mut memory.images.get_mut(id).unwrap().0;
            changed += u64::from(stored.label != label);
            stored.label.clone_from(&label);
        }
        Ok(LabelChange { label, changed })
    }
}

impl Answers for Fake {
    fn readiness(&self) -> Readiness {
        let unready = self.memory().unready;
        Readiness { ready: !unready, waiting_for: if unready { vec!["the first encoder".into()] } else { vec![] } }
    }

    fn status(&self) -> Status {
        // Taken apart before: a lock within the expression would be held until its end.
        let (unready, stopping, paused_since) = {
            let memory = self.memory();
            (memory.unready, memory.stopping, memory.paused)
        };
        Status {
            version: "0.1.0".into(),
            state: match (unready, stopping) {
                (true, _) => DaemonState::Starting,
                (false, true) => DaemonState::Draining,
                (false, false) => DaemonState::Running,
            },
            uptime_seconds: 61.5,
            device: DeviceStatus { asked: "auto".into(), taken: "cpu (2 threads)".into(), reason: "no GPU".into() },
            preset: "resnet18-w16".into(),
            encoder: (!unready).then(|| EncoderStatus {
                version: 3,
                id: ENCODER.into(),
                published_at: timestamp(0),
                step: 120,
            }),
            stream: StreamStatus { received: 7, accepted: 6, accepted_per_second: 0.1 },
            learn: LearnStatus {
                objective: "simclr".into(),
                strategy: "lump".into(),
                steps: 130,
                loss: (!unready).then_some(4.25),
                images_trained: 6,
                skipped_for_training: 0,
                nonfinite_steps: 0,
                out_of_bounds_steps: 0,
                rollbacks: 0,
                halved: false,
                images_per_second: 12.5,
                idle: true,
                frozen: None,
                paused_since,
            },
            segment: SegmentStatus {
                phase: "stable".into(),
                statistic: Some(1.5),
                threshold: None,
                warning: false,
                current_tasks: vec![2],
                duplicates_skipped: 0,
                calibration: Some(CalibrationStatus {
                    frames_between_false_alarms: 50_000,
                    hours_between_false_alarms: None,
                    distinct_frames_per_hour: None,
                    warning_threshold: 2.5,
                    reference_frames: 64,
                    reference_wanted: 512,
                    variance_ratio: Some(1.25),
                }),
            },
            buffer: self.buffer().summary,
            checkpoint: None,
            database: DatabaseStatus { writable: true, error: None, failures: 0, recoveries: 0 },
            resident_bytes: Some(100 << 20),
            device_memory: None,
        }
    }

    fn sources(&self) -> Vec<SourceStatus> {
        vec![SourceStatus {
            name: "camera".into(),
            kind: "directory".into(),
            address: "frames".into(),
            state: SourceState::Failed,
            error: Some("the folder is gone".into()),
            received: 9,
            accepted: 6,
            duplicates: 1,
            refused: BTreeMap::from([("not-an-image".into(), 2)]),
            dropped: 0,
            queued_bytes: 0,
            last_frame_at: Some(timestamp(1_000_000_000)),
        }]
    }

    fn tasks(&self) -> Vec<TaskStatus> {
        let task = |id: u32, first_frame: u64, current: bool| TaskStatus {
            id,
            name: self.memory().name.clone().filter(|_| id == 1).unwrap_or_else(|| format!("task-{id}")),
            spans: vec![TaskSpan {
                first_frame,
                last_frame: (!current).then_some(first_frame + 2),
                started_at: Some(timestamp(0)),
                ended_at: (!current).then(|| timestamp(5_000_000_000)),
                uncertainty_frames: 2,
            }],
            first_frame,
            last_frame: first_frame + 2,
            frames: 3,
            current,
            returns: 0,
            probes: 1,
            exemplars: vec![first_frame],
            varied_exemplars: vec![first_frame + 1],
            duplicates: 0,
            parent: (id > 1).then(|| id - 1),
        };
        let boundaries = self.memory().boundaries;
        let mut tasks = vec![task(1, 1, false), task(2, 4, boundaries == 0)];
        tasks.extend((0..boundaries).map(|at| task(3 + at, 7, at + 1 == boundaries)));
        tasks
    }

    fn task(&self, id: u32) -> Result<TaskStatus, AnswerError> {
        self.tasks().into_iter().find(|task| task.id == id).ok_or(AnswerError::UnknownTask { id })
    }

    fn buffer(&self) -> BufferStatus {
        let memory = self.memory();
        let used = memory.images.len() as u64;
        BufferStatus {
            summary: BufferSummary { slots: 16, used, seen: used, evicted: 0, damaged: 0, bytes: 65536 },
            policy: "reservoir".into(),
            durability: "sync".into(),
            side_pixels: 32,
            labelled: memory.images.values().filter(|(stored, _)| stored.label.is_some()).count() as u64,
            composition: vec![TaskShare { task: Some(1), images: 3 }, TaskShare { task: None, images: used - 3 }],
        }
    }

    fn image(&self, id: u64) -> Result<StoredImage, AnswerError> {
        self.memory().images.get(&id).map(|(stored, _)| stored.clone()).ok_or(AnswerError::UnknownImage { id })
    }

    fn thumbnail(&self, id: u64) -> Result<Vec<u8>, AnswerError> {
        self.image(id).map(|stored| format!("\u{89}PNG {}", stored.id).into_bytes())
    }

    fn query(&self, subject: &Subject, page: &Page, filter: &Filter) -> Result<Neighbours, AnswerError> {
        let angle = self.angle(subject)?;
        if let Some(id) = filter.task.filter(|id| *id > 2) {
            return Err(AnswerError::UnknownTask { id });
        }
        if let Some(name) = filter.source.as_ref().filter(|name| !["odd", "even"].contains(&name.as_str())) {
            return Err(AnswerError::UnknownSource { name: name.clone() });
        }
        let memory = self.memory();
        let fits = |stored: &StoredImage| {
            filter.task.is_none_or(|task| stored.task == Some(task))
                && filter.source.as_ref().is_none_or(|source| stored.source == *source)
                && filter.label.as_ref().is_none_or(|label| stored.label.as_ref() == Some(label))
                && filter.since.is_none_or(|since| stored.captured_at >= since)
                && filter.until.is_none_or(|until| stored.captured_at < until)
                && *subject != Subject::Stored(stored.id)
        };
        let score = |image: &Bytes| (angle - f64::from(*image.last().unwrap()) / 100.0).cos();
        let fitting = memory.images.values().filter(|(stored, _)| fits(stored));
        let mut neighbours: Vec<_> =
            fitting.map(|(stored, image)| Neighbour { image: stored.clone(), score: score(image) }).collect();
        neighbours.sort_by(|a, b| b.score.total_cmp(&a.score));
        let end = page.offset + page.k.unwrap_or(2);
        let next = (neighbours.len() > end).then_some(end as u64);
        neighbours.truncate(end);
        neighbours.drain(..page.offset.min(neighbours.len()));
        Ok(Neighbours { encoder: ENCODER.into(), encoder_version: 3, neighbours, next })
    }

    fn query_batch(
        &self,
        subjects: &[Subject],
        k: Option<usize>,
        filter: &Filter,
    ) -> Result<NeighbourBatch, AnswerError> {
        let page = Page { k, offset: 0 };
        let of = |(place, subject): (usize, &Subject)| match self.query(subject, &page, filter) {
            Ok(found) => Ok(found.neighbours),
            Err(error) => Err(AnswerError::InBatch { place, error: Box::new(error) }),
        };
        let results = subjects.iter().enumerate().map(of).collect::<Result<_, _>>()?;
        Ok(NeighbourBatch { encoder: ENCODER.into(), encoder_version: 3, results })
    }

    fn embed(&self, subject: &Subject) -> Result<Embedding, AnswerError> {
        let angle = self.angle(subject)?;
        Ok(Embedding {
            encoder: ENCODER.into(),
            encoder_version: 3,
            vector: vec![angle.cos() as f32, angle.sin() as f32],
        })
    }

    fn embed_batch(&self, subjects: &[Subject]) -> Result<EmbeddingBatch, AnswerError> {
        let vectors = subjects.iter().map(|subject| self.embed(subject).map(|embedding| embedding.vector));
        Ok(EmbeddingBatch { encoder: ENCODER.into(), encoder_version: 3, vectors: vectors.collect::<Result<_, _>>()? })
    }

    fn classify(
        &self,
        subject: &Subject,
        k: Option<usize>,
        temperature: Option<f64>,
    ) -> Result<Classification, AnswerError> {
        let labels = self.labels();
        let near = self.query(subject, &Page { k, offset: 0 }, &Filter::default())?;
        let neighbours: Vec<_> = near.neighbours.into_iter().filter(|near| near.image.label.is_some()).collect();
        let label = labels.first().map(|entry| entry.label.clone());
        let probabilities =
            label.iter().map(|label| LabelProbability { label: label.clone(), probability: 1.0 }).collect();
        Ok(Classification {
            encoder: ENCODER.into(),
            encoder_version: 3,
            label,
            probabilities,
            k: k.unwrap_or(2),
            temperature: temperature.unwrap_or(0.1),
            neighbours,
        })
    }

    fn labels(&self) -> Vec<LabelCount> {
        let mut counts = BTreeMap::new();
        for label in self.memory().images.values().filter_map(|(stored, _)| stored.label.clone()) {
            *counts.entry(label).or_insert(0) += 1;
        }
        counts.into_iter().map(|(label, images)| LabelCount { label, images }).collect()
    }

    fn labelled(&self, label: &Label) -> Vec<u64> {
        let memory = self.memory();
        let carries = |stored: &StoredImage| stored.label.as_deref() == Some(label.as_str());
        memory.images.values().filter(|(stored, _)| carries(stored)).map(|(stored, _)| stored.id).collect()
    }

    fn set_label(&self, label: &Label, ids: &[u64]) -> Result<LabelChange, AnswerError> {
        self.relabel(Some(label), ids)
    }

    fn remove_labels(&self, ids: &[u64]) -> Result<LabelChange, AnswerError> {
        self.relabel(None, ids)
    }

    fn forgetting(&self) -> Value {
        json!({"mean_retained": null, "tasks": [{"task": 1, "retained": 0.9}, {"task": 2, "retained": null}]})
    }

    fn accuracy(&self) -> Value {
        json!({"tasks": [1, 2], "matrix": [[0.9, null], [0.8, 0.7]]})
    }

    fn events(&self, after: u64, limit: usize) -> Events {
        let event = |sequence| Event {
            sequence,
            at: timestamp(0),
            kind: "task-opened".into(),
            message: format!("task {sequence} begins"),
            data: json!({"task": sequence}),
        };
        let last = 5 + self.memory().further;
        let events: Vec<_> = (1..=last).filter(|sequence| *sequence > after).take(limit).map(event).collect();
        let next = events.last().map_or(after, |event| event.sequence);
        Events { events, oldest: Some(1), next }
    }

    fn ingest(&self, frame: PostedFrame) -> Result<Ingested, AnswerError> {
        self.decode(&frame.image)?;
        let mut memory = self.memory();
        if let Some((stored, _)) = memory.images.values().find(|(_, image)| *image == frame.image) {
            return Ok(Ingested { outcome: IngestOutcome::Duplicate, id: Some(stored.id) });
        }
        let id = memory.images.len() as u64 + 1;
        let task = if id <= 3 { 1 } else { 2 };
        let source = frame.source.unwrap_or_else(|| "http".into());
        let stored = StoredImage::new(id, Some(task), timestamp(id as i64), source, frame.label.map(String::from));
        memory.images.insert(id, (stored, frame.image));
        Ok(Ingested { outcome: IngestOutcome::Accepted, id: Some(id) })
    }
}

impl Controls for Fake {
    fn pause_training(&self) -> TrainingState {
        let mut memory = self.memory();
        memory.paused = Some(timestamp(0));
        TrainingState { paused_since: memory.paused, frozen: None, steps: 130 }
    }

    fn resume_training(&self) -> TrainingState {
        self.memory().paused = None;
        TrainingState { paused_since: None, frozen: None, steps: 130 }
    }

    fn checkpoint_now(&self) -> Result<CheckpointStatus, AnswerError> {
        Ok(CheckpointStatus { written_at: timestamp(0), age_seconds: 0.0, step: 130 })
    }

    fn mark_boundary(&self, source: Option<&str>, name: Option<&str>) -> Result<TaskStatus, AnswerError> {
        if let Some(name) = source.filter(|name| !["odd", "even"].contains(name)) {
            return Err(AnswerError::UnknownSource { name: name.into() });
        }
        let id = {
            let mut memory = self.memory();
            memory.boundaries += 1;
            2 + memory.boundaries
        };
        let task = self.task(id)?;
        let name = name.map_or_else(|| task.name.clone(), str::to_owned);
        Ok(TaskStatus { name, frames: 0, last_frame: task.first_frame - 1, ..task })
    }

    fn rename_task(&self, id: u32, name: &str) -> Result<TaskStatus, AnswerError> {
        if name.is_empty() {
            let detail = "a task's name has 1 to 64 characters".into();
            return Err(AnswerError::Invalid { field: "name", detail, remedy: "choose another name" });
        }
        self.task(id)?;
        self.memory().name = Some(name.into());
        self.task(id)
    }

    fn merge_tasks(&self, a: u32, b: u32) -> Result<TaskStatus, AnswerError> {
        if a == b {
            let detail = format!("tasks {a} and {b} cannot be merged");
            return Err(AnswerError::Invalid { field: "tasks", detail, remedy: "name two different tasks" });
        }
        self.task(b)?;
        self.task(a)
    }

    fn forget_images(&self, ids: &[u64]) -> Result<Forgotten, AnswerError> {
        let mut memory = self.memory();
        let (known, unknown): (Vec<u64>, Vec<u64>) = ids.iter().partition(|id| memory.images.contains_key(id));
        known.iter().for_each(|id| drop(memory.images.remove(id)));
        Ok(Forgotten { forgotten: known.len() as u64, unknown })
    }
}

impl Surveys for Fake {
    fn images(
        &self,
        filter: &Filter,
        newest_first: bool,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<StoredImage>, AnswerError> {
        let memory = self.memory();
        let beyond = |id: u64| after.is_none_or(|after| if newest_first { id < after } else { id > after });
        let fits = |stored: &&StoredImage| {
            beyond(stored.id)
                && filter.task.is_none_or(|task| stored.task == Some(task))
                && filter.since.is_none_or(|since| stored.captured_at >= since)
        };
        let mut images: Vec<_> = memory.images.values().map(|(stored, _)| stored).filter(fits).cloned().collect();
        if newest_first {
            images.reverse();
        }
        images.truncate(limit);
        Ok(images)
    }

    fn history(&self, _: Option<Timestamp>) -> History {
        History { interval_seconds: 2.0, samples: vec![] }
    }

    fn forgetting_history(&self) -> Value {
        json!([])
    }

    fn map(&self, _: usize) -> Result<EmbeddingMap, AnswerError> {
        let points = vec![MapPoint { id: 1, task: Some(1), label: None, x: 0.5, y: -0.5 }];
        let (encoder, explained) = (ENCODER.into(), vec![Some(0.5), Some(0.25)]);
        Ok(EmbeddingMap { encoder, encoder_version: 3, explained, rows: 6, points })
    }

    fn embeddings(&self, _: &Filter, after: u64, limit: usize) -> Result<EmbeddingRows, AnswerError> {
        let all: Vec<u64> = self.memory().images.keys().copied().filter(|id| *id > after).collect();
        let rows: Vec<_> =
            all.iter().take(limit).map(|id| EmbeddingRow { id: *id, vector: vec![1.0, *id as f32] }).collect();
        let next = (all.len() > limit).then(|| rows.last().map(|row| row.id)).flatten();
        Ok(EmbeddingRows { encoder: ENCODER.into(), encoder_version: 3, width: 2, rows, next })
    }

    fn bank_file(&self) -> Result<ExportedFile, AnswerError> {
        Ok(ExportedFile { encoder: ENCODER.into(), encoder_version: 3, bytes: b"bank".to_vec() })
    }

    fn encoder_file(&self) -> Result<ExportedFile, AnswerError> {
        Ok(ExportedFile { encoder: ENCODER.into(), encoder_version: 3, bytes: b"encoder".to_vec() })
    }

    fn follow_events(&self) -> watch::Receiver<u64> {
        self.latest.subscribe()
    }
}
