//! Changes of light: whether the image has become much brighter or darker, from very few distinct frames.
//!
//! A video has few independent frames: its neighbours show the same scene. Thirty of them cannot tell the covariance of
//! hundreds of features, but they tell one number whose usual spread is known beforehand. The number is the logarithm of
//! brightness, its mean over a scene ([`super::scenes`]): a long scene says no more than a short one. Its spread within a task is
//! shrunk towards that of photographs, and towards that of the tasks before.
//!
//! Of the newest W scenes (3 to 64) against the n before them, which are all since the last boundary, and for the shorter windows also
//! the 48 right before (a change that went unnoticed blurs what lies further back): t2 = W n / (W + n) d^2 / (r v), with d
//! the difference of the means, v the variance within both, and r the variance ratio of correlated scenes, 1 + 2 sum_L
//! rho_L over the lags up to the first whose correlation is within noise; few scenes do not tell it, so that what it was before the
//! last boundary counts as well. It has about (W + n - 2) / r and the prior's
//! degrees of freedom, and is turned into a normal deviate (Wallace, Ann. Math. Stat. 30, 1959). Smaller changes than 0.5
//! natural units (a factor of 1.65) are left to the test of all features.
//!
//! The constants were chosen on GTSRB's tracks, in other shufflings than the benchmark's.

use std::collections::VecDeque;

use super::SegmentError;
use super::bytes::{Reader, Writer, expect_length};
use super::place::Place;

/// Scenes of the windows, and the fewest frames of one: photographs are a scene each.
const WINDOWS: [usize; 6] = [3, 4, 8, 16, 32, 64];
const FEWEST_FRAMES: f64 = 6.0;
/// Scenes kept one by one.
const LONGEST: usize = 128;
/// Scenes right before a window that it is compared with, the fewest, and the longest such window.
const NEAR: usize = 48;
const FEWEST_NEAR: usize = 12;
const LONGEST_NEAR: usize = 32;
/// There must have been more than this many for a change among them to have gone unnoticed.
const UNNOTICED: f64 = 64.0;
/// Fewest scenes before the window.
const BEFORE: f64 = 6.0;
/// Lags that correlation is looked for at.
const LAGS: usize = 8;
/// Natural units of brightness: less is no change of light.
const SMALLEST_CHANGE: f64 = 0.5;
/// Usual variance of a task's brightness, and how many scenes' worth it is trusted.
const PRIOR_VARIANCE: f64 = 0.05;
const PRIOR_SCENES: f64 = 20.0;
/// The same for tasks before this one, at most.
const EARLIER_SCENES: f64 = 40.0;
/// Scenes' worth that the variance ratio of the tasks before is trusted, and scenes of a task for it to count in full.
const EARLIER_RATIO_SCENES: f64 = 24.0;
const SCENES_FOR_RATIO: f64 = 40.0;
/// The variance ratio that a stream begins with: it is not yet known how far its scenes resemble one another.
const FIRST_RATIO: f64 = 4.0;
/// A scene counts in a window as at most so many standard deviations from the scenes before it.
const CLIP: f64 = 4.0;
/// Scenes remembered in full weight; beyond twice as many the older ones count half.
const MEMORY: f64 = 1024.0;

/// What is kept of one scene.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Scene {
    /// The mean over its frames.
    brightness: f64,
    frames: f64,
    /// The variance ratio when it began.
    ratio: f64,
}

/// Count, sum and sum of squares.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Sums {
    count: f64,
    sum: f64,
    squares: f64,
}

impl Sums {
    fn add(&mut self, x: f64) {
        self.count += 1.0;
        self.sum += x;
        self.squares += x * x;
    }

    fn halve(&mut self) {
        (self.count, self.sum, self.squares) = (0.5 * self.count, 0.5 * self.sum, 0.5 * self.squares);
    }

    fn mean(&self) -> f64 {
        self.sum / self.count
    }

    /// Sum of squares about the mean.
    fn scatter(&self) -> f64 {
        (self.squares - self.sum * self.mean()).max(0.0)
    }
}

/// The watch over one stream's brightness.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LightWatch {
    /// The brightness that sums are taken from, so that they do not cancel.
    origin: Option<f64>,
    /// Scenes older than those of `recent`.
    settled: Sums,
    /// The newest scenes, oldest first; the last one goes on.
    recent: VecDeque<Scene>,
    correlation: Correlation,
    /// Scatter and scenes' worth of the tasks before.
    earlier: (f64, f64),
    /// Variance ratio of the tasks before, and how far it counts (0 to 1).
    earlier_ratio: (f64, f64),
    deviate: Option<f64>,
}

impl Default for LightWatch {
    fn default() -> Self {
        Self {
            origin: None,
            settled: Sums::default(),
            recent: VecDeque::with_capacity(LONGEST + 1),
            correlation: Correlation::default(),
            earlier: (0.0, 0.0),
            earlier_ratio: (FIRST_RATIO, 1.0),
            deviate: None,
        }
    }
}

impl LightWatch {
    /// Takes the next distinct frame's brightness; whether a scene begins with it.
    pub fn push(&mut self, brightness: f64, begins: bool) {
        let x = brightness - *self.origin.get_or_insert(brightness);
        match self.recent.back_mut().filter(|_| !begins) {
            Some(scene) => {
                scene.frames += 1.0;
                scene.brightness += (x - scene.brightness) / scene.frames;
            }
            None => self.begin(x, 1.0),
        }
        self.deviate = self.test();
    }

    /// The scene before is finished.
    fn begin(&mut self, brightness: f64, frames: f64) {
        if let Some(finished) = self.recent.back() {
            self.correlation.push(finished.brightness);
        }
        self.recent.push_back(Scene { brightness, frames, ratio: self.ratio() });
        if self.recent.len() > LONGEST
            && let Some(scene) = self.recent.pop_front()
        {
            self.settled.add(scene.brightness);
        }
        if self.settled.count >= 2.0 * MEMORY {
            self.settled.halve();
        }
    }

    /// The normal deviate of the most telling window; none where no window shows a change worth the name.
    pub fn deviate(&self) -> Option<f64> {
        self.deviate
    }

    /// The variance ratio of the newest scenes.
    pub fn variance_ratio(&self) -> Option<f64> {
        self.recent.back().map(|scene| scene.ratio)
    }

    /// The variance ratio by now, with what it was before.
    fn ratio(&self) -> f64 {
        let (earlier, counts) = self.earlier_ratio;
        let (scenes, before) = (self.correlation.sums.count, EARLIER_RATIO_SCENES * counts);
        (scenes * self.correlation.ratio() + before * earlier) / (scenes + before)
    }

    fn test(&self) -> Option<f64> {
        let mut before = self.settled;
        let mut all = self.settled;
        self.recent.iter().for_each(|scene| all.add(scene.brightness));
        let (mut taken, mut best) = (0, None);
        for window in WINDOWS.into_iter().rev() {
            let Some(start) = self.recent.len().checked_sub(window) else { continue };
            self.recent.range(taken..start).for_each(|scene| before.add(scene.brightness));
            taken = start;
            if before.count >= BEFORE {
                best = [best, self.compare(&before, &all, start)].into_iter().flatten().reduce(f64::max);
            }
            if window <= LONGEST_NEAR && start >= FEWEST_NEAR && all.count > UNNOTICED {
                best = [best, self.compare_near(start)].into_iter().flatten().reduce(f64::max);
            }
        }
        best
    }

    /// The deviate of the scenes from `start` on against those right before.
    fn compare_near(&self, start: usize) -> Option<f64> {
        let (mut near, mut both) = (Sums::default(), Sums::default());
        let from = start.saturating_sub(NEAR);
        self.recent.range(from..start).for_each(|scene| near.add(scene.brightness));
        self.recent.range(from..).for_each(|scene| both.add(scene.brightness));
        self.compare(&near, &both, start)
    }

    /// The deviate of the scenes from `start` on against those before.
    fn compare(&self, before: &Sums, all: &Sums, start: usize) -> Option<f64> {
        let window = (self.recent.len() - start) as f64;
        let newest = start.checked_sub(1).and_then(|at| self.recent.get(at));
        let ratio = newest.map_or_else(|| self.ratio(), |scene| scene.ratio);
        if window < ratio || before.count < ratio || self.frames(window as usize) < FEWEST_FRAMES {
            return None;
        }
        let difference = (all.sum - before.sum) / window - before.mean();
        let share = before.count * window / all.count;
        let within = (all.scatter() - difference * difference * share).max(0.0);
        let freedom = PRIOR_SCENES + self.earlier.1 + (all.count - 2.0) / ratio;
        let variance = (PRIOR_SCENES * PRIOR_VARIANCE + self.earlier.0 + within / ratio) / freedom;
        let limit = CLIP * variance.sqrt();
        let clipped = |scene: &Scene| (scene.brightness - before.mean()).clamp(-limit, limit);
        let difference = self.recent.range(start..).map(clipped).sum::<f64>() / window;
        if difference.abs() < SMALLEST_CHANGE {
            return None;
        }
        let t2 = difference * difference * share / (ratio * variance);
        Some((freedom * (1.0 + t2 / freedom).ln()).sqrt() * (8.0 * freedom + 1.0) / (8.0 * freedom + 3.0))
    }

    /// Frames of the newest `scenes`.
    fn frames(&self, scenes: usize) -> f64 {
        self.recent.iter().rev().take(scenes).map(|scene| scene.frames).sum()
    }

    /// The split of the newest scenes that separates best, and how sure that is: as in [`super::place`], in one dimension. The
    /// place is in frames.
    pub fn locate(&self) -> Place {
        let mut all = self.settled;
        self.recent.iter().for_each(|scene| all.add(scene.brightness));
        let mut inside = Sums::default();
        let longest = self.recent.len().min((all.count as usize).saturating_sub(2));
        let mut curve = vec![f64::NEG_INFINITY; longest + 1];
        for (back, scene) in (1..=longest).zip(self.recent.iter().rev()) {
            inside.add(scene.brightness);
            let (n, rest) = (inside.count, all.count - inside.count);
            let difference = inside.mean() - (all.sum - inside.sum) / rest;
            curve[back] = difference * difference * n * rest / all.count;
        }
        let best = Place::of(&curve, 1.0).samples_back;
        let within = (all.scatter() - curve.get(best).copied().unwrap_or(0.0)).max(0.0) / (all.count - 2.0).max(1.0);
        let before = self.recent.len().checked_sub(best + 1).and_then(|at| self.recent.get(at));
        let place = Place::of(&curve, before.map_or(1.0, |scene| scene.ratio) * within.max(1e-12));
        let (back, sure) = (self.frames(place.samples_back), self.frames(place.samples_back + place.uncertainty));
        Place { samples_back: back as usize, uncertainty: (sure - back) as usize, ..place }
    }

    /// Begins anew with the scenes of the newest `samples_back` frames; what came before tells how much brightness varies within a task.
    pub fn restart(&mut self, samples_back: usize) {
        let since = (1..=self.recent.len()).take_while(|&scenes| self.frames(scenes) <= samples_back as f64).count();
        let kept = self.recent.split_off(self.recent.len() - since);
        let mut before = self.settled;
        self.recent.iter().for_each(|scene| before.add(scene.brightness));
        self.earlier_ratio = self.ratio_before();
        let trust = (before.count / 2.0).min(EARLIER_SCENES / 2.0);
        if before.count >= BEFORE {
            let scatter = 0.5 * self.earlier.0 + trust * before.scatter() / before.count;
            self.earlier = (scatter, 0.5 * self.earlier.1 + trust);
        }
        let origin = self.origin.filter(|_| !kept.is_empty());
        *self = Self { origin, earlier: self.earlier, earlier_ratio: self.earlier_ratio, ..Self::default() };
        kept.iter().for_each(|scene| self.begin(scene.brightness, scene.frames));
        self.deviate = self.test();
    }

    /// The variance ratio that the next task begins with: half of what counted for this one, and this one's own.
    fn ratio_before(&self) -> (f64, f64) {
        let Some(newest) = self.recent.back() else { return self.earlier_ratio };
        let own = ((self.settled.count + self.recent.len() as f64) / SCENES_FOR_RATIO).min(1.0);
        let half = 0.5 * self.earlier_ratio.1;
        ((own * newest.ratio + half * self.earlier_ratio.0) / (own + half), (own + half).min(1.0))
    }

    pub fn write(&self, writer: &mut Writer) {
        writer.optional(self.origin.map(f64::to_bits));
        writer.optional(self.deviate.map(f64::to_bits));
        let ((scatter, frames), (ratio, counts)) = (self.earlier, self.earlier_ratio);
        let Sums { count, sum, squares } = self.settled;
        writer.f64s(&[count, sum, squares, scatter, frames, ratio, counts]);
        let recent: Vec<f64> =
            self.recent.iter().flat_map(|scene| [scene.brightness, scene.frames, scene.ratio]).collect();
        writer.f64s(&recent);
        self.correlation.write(writer);
    }

    pub fn read(reader: &mut Reader<'_>) -> Result<Self, SegmentError> {
        let (origin, deviate) = (reader.optional()?, reader.optional()?);
        let sums = expect_length(reader.f64s()?, 7)?;
        let recent = reader.f64s()?;
        if recent.len() > 3 * LONGEST || !recent.len().is_multiple_of(3) {
            return Err(SegmentError::State("its brightness does not fit"));
        }
        Ok(Self {
            origin: origin.map(f64::from_bits),
            deviate: deviate.map(f64::from_bits),
            settled: Sums { count: sums[0], sum: sums[1], squares: sums[2] },
            earlier: (sums[3], sums[4]),
            earlier_ratio: (sums[5], sums[6]),
            recent: recent
                .as_chunks::<3>()
                .0
                .iter()
                .map(|&[brightness, frames, ratio]| Scene { brightness, frames, ratio })
                .collect(),
            correlation: Correlation::read(reader)?,
        })
    }
}

/// Running correlation of a series with itself.
#[derive(Debug, Clone, Default, PartialEq)]
struct Correlation {
    sums: Sums,
    /// Sums of products at lag 1, 2, ...
    products: [f64; LAGS],
    /// Values at the beginning and the newest ones, which the products at a lag leave out.
    first: Vec<f64>,
    last: VecDeque<f64>,
}

impl Correlation {
    fn push(&mut self, x: f64) {
        for (product, earlier) in self.products.iter_mut().zip(self.last.iter().rev()) {
            *product += x * earlier;
        }
        self.sums.add(x);
        if self.first.len() < LAGS {
            self.first.push(x);
        }
        self.last.push_back(x);
        if self.last.len() > LAGS {
            self.last.pop_front();
        }
        if self.sums.count >= 2.0 * MEMORY {
            self.sums.halve();
            self.products.iter_mut().for_each(|product| *product *= 0.5);
        }
    }

    /// 1 + 2 sum_L rho_L, up to the first lag within noise (twice 1 / sqrt n); 1 for independent values. The mean is the
    /// series' own, which makes every correlation too small by about r / n.
    fn ratio(&self) -> f64 {
        let n = self.sums.count;
        let variance = self.sums.scatter() / n;
        if n < 4.0 || variance <= 1e-12 {
            return 1.0;
        }
        let mean = self.sums.mean();
        let (mut ratio, mut head, mut tail) = (1.0, 0.0, 0.0);
        for lag in 1..=LAGS.min(n as usize / 2) {
            head += self.first[lag - 1];
            tail += self.last[self.last.len() - lag];
            let pairs = n - lag as f64;
            let both = 2.0 * self.sums.sum - head - tail;
            let covariance = (self.products[lag - 1] - mean * both) / pairs + mean * mean;
            let correlation = covariance / variance + 1.0 / n;
            if correlation < 2.0 / n.sqrt() {
                break;
            }
            ratio += 2.0 * correlation;
        }
        ratio / (1.0 - ratio / n).max(0.4)
    }

    fn write(&self, writer: &mut Writer) {
        writer.f64s(&[self.sums.count, self.sums.sum, self.sums.squares]);
        writer.f64s(&self.products);
        writer.f64s(&self.first);
        writer.f64s(&self.last.iter().copied().collect::<Vec<f64>>());
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, SegmentError> {
        let sums = expect_length(reader.f64s()?, 3)?;
        let products = expect_length(reader.f64s()?, LAGS)?;
        let (first, last) = (reader.f64s()?, reader.f64s()?);
        if first.len() != last.len() || first.len() != (sums[0] as usize).min(LAGS) {
            return Err(SegmentError::State("its correlation does not fit"));
        }
        Ok(Self {
            sums: Sums { count: sums[0], sum: sums[1], squares: sums[2] },
            products: std::array::from_fn(|i| products[i]),
            first,
            last: last.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::thresholds;
    use super::*;
    use crate::config::Seed;

    /// Brightness of scenes of `length` frames each, independent of one another, with little noise within; whether one begins.
    fn scenes(seed: u64, count: u64, length: u64, level: f64, spread: f64) -> Vec<(f64, bool)> {
        let scene = |n| level + spread * Seed(seed).random("scene", n).normal();
        let noise = |n| 0.02 * Seed(seed).random("noise", n).normal();
        (0..count * length).map(|n| (scene(n / length) + noise(n), n.is_multiple_of(length))).collect()
    }

    fn alarm(watch: &mut LightWatch, series: &[(f64, bool)], threshold: f64) -> Option<usize> {
        series.iter().position(|&(x, begins)| {
            watch.push(x, begins);
            watch.deviate() > Some(threshold)
        })
    }

    #[test]
    fn a_halved_light_is_found_after_a_few_scenes_and_placed_where_it_changed() {
        for seed in 0..10 {
            let mut watch = LightWatch::default();
            let series = [scenes(seed, 20, 5, -0.5, 0.2), scenes(seed + 50, 12, 5, -1.4, 0.2)].concat();
            let at = alarm(&mut watch, &series, thresholds::light(50_000)).expect("a change found");
            assert!((100..140).contains(&at), "seed {seed}: alarm at {at}");
            let place = watch.locate();
            let first = at + 1 - place.samples_back;
            assert!(first.abs_diff(100) <= 5 + place.uncertainty, "seed {seed}: {first} +- {}", place.uncertainty);
            watch.restart(place.samples_back);
            assert_eq!(
                alarm(&mut watch, &scenes(seed + 90, 100, 5, -1.4, 0.2), thresholds::light(50_000)),
                None,
                "seed {seed}"
            );
        }
    }

    #[test]
    fn the_ratio_is_that_of_scenes_and_one_for_independent_frames() {
        let ratio = |length| {
            let mut watch = LightWatch::default();
            // Cuts that are not seen, as in video that pans.
            scenes(3, 400 / length, length, 0.0, 0.2).into_iter().for_each(|(x, _)| watch.push(x, true));
            watch.variance_ratio().unwrap()
        };
        assert!((1.0..1.4).contains(&ratio(1)), "{}", ratio(1));
        assert!((2.5..6.5).contains(&ratio(4)), "{}", ratio(4));
        assert!((5.0..13.0).contains(&ratio(8)), "{}", ratio(8));
    }

    #[test]
    fn constant_light_is_no_change_and_no_division_by_zero() {
        let mut watch = LightWatch::default();
        (0..5000).for_each(|_| watch.push(-3.0, true));
        assert_eq!(watch.deviate(), None);
        // What it began with has faded.
        assert!(watch.variance_ratio() < Some(1.1));
    }

    #[test]
    fn memory_of_long_ago_fades_and_small_changes_are_left_alone() {
        let mut watch = LightWatch::default();
        for n in 0..20_000u64 {
            let slow = 0.8 * (n as f64 / 20_000.0 * std::f64::consts::TAU).sin();
            watch.push(slow + 0.15 * Seed(4).random("slow", n).normal(), true);
            assert!(watch.deviate() < Some(3.4), "frame {n}");
        }
        assert!(watch.settled.count < 2.0 * MEMORY);
    }

    #[test]
    fn a_restored_watch_goes_on_bit_for_bit() {
        let series = scenes(7, 60, 5, 0.0, 0.3);
        for stop in [0, 3, 70, 200] {
            let mut whole = LightWatch::default();
            series[..stop].iter().for_each(|&(x, begins)| whole.push(x, begins));
            let mut writer = Writer::default();
            whole.write(&mut writer);
            let bytes = writer.finish();
            let mut restored = LightWatch::read(&mut Reader::new(&bytes)).unwrap();
            assert_eq!(restored, whole);
            series[stop..].iter().for_each(|&(x, begins)| {
                whole.push(x, begins);
                restored.push(x, begins);
            });
            assert_eq!(restored, whole);
            assert!(LightWatch::read(&mut Reader::new(&bytes[..bytes.len() - 1])).is_err());
        }
    }
}
