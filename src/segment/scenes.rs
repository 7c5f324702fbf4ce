//! Scenes: runs of frames each of which resembles the one before. Video shows one scene for a while and then, at a cut, another;
//! photographs are a scene each.
//!
//! A scene ends where the squared distance to the frame before is above a share of what is usual for frames some way apart: the
//! geometric mean of their squared distances, which a few frames like no others hardly move.
//!
//! The constants were chosen on GTSRB's tracks, in other shufflings than the benchmark's.

use std::collections::VecDeque;

use super::SegmentError;
use super::bytes::{Reader, Writer, expect_length};
use super::duplicates::squared_distance;

/// Frames apart that the usual distance is taken at, once there are so many.
const APART: usize = 16;
/// Distances that it is averaged over.
const MEMORY: f64 = 96.0;
/// What it is before there is one, and how many distances' worth that is trusted: 8 is about the median of CIFAR-10 (8.8) and
/// of GTSRB by day (7.5 to 8). Taken from the first frames of a video, it would be that within one scene.
const FIRST_USUAL: f64 = 8.0;
const FIRST_DISTANCES: f64 = 48.0;
/// Share of the usual squared distance above which a scene has ended.
const CUT: f64 = 0.22;
/// The smallest squared distance that a logarithm is taken of.
const SMALLEST: f64 = 1e-9;

/// Says with which of a stream's distinct frames a scene begins.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scenes {
    /// The newest frames' features, oldest first.
    newest: VecDeque<Vec<f32>>,
    /// Mean logarithm of the squared distance of frames apart, and of how many.
    usual: f64,
    distances: f64,
}

impl Default for Scenes {
    fn default() -> Self {
        Self { newest: VecDeque::with_capacity(APART), usual: FIRST_USUAL.ln(), distances: FIRST_DISTANCES }
    }
}

impl Scenes {
    /// Takes the next distinct frame; whether a scene begins with it.
    pub fn begins(&mut self, features: &[f32]) -> bool {
        if self.newest.back().is_some_and(|last| last.len() != features.len()) {
            *self = Self::default();
        }
        let distance = |other: &Vec<f32>| f64::from(squared_distance(other, features));
        let begins = self.newest.back().is_none_or(|last| distance(last) > CUT * self.usual.exp());
        if let Some(apart) = self.newest.front().map(distance) {
            self.distances = (self.distances + 1.0).min(MEMORY);
            self.usual += (apart.max(SMALLEST).ln() - self.usual) / self.distances;
        }
        if self.newest.len() == APART {
            self.newest.pop_front();
        }
        self.newest.push_back(features.to_vec());
        begins
    }

    pub fn write(&self, writer: &mut Writer) {
        writer.f64s(&[self.usual, self.distances]);
        writer.u64(self.newest.len() as u64);
        self.newest.iter().for_each(|features| writer.f32s(features.iter()));
    }

    pub fn read(reader: &mut Reader<'_>) -> Result<Self, SegmentError> {
        let usual = expect_length(reader.f64s()?, 2)?;
        let frames = reader.u64()?;
        if frames > APART as u64 {
            return Err(SegmentError::State("its scenes do not fit"));
        }
        let newest = (0..frames).map(|_| reader.f32s()).collect::<Result<VecDeque<_>, _>>()?;
        if newest.iter().any(|features| features.len() != newest[0].len()) {
            return Err(SegmentError::State("its scenes do not fit"));
        }
        Ok(Self { newest, usual: usual[0], distances: usual[1] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Seed;

    /// Features of frame `n` of a video whose scenes last for `length` frames: far apart, with little difference within.
    fn frame(n: u64, length: u64) -> Vec<f32> {
        let (mut scene, mut noise) = (Seed(3).random("scene", n / length), Seed(3).random("noise", n));
        (0..32).map(|_| (0.5 * scene.normal() + 0.05 * noise.normal()) as f32).collect()
    }

    #[test]
    fn video_is_cut_into_its_scenes_and_photographs_are_a_scene_each() {
        for length in [1, 5, 12] {
            let mut scenes = Scenes::default();
            let wrong = (0..600).filter(|&n| scenes.begins(&frame(n, length)) != n.is_multiple_of(length));
            // What is usual is learnt meanwhile.
            assert!(wrong.count() <= 3, "scenes of {length} frames");
        }
    }

    #[test]
    fn restored_scenes_go_on_alike_and_other_features_begin_anew() {
        let mut scenes = Scenes::default();
        (0..50).for_each(|n| _ = scenes.begins(&frame(n, 4)));
        let mut writer = Writer::default();
        scenes.write(&mut writer);
        let bytes = writer.finish();
        assert_eq!(Scenes::read(&mut Reader::new(&bytes)).unwrap(), scenes);
        assert!(Scenes::read(&mut Reader::new(&bytes[..bytes.len() - 4])).is_err());
        assert!(scenes.begins(&[0.0; 8]));
        assert!(!scenes.begins(&[0.0; 8]));
    }
}
