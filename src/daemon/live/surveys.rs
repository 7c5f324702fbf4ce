//! Everything at once: the images in order, the map, the bank as pages and as a file.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::Value;
use tokio::sync::watch;

use super::Live;
use super::questions::internal;
use crate::daemon::answers::{
    AnswerError, EmbeddingMap, EmbeddingRow, EmbeddingRows, ExportedFile, Filter, History, MapPoint, StoredImage,
    Surveys, Timestamp,
};
use crate::daemon::published::Published;
use crate::knn::{Entry, principal};
use crate::replay::SlotMeta;
use crate::stream::FrameId;

/// A map, kept until the bank it shows has changed.
pub struct CachedMap {
    /// Version, rows of the bank, and points asked for.
    of: (u64, usize, usize),
    places: Arc<Vec<(Entry, [f32; 2])>>,
    explained: Vec<Option<f64>>,
}

impl Surveys for Live {
    fn images(
        &self,
        filter: &Filter,
        newest_first: bool,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<StoredImage>, AnswerError> {
        let admits = self.admission(None, filter)?;
        let beyond = |id: u64| after.is_none_or(|after| if newest_first { id < after } else { id > after });
        let mut metas: Vec<SlotMeta> =
            self.buffer.metas().into_iter().filter(|meta| beyond(meta.id.0) && admits(&entry_of(meta))).collect();
        match newest_first {
            true => metas.sort_unstable_by_key(|meta| Reverse(meta.id)),
            false => metas.sort_unstable_by_key(|meta| meta.id),
        }
        metas.truncate(limit);
        Ok(metas.iter().map(|meta| self.described(meta.id, meta.source, meta.wall_time_ns)).collect())
    }

    fn history(&self, since: Option<Timestamp>) -> History {
        self.shared.history.since(since)
    }

    fn forgetting_history(&self) -> Value {
        self.shared.forgetting.load().history.clone()
    }

    fn map(&self, limit: usize) -> Result<EmbeddingMap, AnswerError> {
        let published = self.published()?;
        let (places, explained) = self.places(&published, limit);
        let segmenter = self.segmenter();
        let register = segmenter.register();
        let point = |(entry, [x, y]): &(Entry, [f32; 2])| MapPoint {
            id: entry.frame.0,
            task: register.task_of(entry.source, entry.frame).map(|task| task.0),
            label: self.labels.get(entry.frame).map(|label| label.to_string()),
            x: *x,
            y: *y,
        };
        Ok(EmbeddingMap {
            encoder: published.encoder.to_string(),
            encoder_version: published.version,
            explained,
            rows: published.bank.len() as u64,
            points: places.iter().map(point).collect(),
        })
    }

    fn embeddings(&self, filter: &Filter, after: u64, limit: usize) -> Result<EmbeddingRows, AnswerError> {
        let published = self.published()?;
        let admits = self.admission(None, filter)?;
        let mut rows: Vec<(FrameId, &[f32])> = published
            .bank
            .iter()
            .filter(|(entry, _)| entry.frame.0 > after && admits(entry))
            .map(|(entry, row)| (entry.frame, row))
            .collect();
        rows.sort_unstable_by_key(|(frame, _)| *frame);
        let more = rows.len() > limit;
        rows.truncate(limit);
        Ok(EmbeddingRows {
            encoder: published.encoder.to_string(),
            encoder_version: published.version,
            width: published.bank.width(),
            next: if more { rows.last().map(|(frame, _)| frame.0) } else { None },
            rows: rows.into_iter().map(|(frame, row)| EmbeddingRow { id: frame.0, vector: row.to_vec() }).collect(),
        })
    }

    fn bank_file(&self) -> Result<ExportedFile, AnswerError> {
        let published = self.published()?;
        let bytes = self.bank_tensors(&published).map_err(internal)?;
        Ok(ExportedFile { encoder: published.encoder.to_string(), encoder_version: published.version, bytes })
    }

    fn encoder_file(&self) -> Result<ExportedFile, AnswerError> {
        let published = self.published()?;
        let bytes = published.weights.to_safetensors(self.metadata(&published)).map_err(internal)?;
        Ok(ExportedFile { encoder: published.encoder.to_string(), encoder_version: published.version, bytes })
    }

    fn follow_events(&self) -> watch::Receiver<u64> {
        self.shared.events.follow()
    }
}

fn entry_of(meta: &SlotMeta) -> Entry {
    Entry { frame: meta.id, source: meta.source, wall_time_ns: meta.wall_time_ns }
}

/// Where the images of a bank lie, and what share of the spread each of the two axes tells.
type Places = (Arc<Vec<(Entry, [f32; 2])>>, Vec<Option<f64>>);

impl Live {
    /// The first two principal components of the bank, or of every so-manieth row of it.
    fn places(&self, published: &Published, limit: usize) -> Places {
        let of = (published.version, published.bank.len(), limit);
        let mut cached = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(map) = cached.as_ref().filter(|map| map.of == of) {
            return (Arc::clone(&map.places), map.explained.clone());
        }
        let mut rows: Vec<(Entry, &[f32])> = published.bank.iter().collect();
        rows.sort_unstable_by_key(|(entry, _)| entry.frame);
        let step = rows.len().div_ceil(limit.max(1)).max(1);
        let shown: Vec<(Entry, &[f32])> = rows.into_iter().step_by(step).collect();
        let flat: Vec<f32> = shown.iter().flat_map(|(_, row)| row.iter().copied()).collect();
        let found = principal::<2>(&flat, published.bank.width());
        let places = shown.into_iter().map(|(entry, _)| entry).zip(found.places).collect();
        let map = CachedMap { of, places: Arc::new(places), explained: found.explained.to_vec() };
        let answer = (Arc::clone(&map.places), map.explained.clone());
        *cached = Some(map);
        answer
    }

    fn metadata(&self, published: &Published) -> HashMap<String, String> {
        let preset = &self.input.preset;
        HashMap::from([
            ("format".into(), "pt".into()),
            ("lumpd.encoder".into(), published.encoder.to_string()),
            ("lumpd.encoder_version".into(), published.version.to_string()),
            ("lumpd.step".into(), published.step.to_string()),
            ("lumpd.preset".into(), preset.name.clone()),
            ("lumpd.side_pixels".into(), preset.side.to_string()),
            ("lumpd.mean".into(), format!("{:?}", preset.mean)),
            ("lumpd.std".into(), format!("{:?}", preset.std)),
        ])
    }

    fn bank_tensors(&self, published: &Published) -> Result<Vec<u8>, safetensors::SafeTensorError> {
        let mut rows: Vec<(Entry, &[f32])> = published.bank.iter().collect();
        rows.sort_unstable_by_key(|(entry, _)| entry.frame);
        let (tasks, names) = {
            let segmenter = self.segmenter();
            let register = segmenter.register();
            let of = |entry: &Entry| register.task_of(entry.source, entry.frame).map_or(0, |task| i64::from(task.0));
            let tasks: Vec<i64> = rows.iter().map(|(entry, _)| of(entry)).collect();
            let names: HashMap<String, String> =
                register.tasks().map(|task| (task.id.to_string(), task.name.clone())).collect();
            (tasks, names)
        };
        let integers = |values: Vec<i64>| values.into_iter().flat_map(i64::to_le_bytes).collect::<Vec<u8>>();
        let column = |of: fn(&Entry) -> i64| integers(rows.iter().map(|(entry, _)| of(entry)).collect());
        let embeddings: Vec<u8> = rows.iter().flat_map(|(_, row)| row.iter().flat_map(|x| x.to_le_bytes())).collect();
        let (ids, sources) = (column(|entry| entry.frame.0 as i64), column(|entry| i64::from(entry.source.0)));
        let (times, tasks) = (column(|entry| entry.wall_time_ns), integers(tasks));
        let count = rows.len();
        let labels: HashMap<String, String> = rows
            .iter()
            .filter_map(|(entry, _)| Some((entry.frame.to_string(), self.labels.get(entry.frame)?.to_string())))
            .collect();
        let source_names: HashMap<String, &str> =
            self.names.iter().map(|(id, name)| (id.0.to_string(), name.as_str())).collect();
        let mut metadata = self.metadata(published);
        metadata.insert("lumpd.sources".into(), json(&source_names));
        metadata.insert("lumpd.tasks".into(), json(&names));
        metadata.insert("lumpd.labels".into(), json(&labels));
        let integer = |bytes| TensorView::new(Dtype::I64, vec![count], bytes);
        let width = published.bank.width();
        let tensors = [
            ("embeddings", TensorView::new(Dtype::F32, vec![count, width], &embeddings)?),
            ("ids", integer(&ids)?),
            ("tasks", integer(&tasks)?),
            ("sources", integer(&sources)?),
            ("captured_at_ns", integer(&times)?),
        ];
        serialize(tensors, Some(metadata))
    }
}

/// Maps of text have a JSON form.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
