//! The daemon's answers: published state, read from any thread.

mod controls;
mod questions;
mod sampling;
mod surveys;
mod tables;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use arc_swap::ArcSwap;
use serde_json::Value;
use tokio::runtime::Handle;

use super::answers::{
    AnswerError, Answers, BufferStatus, Classification, Embedding, EmbeddingBatch, Events, Filter, Ingested, Label,
    LabelChange, LabelCount, NeighbourBatch, Neighbours, Page, PostedFrame, Readiness, SourceStatus, Status,
    StoredImage, Subject, TaskStatus,
};
use super::learner::Command;
use super::mailbox::Mailbox;
use super::moments::Moments;
use super::probe_file::ProbeFile;
use super::published::{Input, Published};
use super::requests::Requests;
use super::shared::Shared;
use crate::config::Config;
use crate::config::durable::Database;
use crate::decode::Decoder;
use crate::evaluate::ProbeSets;
use crate::knn::Labels;
use crate::replay::StoreReader;
use crate::segment::Segmenter;
use crate::stream::{Inlet, IntakeHandle, SourceId};

pub use sampling::Watch;
pub use surveys::CachedMap;

/// One inlet as it was opened.
#[derive(Clone)]
pub struct Opened {
    pub name: String,
    /// `directory`, `unix`, `tcp` or `http`.
    pub kind: String,
    /// The folder, the socket or the address.
    pub address: String,
    /// The failure that ended it, if one did.
    pub failure: Arc<Mutex<Option<String>>>,
}

/// The name of a setting or a state, as configuration files and answers write it.
pub fn name_of(value: impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(name)) => name,
        other => format!("{other:?}"),
    }
}

/// Implements [`Answers`] on what the threads of the daemon publish.
pub struct Live {
    /// As of the latest reload.
    pub settings: Arc<ArcSwap<Config>>,
    pub shared: Arc<Shared>,
    pub input: Input,
    pub decoder: Decoder,
    pub buffer: StoreReader,
    pub segmenter: Arc<RwLock<Segmenter>>,
    pub probes: Arc<Mutex<ProbeSets<ProbeFile>>>,
    pub labels: Arc<Labels>,
    pub moments: Arc<Moments>,
    pub database: Arc<Database>,
    pub mailbox: Arc<Mailbox<Command>>,
    pub intake: IntakeHandle,
    pub opened: Vec<Opened>,
    /// Inlets that an image may be posted to, by name.
    pub inlets: BTreeMap<String, Inlet>,
    /// Names of all sources there ever were.
    pub names: BTreeMap<SourceId, String>,
    pub runtime: Handle,
    pub requests: Arc<Requests>,
    pub map: Mutex<Option<CachedMap>>,
}

impl Live {
    pub(super) fn config(&self) -> Arc<Config> {
        self.settings.load_full()
    }

    fn published(&self) -> Result<Arc<Published>, AnswerError> {
        self.shared.window.load_full().ok_or(AnswerError::NoEncoderYet)
    }

    pub(super) fn segmenter(&self) -> RwLockReadGuard<'_, Segmenter> {
        self.segmenter.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn source_name(&self, source: SourceId) -> String {
        self.names.get(&source).cloned().unwrap_or_else(|| format!("source-{source}"))
    }
}

impl Answers for Live {
    fn readiness(&self) -> Readiness {
        let ready = self.shared.window.load().is_some();
        let waiting_for = if ready { vec![] } else { vec!["the first version of the encoder".into()] };
        Readiness { ready, waiting_for }
    }

    fn status(&self) -> Status {
        self.status_page()
    }

    fn sources(&self) -> Vec<SourceStatus> {
        self.source_table()
    }

    fn tasks(&self) -> Vec<TaskStatus> {
        self.task_table()
    }

    fn task(&self, id: u32) -> Result<TaskStatus, AnswerError> {
        self.task_table().into_iter().find(|task| task.id == id).ok_or(AnswerError::UnknownTask { id })
    }

    fn buffer(&self) -> BufferStatus {
        self.buffer_table()
    }

    fn image(&self, id: u64) -> Result<StoredImage, AnswerError> {
        self.stored_image(id)
    }

    fn thumbnail(&self, id: u64) -> Result<Vec<u8>, AnswerError> {
        self.picture(id)
    }

    fn query(&self, subject: &Subject, page: &Page, filter: &Filter) -> Result<Neighbours, AnswerError> {
        self.neighbours(subject, page, filter)
    }

    fn query_batch(
        &self,
        subjects: &[Subject],
        k: Option<usize>,
        filter: &Filter,
    ) -> Result<NeighbourBatch, AnswerError> {
        self.neighbours_of_each(subjects, k, filter)
    }

    fn embed(&self, subject: &Subject) -> Result<Embedding, AnswerError> {
        self.embedding(subject)
    }

    fn embed_batch(&self, subjects: &[Subject]) -> Result<EmbeddingBatch, AnswerError> {
        self.embedding_of_each(subjects)
    }

    fn classify(
        &self,
        subject: &Subject,
        k: Option<usize>,
        temperature: Option<f64>,
    ) -> Result<Classification, AnswerError> {
        self.classification(subject, k, temperature)
    }

    fn labels(&self) -> Vec<LabelCount> {
        let counts = self.labels.counts().into_iter();
        counts.map(|(label, images)| LabelCount { label: label.to_string(), images: images as u64 }).collect()
    }

    fn labelled(&self, label: &Label) -> Vec<u64> {
        let labels = self.labels.snapshot();
        let mut ids: Vec<u64> = labels
            .iter()
            .filter(|(frame, given)| ***given == *label.as_str() && self.buffer.slot(**frame).is_some())
            .map(|(frame, _)| frame.0)
            .collect();
        ids.sort_unstable();
        ids
    }

    fn set_label(&self, label: &Label, ids: &[u64]) -> Result<LabelChange, AnswerError> {
        self.change_labels(Some(label), ids)
    }

    fn remove_labels(&self, ids: &[u64]) -> Result<LabelChange, AnswerError> {
        self.change_labels(None, ids)
    }

    fn forgetting(&self) -> Value {
        self.shared.forgetting.load().forgetting.clone()
    }

    fn accuracy(&self) -> Value {
        self.shared.forgetting.load().accuracy.clone()
    }

    fn events(&self, after: u64, limit: usize) -> Events {
        self.shared.events.after(after, limit)
    }

    fn ingest(&self, frame: PostedFrame) -> Result<Ingested, AnswerError> {
        self.take_in(frame)
    }
}
