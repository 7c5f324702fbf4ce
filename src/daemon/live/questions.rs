//! What is asked about images: neighbours, embeddings, votes, labels; and the posting of new ones.

use std::time::Instant;

use super::Live;
use crate::daemon::answers::{
    AnswerError, Classification, Embedding, EmbeddingBatch, Filter, IngestOutcome, Ingested, Label, LabelChange,
    LabelProbability, Neighbour, NeighbourBatch, Neighbours, Page, PostedFrame, StoredImage, Subject, Timestamp,
    timestamp,
};
use crate::daemon::published::Published;
use crate::decode::{DecodeError, Image, png_bytes, to_square};
use crate::knn::{self, Entry, KnnError};
use crate::stream::{Draft, FrameId, Origin, SourceId, Verdict, codes};
use crate::telemetry::{Metric, observe};

/// Rows looked for beyond those asked for, as some may have left the buffer since the bank was made.
const GONE: usize = 32;

/// Where an image is posted to that names no source.
const HTTP: &str = "http";

impl Live {
    pub(super) fn neighbours(
        &self,
        subject: &Subject,
        page: &Page,
        filter: &Filter,
    ) -> Result<Neighbours, AnswerError> {
        let started = Instant::now();
        let published = self.published()?;
        let query = self.vector(&published, subject)?;
        let admits = self.admission(itself(subject), filter)?;
        let end = page.offset + page.k.unwrap_or(self.config().knn.k);
        // One more, to know whether there is a next page.
        let mut nearest = published.bank.nearest(&query, end + 1 + GONE, admits).map_err(internal)?;
        self.drop_gone(&mut nearest);
        let next = (nearest.len() > end).then_some(end as u64);
        nearest.truncate(end);
        observe(Metric::QueryDuration, &[], started.elapsed());
        Ok(Neighbours {
            encoder: published.encoder.to_string(),
            encoder_version: published.version,
            neighbours: nearest.iter().skip(page.offset).map(|n| self.neighbour(n)).collect(),
            next,
        })
    }

    pub(super) fn neighbours_of_each(
        &self,
        subjects: &[Subject],
        k: Option<usize>,
        filter: &Filter,
    ) -> Result<NeighbourBatch, AnswerError> {
        let started = Instant::now();
        let published = self.published()?;
        let k = k.unwrap_or(self.config().knn.k);
        let mut queries = Vec::with_capacity(subjects.len() * published.bank.width());
        for vector in self.vectors(&published, subjects)? {
            queries.extend(vector);
        }
        let admits = self.admission(None, filter)?;
        // One more for a stored subject, which finds itself.
        let found = published.bank.search(&queries, k + 1 + GONE, admits).map_err(internal)?;
        let of = |(subject, mut nearest): (&Subject, Vec<knn::Neighbour>)| {
            self.drop_gone(&mut nearest);
            let others = nearest.iter().filter(|neighbour| Some(neighbour.frame) != itself(subject));
            others.take(k).map(|neighbour| self.neighbour(neighbour)).collect()
        };
        let results = subjects.iter().zip(found).map(of).collect();
        observe(Metric::QueryDuration, &[], started.elapsed());
        Ok(NeighbourBatch { encoder: published.encoder.to_string(), encoder_version: published.version, results })
    }

    /// The bank follows the buffer a moment later: what has left it meanwhile is no answer any more.
    fn drop_gone(&self, nearest: &mut Vec<knn::Neighbour>) {
        nearest.retain(|neighbour| self.buffer.slot(neighbour.frame).is_some());
    }

    fn neighbour(&self, nearest: &knn::Neighbour) -> Neighbour {
        let image = self.described(nearest.frame, nearest.source, nearest.wall_time_ns);
        Neighbour { image, score: f64::from(nearest.similarity) }
    }

    pub(super) fn described(&self, frame: FrameId, source: SourceId, wall_time_ns: i64) -> StoredImage {
        let task = self.segmenter().register().task_of(source, frame).map(|task| task.0);
        let label = self.labels.get(frame).map(|label| label.to_string());
        StoredImage::new(frame.0, task, timestamp(wall_time_ns), self.source_name(source), label)
    }

    /// Which rows may answer: all but the subject itself, less what the filter excludes.
    pub(super) fn admission<'a>(
        &'a self,
        itself: Option<FrameId>,
        filter: &'a Filter,
    ) -> Result<impl Fn(&Entry) -> bool + Sync + 'a, AnswerError> {
        let source = filter.source.as_ref().map(|name| self.source_id(name)).transpose()?;
        let nanoseconds = |at: Timestamp| at.as_nanosecond();
        let (since, until) = (filter.since.map(nanoseconds), filter.until.map(nanoseconds));
        // The register is read once, not for every row.
        let members = match filter.task {
            None => None,
            Some(id) => Some(self.frames_of_task(id)?),
        };
        let labels = self.labels.snapshot();
        Ok(move |entry: &Entry| {
            Some(entry.frame) != itself
                && source.is_none_or(|source| entry.source == source)
                && since.is_none_or(|since| i128::from(entry.wall_time_ns) >= since)
                && until.is_none_or(|until| i128::from(entry.wall_time_ns) < until)
                && members.as_ref().is_none_or(|members| members.contains(&entry.frame))
                && filter.label.as_ref().is_none_or(|wanted| labels.get(&entry.frame).is_some_and(|l| **l == **wanted))
        })
    }

    pub(super) fn source_id(&self, name: &str) -> Result<SourceId, AnswerError> {
        let known = self.names.iter().find(|(_, known)| *known == name).map(|(id, _)| *id);
        known.ok_or_else(|| AnswerError::UnknownSource { name: name.into() })
    }

    fn frames_of_task(&self, id: u32) -> Result<std::collections::HashSet<FrameId>, AnswerError> {
        let segmenter = self.segmenter();
        let register = segmenter.register();
        // A task that was merged away means the one it became.
        let task = register.current(crate::segment::TaskId(id));
        register.task(task).ok_or(AnswerError::UnknownTask { id })?;
        let metas = self.buffer.metas().into_iter();
        Ok(metas.filter(|meta| register.task_of(meta.source, meta.id) == Some(task)).map(|meta| meta.id).collect())
    }

    /// The subject as the published encoder sees it; not normalised.
    fn vector(&self, published: &Published, subject: &Subject) -> Result<Vec<f32>, AnswerError> {
        let pixels = match subject {
            Subject::Stored(id) => {
                if let Some((_, row)) = published.bank.get(FrameId(*id)) {
                    return Ok(row.to_vec());
                }
                self.buffer.get(FrameId(*id)).ok_or(AnswerError::UnknownImage { id: *id })?.pixels
            }
            Subject::Encoded(bytes) => self.pixels_of(bytes)?,
            Subject::Vector { vector, encoder } => return comparable(published, vector, encoder.as_deref()),
        };
        self.input.embed(&*published.embedder, &pixels).map_err(internal)
    }

    /// As [`Self::vector`], of each subject; images are embedded together.
    fn vectors(&self, published: &Published, subjects: &[Subject]) -> Result<Vec<Vec<f32>>, AnswerError> {
        let in_batch = |place: usize| move |error: AnswerError| AnswerError::InBatch { place, error: Box::new(error) };
        let (mut vectors, mut places, mut pixels) = (vec![Vec::new(); subjects.len()], Vec::new(), Vec::new());
        for (place, subject) in subjects.iter().enumerate() {
            match subject {
                Subject::Encoded(bytes) => {
                    pixels.extend(self.pixels_of(bytes).map_err(in_batch(place))?);
                    places.push(place);
                }
                other => vectors[place] = self.vector(published, other).map_err(in_batch(place))?,
            }
        }
        let rows = self.input.embed(&*published.embedder, &pixels).map_err(internal)?;
        for (place, row) in places.into_iter().zip(rows.chunks_exact(published.embedder.features().max(1))) {
            vectors[place] = row.to_vec();
        }
        Ok(vectors)
    }

    fn pixels_of(&self, bytes: &[u8]) -> Result<Vec<u8>, AnswerError> {
        let image = self.decoder.decode(bytes).map_err(|error| undecodable(&error))?;
        Ok(to_square(&image, self.input.preset.side as u32, self.config().decode.fit).into_pixels())
    }

    pub(super) fn embedding(&self, subject: &Subject) -> Result<Embedding, AnswerError> {
        let published = self.published()?;
        let vector = normalised(self.vector(&published, subject)?)?;
        Ok(Embedding { encoder: published.encoder.to_string(), encoder_version: published.version, vector })
    }

    pub(super) fn embedding_of_each(&self, subjects: &[Subject]) -> Result<EmbeddingBatch, AnswerError> {
        let published = self.published()?;
        let vectors = self.vectors(&published, subjects)?.into_iter().map(normalised).collect::<Result<_, _>>()?;
        Ok(EmbeddingBatch { encoder: published.encoder.to_string(), encoder_version: published.version, vectors })
    }

    pub(super) fn classification(
        &self,
        subject: &Subject,
        k: Option<usize>,
        temperature: Option<f64>,
    ) -> Result<Classification, AnswerError> {
        let published = self.published()?;
        let query = self.vector(&published, subject)?;
        let knn = self.config().knn.clone();
        let (k, temperature) = (k.unwrap_or(knn.k), temperature.unwrap_or(knn.temperature));
        let labels = self.labels.snapshot();
        let itself = itself(subject);
        let label_of = |frame: FrameId| if Some(frame) == itself { None } else { labels.get(&frame).cloned() };
        let vote = knn::classify(&published.bank, &query, k, temperature, label_of).map_err(internal)?;
        let (label, probabilities, neighbours) = match vote {
            None => (None, Vec::new(), Vec::new()),
            Some(vote) => (
                Some(vote.label.to_string()),
                vote.probabilities
                    .into_iter()
                    .map(|share| LabelProbability { label: share.label.to_string(), probability: share.probability })
                    .collect(),
                vote.neighbours.iter().map(|voter| self.neighbour(&voter.neighbour)).collect(),
            ),
        };
        let encoder = published.encoder.to_string();
        Ok(Classification {
            encoder,
            encoder_version: published.version,
            label,
            probabilities,
            k,
            temperature,
            neighbours,
        })
    }

    pub(super) fn stored_image(&self, id: u64) -> Result<StoredImage, AnswerError> {
        let meta = self.buffer.meta(FrameId(id)).ok_or(AnswerError::UnknownImage { id })?;
        Ok(self.described(meta.id, meta.source, meta.wall_time_ns))
    }

    pub(super) fn picture(&self, id: u64) -> Result<Vec<u8>, AnswerError> {
        let stored = self.buffer.get(FrameId(id)).ok_or(AnswerError::UnknownImage { id })?;
        let side = self.input.preset.side as u32;
        Ok(png_bytes(&Image::new(side, side, stored.pixels)))
    }

    pub(super) fn change_labels(&self, label: Option<&Label>, ids: &[u64]) -> Result<LabelChange, AnswerError> {
        let frames: Vec<FrameId> = ids.iter().copied().map(FrameId).collect();
        if let Some(absent) = frames.iter().find(|frame| self.buffer.slot(**frame).is_none()) {
            return Err(AnswerError::UnknownImage { id: absent.0 });
        }
        let wanted = label.map(Label::as_str);
        let differs = |frame: &&FrameId| self.labels.get(**frame).as_deref() != wanted;
        let changed = frames.iter().filter(differs).count() as u64;
        let storage = |error: KnnError| AnswerError::Storage { detail: error.to_string() };
        match wanted {
            Some(text) => {
                self.labels.set(&frames.iter().map(|frame| (*frame, text)).collect::<Vec<_>>()).map_err(storage)?;
            }
            None => _ = self.labels.remove(&frames).map_err(storage)?,
        }
        Ok(LabelChange { label: wanted.map(str::to_owned), changed })
    }

    pub(super) fn take_in(&self, posted: PostedFrame) -> Result<Ingested, AnswerError> {
        let name = posted.source.as_deref().unwrap_or(HTTP);
        let inlet = self.inlets.get(name).ok_or_else(|| AnswerError::UnknownSource { name: name.into() })?;
        let mut draft = Draft::new(Origin::Peer { name: HTTP.into(), sequence: 0 }, posted.image);
        draft.label = posted.label.map(String::from);
        let receipt = inlet.try_offer(draft).map_err(|rejected| match rejected.code() {
            codes::QUEUE_FULL => AnswerError::Overloaded { what: "the queue of the source" },
            _ => AnswerError::Draining,
        })?;
        match self.runtime.block_on(receipt) {
            Verdict::Accepted { id, .. } => Ok(Ingested { outcome: IngestOutcome::Accepted, id: Some(id.0) }),
            Verdict::Duplicate { id } => Ok(Ingested { outcome: IngestOutcome::Duplicate, id: Some(id.0) }),
            Verdict::Refused { code: codes::SHUTTING_DOWN, .. } => Err(AnswerError::Draining),
            Verdict::Refused { code, detail, .. } => Err(refused(code, detail)),
        }
    }
}

/// The stored image that the subject is.
fn itself(subject: &Subject) -> Option<FrameId> {
    match subject {
        Subject::Stored(id) => Some(FrameId(*id)),
        Subject::Encoded(_) | Subject::Vector { .. } => None,
    }
}

/// A vector that a client sent, if the bank's can be compared with it.
fn comparable(published: &Published, vector: &[f32], encoder: Option<&str>) -> Result<Vec<f32>, AnswerError> {
    let own = published.encoder.to_string();
    if let Some(given) = encoder.filter(|given| *given != own) {
        return Err(AnswerError::OtherEncoder { given: given.chars().take(40).collect(), published: own });
    }
    let width = published.bank.width();
    let invalid =
        |detail| AnswerError::Invalid { field: "vector", detail, remedy: "send an embedding as /v1/embed gives it" };
    if vector.len() != width {
        return Err(invalid(format!("`vector` must have {width} numbers, not {}", vector.len())));
    }
    let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
    if !(length > 0.0 && length.is_finite()) {
        return Err(invalid("`vector` must have finite numbers that are not all 0".into()));
    }
    Ok(vector.to_vec())
}

/// At length 1.
fn normalised(mut vector: Vec<f32>) -> Result<Vec<f32>, AnswerError> {
    let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    if !(length > 0.0 && length.is_finite()) {
        return Err(internal("the encoder gives this image no direction"));
    }
    vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    Ok(vector)
}

fn undecodable(error: &DecodeError) -> AnswerError {
    refused(error.code(), error.to_string())
}

/// A refusal's code as a client of the API may act on it. The text is what is wrong, and after its last semicolon what to do,
/// which a problem says in words of its own.
fn refused(code: &str, text: String) -> AnswerError {
    let detail = text.rsplit_once("; ").map_or(text.clone(), |(what, _)| what.to_owned());
    match code {
        "empty" | "not-an-image" | "unsupported-format" => AnswerError::NotAnImage { detail },
        "truncated-image" => AnswerError::TruncatedImage { detail },
        "too-large" | codes::TOO_MANY_BYTES => AnswerError::TooLarge { detail },
        _ => AnswerError::UndecodableImage { detail },
    }
}

pub(super) fn internal(error: impl std::fmt::Display) -> AnswerError {
    AnswerError::Internal { detail: error.to_string() }
}
