//! Near-duplicates: frames that say nothing new, as from a camera that stands still.
//!
//! A frame whose features are within a quarter of the usual squared distance of the last frame kept is skipped. What is
//! usual is the median over pairs of frames kept since the last change, thinned so that they span an ever longer time: a
//! burst at the beginning cannot pass for the usual for long.

use super::SegmentError;
use super::bytes::{Reader, Writer, expect_length};

/// Frames that the usual distance is taken from; the oldest half is thinned when there are more.
const SAMPLE: usize = 32;
/// The usual distance is settled after this many frames kept.
const LEARNING: u64 = 1024;
/// After a change the usual distance of before counts until the sample has so many frames: the first of them are of one scene.
const ENOUGH: usize = 16;
/// Until then it counts for less with every frame skipped, lest a new task with less variety be all near-duplicates; a frame
/// as unlike the last one as before ends it: that was a burst.
const FADING: f32 = 0.99;
/// Pairs of the sample further apart than this share of them are taken for ones of different scenes.
const DIFFERENT_SCENES: f64 = 0.8;
/// Share of the usual squared distance below which a frame is a near-duplicate.
const SHARE: f32 = 0.25;
/// Squared distance, in proportion to the features' squared length, that is the same picture whatever is usual.
const SAME: f32 = 1e-9;

/// Skips frames that are near-duplicates of the last one kept.
#[derive(Debug, Clone)]
pub(super) struct NearDuplicates {
    last: Vec<f32>,
    sample: Vec<Vec<f32>>,
    /// The median squared distance between the pairs of the sample that are no near-duplicates of one another.
    usual: f32,
    /// What of it counts, after a change.
    faded: f32,
    /// It was once taken from enough frames.
    known: bool,
    kept: u64,
    stride: u64,
}

impl Default for NearDuplicates {
    fn default() -> Self {
        let (last, sample) = (Vec::new(), Vec::new());
        Self { last, sample, usual: 0.0, faded: 1.0, known: false, kept: 0, stride: 1 }
    }
}

impl NearDuplicates {
    /// Whether `features` repeat the last frame kept; those that do not are kept.
    pub fn is_duplicate(&mut self, features: &[f32]) -> bool {
        if self.last.len() == features.len() {
            let distance = squared_distance(&self.last, features);
            let length: f32 = features.iter().map(|x| x * x).sum();
            let bound = SHARE * self.usual;
            if distance <= (self.faded * bound).max(SAME * length) {
                if self.known && self.sample.len() < ENOUGH {
                    self.faded *= FADING;
                }
                return true;
            }
            if distance > bound {
                self.faded = 1.0;
            }
        }
        self.last.clear();
        self.last.extend_from_slice(features);
        self.learn(features);
        false
    }

    /// Learns anew what is usual, as after a change; the last frame kept stays.
    pub fn relearn(&mut self) {
        (self.kept, self.stride) = (0, 1);
        self.sample.clear();
    }

    fn learn(&mut self, features: &[f32]) {
        self.stride = self.stride.max(1);
        if self.kept < LEARNING && self.kept.is_multiple_of(self.stride) {
            self.sample.push(features.to_vec());
            if self.sample.len() > SAMPLE {
                let mut index = 0;
                self.sample.retain(|_| {
                    index += 1;
                    index % 2 == 1
                });
                self.stride *= 2;
            }
            if self.sample.len() >= ENOUGH || !self.known {
                (self.usual, self.faded) = (usual_distance(&self.sample), 1.0);
                self.known |= self.sample.len() >= ENOUGH;
            }
        }
        self.kept = self.kept.saturating_add(1);
    }

    pub fn write(&self, writer: &mut Writer) {
        writer.f32s(self.last.iter());
        writer.f32s([self.usual, self.faded].iter());
        writer.u64(self.kept);
        writer.u64(self.stride);
        writer.u64(u64::from(self.known));
        writer.u64(self.sample.len() as u64);
        self.sample.iter().for_each(|features| writer.f32s(features.iter()));
    }

    pub fn read(reader: &mut Reader<'_>) -> Result<Self, SegmentError> {
        let last = reader.f32s()?;
        let scale = expect_length(reader.f32s()?, 2)?;
        let (usual, faded) = (scale[0], scale[1]);
        let (kept, stride, known, count) = (reader.u64()?, reader.u64()?, reader.u64()? == 1, reader.u64()?);
        if count > SAMPLE as u64 {
            return Err(SegmentError::State("its sample is too large"));
        }
        let sample = (0..count).map(|_| expect_length(reader.f32s()?, last.len())).collect::<Result<_, _>>()?;
        Ok(Self { last, sample, usual, faded, known, kept, stride })
    }
}

/// The median squared distance of pairs, less those within [`SHARE`] of the distance between scenes: a sample begun within one
/// burst has mostly pairs of the same scene. The very same picture is no burst, and counts: it came back later.
fn usual_distance(sample: &[Vec<f32>]) -> f32 {
    let mut distances: Vec<f32> =
        sample.iter().enumerate().flat_map(|(i, a)| sample[..i].iter().map(move |b| squared_distance(a, b))).collect();
    if distances.is_empty() {
        return 0.0;
    }
    distances.sort_unstable_by(f32::total_cmp);
    let between_scenes = distances[(DIFFERENT_SCENES * (distances.len() - 1) as f64).round() as usize];
    let same = distances.partition_point(|&distance| distance <= 0.0);
    let unlike = distances.partition_point(|&distance| distance <= SHARE * between_scenes);
    let middle = (same + distances.len() - unlike) / 2;
    let at = if middle < same { middle } else { unlike + middle - same };
    // Where all are the same picture there is none left.
    distances.get(at).copied().unwrap_or(between_scenes)
}

/// Eight running sums, so that the additions do not wait for one another.
pub(super) fn squared_distance(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 8];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..8 {
            let difference = a[i] - b[i];
            sums[i] += difference * difference;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| (a - b) * (a - b)).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Seed;

    fn noise(seed: u64, scale: f64) -> Vec<f32> {
        let mut random = Seed(seed).random("noise", 0);
        (0..64).map(|_| (1.0 + scale * random.normal()) as f32).collect()
    }

    #[test]
    fn a_camera_that_stands_still_after_a_lively_time_is_all_duplicates() {
        let mut duplicates = NearDuplicates::default();
        assert!((0..200).all(|i| !duplicates.is_duplicate(&noise(i, 0.3))));
        let scene = noise(1000, 0.3);
        let still = |i: u64| scene.iter().zip(noise(2000 + i, 0.01)).map(|(x, n)| x + n).collect::<Vec<f32>>();
        assert!(!duplicates.is_duplicate(&still(0)));
        assert!((1..5000).all(|i| duplicates.is_duplicate(&still(i))));
        assert!(!duplicates.is_duplicate(&noise(3000, 0.3)));
    }

    #[test]
    fn exact_repeats_are_duplicates_from_the_first_and_bursts_soon() {
        let mut duplicates = NearDuplicates::default();
        assert!(!duplicates.is_duplicate(&noise(1, 0.3)));
        assert!(duplicates.is_duplicate(&noise(1, 0.3)));
        let mut duplicates = NearDuplicates::default();
        let mut kept = 0;
        for burst in 0..40 {
            let scene = noise(5000 + burst, 0.3);
            for i in 0..30 {
                let jitter = noise(9000 + burst * 30 + i, 0.02);
                let frame: Vec<f32> = scene.iter().zip(&jitter).map(|(x, n)| x + n).collect();
                kept += u32::from(!duplicates.is_duplicate(&frame));
            }
        }
        assert!((40..90).contains(&kept), "{kept} of 1200 frames in 40 bursts");
    }

    #[test]
    fn bursts_after_a_change_are_still_duplicates_and_less_variety_is_learnt() {
        let mut duplicates = NearDuplicates::default();
        (0..200).for_each(|i| assert!(!duplicates.is_duplicate(&noise(i, 0.3))));
        duplicates.relearn();
        let kept = (0..1200u64).filter(|&i| {
            let frame: Vec<f32> =
                noise(5000 + i / 30, 0.3).iter().zip(noise(9000 + i, 0.02)).map(|(x, n)| x + n - 1.0).collect();
            !duplicates.is_duplicate(&frame)
        });
        assert_eq!(kept.count(), 40, "one frame of each burst");
        duplicates.relearn();
        let kept = (0..3000).filter(|&i| !duplicates.is_duplicate(&noise(20_000 + i, 0.05))).count();
        assert!(kept > 1000, "{kept} of 3000 frames with a thirtieth of the variety");
    }
}
