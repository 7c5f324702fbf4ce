//! Versions of the encoder for readers: encoder and bank, swapped whole.
//!
//! Embeddings of two encoders cannot be compared, so a version is published only with every stored image embedded anew. What
//! the buffer takes in or lets go between two versions is followed by [`Publisher::refresh`], with the same encoder.

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use candle_core::{Device, Tensor};

use super::answers::Timestamp;
use super::shared::Shared;
use crate::encoder::{Backbone, Embedder, EncoderError, EncoderId, Preset, Weights};
use crate::knn::{Bank, KnnError, NewRow};
use crate::replay::{SlotMeta, StoreReader};
use crate::segment::SegmentError;
use crate::stream::FrameId;

/// Images embedded at once: enough to fill the device, few enough to keep the activations small.
const CHUNK: usize = 64;

/// New images embedded by one refresh: the trainer waits no longer than this takes.
const REFRESH: usize = 256;

/// Why no version could be published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    #[error("embedding the stored images: {0}")]
    Encoder(#[from] EncoderError),
    #[error("embedding the stored images: {0}")]
    Device(#[from] candle_core::Error),
    #[error("features of stored images: {0}")]
    Features(#[from] SegmentError),
    #[error("building the bank: {0}")]
    Bank(#[from] KnnError),
}

/// How this daemon embeds: the preset's normalisation on the device.
#[derive(Clone)]
pub struct Input {
    pub preset: Arc<Preset>,
    pub device: Device,
}

impl Input {
    /// Embeddings (n x features, row-major, not normalised) of packed RGB8 images.
    ///
    /// # Errors
    /// Where the bytes are no whole number of images, or the device fails.
    pub fn embed(&self, embedder: &dyn Embedder, images: &[u8]) -> Result<Vec<f32>, PublishError> {
        let mut rows = Vec::with_capacity(images.len() / self.preset.image_bytes() * embedder.features());
        for chunk in images.chunks(CHUNK * self.preset.image_bytes()) {
            let pixels = self.preset.normalise(chunk, &self.device)?;
            rows.extend(embedder.embed(&pixels)?.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(rows)
    }

    /// Embeddings (n x features, row-major, not normalised) of normalised views, each (1, side, side, 3).
    ///
    /// # Errors
    /// Where the device fails.
    pub fn embed_views(&self, embedder: &dyn Embedder, views: &[Tensor]) -> Result<Vec<f32>, PublishError> {
        let mut rows = Vec::with_capacity(views.len() * embedder.features());
        for chunk in views.chunks(CHUNK) {
            rows.extend(embedder.embed(&Tensor::cat(chunk, 0)?)?.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(rows)
    }
}

/// What every answer of one moment comes from.
pub struct Published {
    /// Counts versions, from 1; goes on over restarts.
    pub version: u64,
    pub encoder: EncoderId,
    /// Gradient steps the encoder has seen.
    pub step: u64,
    pub at: Timestamp,
    pub embedder: Arc<dyn Embedder>,
    /// For whoever wants the encoder as a file.
    pub weights: Arc<Weights>,
    pub bank: Bank,
}

impl Published {
    fn with_bank(&self, bank: Bank) -> Self {
        let (embedder, weights) = (Arc::clone(&self.embedder), Arc::clone(&self.weights));
        Self { version: self.version, encoder: self.encoder, step: self.step, at: self.at, embedder, weights, bank }
    }
}

/// The window that readers look through.
pub type Window = Arc<ArcSwapOption<Published>>;

/// Makes versions. Owned by the thread that owns the device.
pub struct Publisher {
    shared: Arc<Shared>,
    input: Input,
    buffer: StoreReader,
    version: u64,
    /// The buffer's version that the bank has followed.
    followed: u64,
}

impl Publisher {
    /// `version`: the last one that was published before the restart, 0 where there was none.
    pub fn new(shared: Arc<Shared>, input: Input, buffer: StoreReader, version: u64) -> Self {
        Self { shared, input, buffer, version, followed: 0 }
    }

    /// The last version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Freezes the backbone, embeds every stored image with it, and swaps encoder and bank at once.
    ///
    /// # Errors
    /// Where the device fails. Readers then keep the version they have.
    pub fn publish(&mut self, backbone: &dyn Backbone, step: u64) -> Result<Arc<Published>, PublishError> {
        let (embedder, encoder) = (backbone.freeze()?, EncoderId::of(backbone)?);
        let weights = Arc::new(Weights::of(backbone)?);
        let snapshot = self.buffer.snapshot();
        let ids: Vec<FrameId> = snapshot.frames.iter().map(|(_, id)| *id).collect();
        let empty = Bank::new(Arc::from(encoder.to_string()), embedder.features());
        let bank = self.extended(&empty, &*embedder, &[], &ids)?;
        self.version += 1;
        self.followed = snapshot.version;
        let published =
            Arc::new(Published { version: self.version, encoder, step, at: Timestamp::now(), embedder, weights, bank });
        self.shared.window.store(Some(Arc::clone(&published)));
        Ok(published)
    }

    /// Lets the bank of the published version follow the buffer. Returns whether more is to be done: at most [`REFRESH`]
    /// images are embedded at once.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn refresh(&mut self) -> Result<bool, PublishError> {
        let Some(published) = self.shared.window.load_full() else { return Ok(false) };
        if self.buffer.version() == self.followed {
            return Ok(false);
        }
        let snapshot = self.buffer.snapshot();
        let stored: HashSet<FrameId> = snapshot.frames.iter().map(|(_, id)| *id).collect();
        let banked: HashSet<FrameId> = published.bank.iter().map(|(entry, _)| entry.frame).collect();
        let removed: Vec<FrameId> = banked.difference(&stored).copied().collect();
        let mut added: Vec<FrameId> =
            stored.difference(&banked).copied().filter(|&frame| !published.bank.contains(frame)).collect();
        // The newest first: they are what people ask for.
        added.sort_unstable_by(|a, b| b.cmp(a));
        let more = added.len() > REFRESH;
        added.truncate(REFRESH);
        let bank = self.extended(&published.bank, &*published.embedder, &removed, &added)?;
        self.shared.window.store(Some(Arc::new(published.with_bank(bank))));
        if !more {
            self.followed = snapshot.version;
        }
        Ok(more)
    }

    /// The bank without some rows and with some images embedded. Images that the buffer has let go meanwhile are left out.
    fn extended(
        &self,
        bank: &Bank,
        embedder: &dyn Embedder,
        removed: &[FrameId],
        added: &[FrameId],
    ) -> Result<Bank, PublishError> {
        let (mut frames, mut rows) = (Vec::with_capacity(added.len()), Vec::new());
        for ids in added.chunks(CHUNK) {
            self.shared.beat();
            let batch = self.buffer.read_many(ids);
            rows.extend(self.input.embed(embedder, &batch.pixels)?);
            frames.extend(batch.ids);
        }
        let metas = frames.iter().map(|&frame| self.buffer.meta(frame));
        let new: Vec<NewRow<'_>> = metas
            .zip(rows.chunks_exact(embedder.features()))
            .filter_map(|(meta, row)| Some(row_of(&meta?, row)))
            .collect();
        Ok(bank.with_changes(removed, &new)?)
    }
}

fn row_of<'a>(meta: &SlotMeta, embedding: &'a [f32]) -> NewRow<'a> {
    NewRow { frame: meta.id, source: meta.source, wall_time_ns: meta.wall_time_ns, embedding }
}
