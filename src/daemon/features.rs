//! Features for a replay policy that compares frames: from the published encoder, or from the frozen map of segmentation
//! until there is one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::published::{Input, PublishError, Published, Window};
use crate::replay::policies::{FeatureKind, FeatureSpace};
use crate::replay::{ReplayBuffer, StoreReader};
use crate::segment::FeatureMap;
use crate::stream::FrameId;

/// Stored images whose features are renewed after each group of the stream, and each time that nothing comes, at most; and
/// the time that it may take: in a large buffer one costs some milliseconds.
const RENEWED_AT_ONCE: usize = 16;
const RENEWAL_TIME: Duration = Duration::from_millis(20);
/// A buffer of at most so many slots is renewed whole before the next frame is placed, which takes a fraction of a second
/// once a version: features of two versions cannot be compared. In a larger one some frames are placed meanwhile, few of
/// those it holds.
const RENEWED_WHOLE: usize = 1024;
const CHUNK: usize = 4;

/// Computes features. Owned by the memory thread.
pub struct FeatureSupply {
    window: Window,
    input: Input,
    frozen: FeatureMap,
    reader: StoreReader,
    /// Failures are told once, until one succeeds.
    failing: bool,
}

impl FeatureSupply {
    pub fn new(window: Window, input: Input, reader: StoreReader) -> Self {
        Self { window, input, frozen: FeatureMap::new(), reader, failing: false }
    }

    /// Features of packed RGB8 images, one vector each, for a buffer whose policy wants some; none otherwise, and none
    /// where the device fails: the policy then decides without.
    pub fn of(&mut self, buffer: &mut ReplayBuffer, images: &[u8]) -> Vec<Vec<f32>> {
        let Some(policy) = buffer.features() else { return Vec::new() };
        let published = self.window.load_full();
        policy.enter_space(space(published.as_deref()));
        if buffer.slots() <= RENEWED_WHOLE {
            let rounds = buffer.slots().div_ceil(CHUNK);
            self.renew_rounds(buffer, published.as_deref(), rounds, Duration::MAX);
        }
        self.tell(compute(&self.frozen, &self.input, published.as_deref(), images))
    }

    /// Computes the features of some stored images anew, those that have none first: the bank of the published version has
    /// most of them.
    pub fn renew(&mut self, buffer: &mut ReplayBuffer) {
        let Some(policy) = buffer.features() else { return };
        let published = self.window.load_full();
        policy.enter_space(space(published.as_deref()));
        self.renew_rounds(buffer, published.as_deref(), RENEWED_AT_ONCE / CHUNK, RENEWAL_TIME);
    }

    /// Until all features are of the published version, so many rounds have been made, or the time is over.
    fn renew_rounds(
        &mut self,
        buffer: &mut ReplayBuffer,
        published: Option<&Published>,
        rounds: usize,
        limit: Duration,
    ) {
        let start = Instant::now();
        for _ in 0..rounds {
            let stale = buffer.features().map(|policy| policy.stale(CHUNK)).unwrap_or_default();
            if stale.is_empty() || start.elapsed() > limit {
                return;
            }
            self.renew_these(buffer, published, stale);
        }
    }

    fn renew_these(&mut self, buffer: &mut ReplayBuffer, published: Option<&Published>, frames: Vec<FrameId>) {
        let mut missing = Vec::new();
        for frame in frames {
            match published.and_then(|published| published.bank.get(frame)) {
                Some((_, feature)) => buffer.refresh_feature(frame, feature),
                None => missing.push(frame),
            }
        }
        if missing.is_empty() {
            return;
        }
        let batch = self.reader.read_many(&missing);
        let features = self.tell(compute(&self.frozen, &self.input, published, &batch.pixels));
        batch.ids.iter().zip(&features).for_each(|(&frame, feature)| buffer.refresh_feature(frame, feature));
    }

    fn tell(&mut self, computed: Result<Vec<Vec<f32>>, PublishError>) -> Vec<Vec<f32>> {
        match computed {
            Ok(features) => {
                self.failing = false;
                features
            }
            Err(error) => {
                if !self.failing {
                    tracing::error!("no features for the replay policy, which decides without: {error}");
                }
                self.failing = true;
                Vec::new()
            }
        }
    }
}

fn space(published: Option<&Published>) -> FeatureSpace {
    match published {
        Some(published) => FeatureSpace {
            kind: FeatureKind::Published,
            width: published.embedder.features(),
            version: published.version,
        },
        None => FeatureSpace { kind: FeatureKind::Frozen, width: FeatureMap::DIMENSIONS, version: 1 },
    }
}

fn compute(
    frozen: &FeatureMap,
    input: &Input,
    published: Option<&Published>,
    images: &[u8],
) -> Result<Vec<Vec<f32>>, PublishError> {
    if let Some(published) = published {
        let embedder = Arc::clone(&published.embedder);
        let rows = input.embed(&*embedder, images)?;
        return Ok(rows.chunks_exact(embedder.features()).map(<[f32]>::to_vec).collect());
    }
    let side = input.preset.side;
    Ok(images.chunks_exact(side * side * 3).map(|image| frozen.extract(image, side)).collect::<Result<_, _>>()?)
}
