//! Dyadic T2: Hotelling's two-sample test of means in whitened coordinates, over windows of 16 to 384 frames
//! against everything before them since the reference began.
//!
//! With W frames in the window, n before it, and their means m: T2 = W n / (W + n) |m_W - m_n|^2 / r, where r is the variance
//! ratio of correlated frames. T2 is turned into a normal deviate, and the statistic is the largest of them. It is above a
//! threshold h about once in as many frames as were promised (see [`super::thresholds`]).
//!
//! The reference grows: what can be told from 64 frames is watched for from 64 frames on, in 8 coordinates; from 128, 256 and
//! 512 frames on the coordinates are fitted anew, and twice as many. A window must hold nothing of the reference that the
//! coordinates were fitted to, so the fit before goes on with the windows for which there is not yet room after a new one.
//!
//! Frames that become more correlated look like a change. For an alarm the variance ratio is therefore taken from the frames
//! since the change, where it is larger, and now and then from those that have settled, so that it follows the stream.
//!
//! Beside it runs a test that needs few scenes and sees brightness only ([`super::light`]).
//!
//! After an alarm the reference is collected anew. Two things may happen meanwhile. The same, gradual, change goes on: a
//! second alarm whose change lies within that new reference, and is a slope rather than a step, is no new boundary. Or
//! another change comes: a reference that holds a step is found when half of it, and when all of it, is there ([`super::place`]);
//! it is an alarm, and what followed the step begins the next reference.

use super::SegmentError;
use super::bytes::{Reader, Writer};
use super::comparison::{Comparison, WINDOWS};
use super::detector::{Change, Detector, Phase, Verdict};
use super::features::FeatureMap;
use super::light::LightWatch;
use super::place::Place;
use super::scenes::Scenes;
use super::thresholds;
use crate::config::DetectorKind;

/// Frames of the reference at which the coordinates are fitted.
const STAGES: [usize; 4] = [64, 128, 256, 512];
const LARGEST: usize = STAGES[STAGES.len() - 1];
/// Frames after an alarm in which another may belong to the same change.
const SETTLING: u64 = 768;
/// Taken from the deviate of brightness once there are enough independent frames for the test of all features, which sees it as
/// well: photographs are dark a few times in a row more often than a normal law has it.
const BESIDE_T2: f64 = 1.25;
/// It does where its change lies in the first so many frames since, and is no step.
const STILL_CHANGING: u64 = 320;

/// The default detector.
pub struct DyadicT2 {
    thresholds: Thresholds,
    scenes: Scenes,
    light: LightWatch,
    /// Features of the reference while it is collected, frame by frame.
    collected: Vec<f32>,
    frames_collected: usize,
    /// With the coordinates of the newest fit.
    comparison: Option<Comparison>,
    /// With those of the fit before.
    fading: Option<Comparison>,
    /// Distinct frames since the last alarm, while it settles.
    since_alarm: Option<u64>,
    change: Option<Change>,
}

/// What the statistics are compared with.
#[derive(Debug, Clone, Copy)]
struct Thresholds {
    drift: f64,
    warning: f64,
    light_drift: f64,
    light_warning: f64,
}

impl Thresholds {
    fn promising(frames: u64) -> Self {
        Self {
            drift: thresholds::drift(DetectorKind::DyadicT2, frames),
            warning: thresholds::warning(DetectorKind::DyadicT2, frames),
            light_drift: thresholds::light(frames),
            light_warning: thresholds::light_warning(frames),
        }
    }
}

impl DyadicT2 {
    /// A detector that raises about one false alarm in that many distinct frames.
    pub fn new(mean_frames_between_false_alarms: u64) -> Self {
        Self::with(Thresholds::promising(mean_frames_between_false_alarms))
    }

    /// A detector with thresholds of one's own that does not watch the light, for calibration.
    pub fn with_thresholds(drift: f64, warning: f64) -> Self {
        Self::with(Thresholds { drift, warning, light_drift: f64::INFINITY, light_warning: f64::INFINITY })
    }

    fn with(thresholds: Thresholds) -> Self {
        Self {
            thresholds,
            scenes: Scenes::default(),
            light: LightWatch::default(),
            collected: Vec::new(),
            frames_collected: 0,
            comparison: None,
            fading: None,
            since_alarm: None,
            change: None,
        }
    }

    /// Takes a frame into the reference; says where it holds a change, if it has been long enough to tell.
    fn collect(&mut self, features: &[f32]) -> Option<Place> {
        self.collected.extend_from_slice(features);
        self.frames_collected += 1;
        if !STAGES.contains(&self.frames_collected) {
            return None;
        }
        let mut comparison = Comparison::begin(&self.collected, features.len());
        let change = comparison.change_within();
        if change.is_none() {
            self.fading = self.comparison.replace(comparison);
            if self.frames_collected == LARGEST {
                self.collected = Vec::new();
            }
        }
        change
    }

    fn alarm(&mut self, place: Place) {
        let began = self.since_alarm.map(|since| since.saturating_sub(place.samples_back as u64));
        let finished = self.comparison.take();
        self.forget();
        let abrupt = || finished.is_some_and(|mut comparison| comparison.is_abrupt());
        let continues = began.is_some_and(|began| began < STILL_CHANGING) && !abrupt();
        self.changed(&place, continues);
    }

    /// Features of a frame of the reference.
    fn dimensions(&self) -> Option<usize> {
        let fitted = self.comparison.as_ref().map(Comparison::dimensions);
        fitted.or_else(|| self.collected.len().checked_div(self.frames_collected))
    }

    /// Forgets the reference.
    fn forget(&mut self) {
        (self.comparison, self.fading, self.frames_collected) = (None, None, 0);
        self.collected.clear();
    }

    fn changed(&mut self, &Place { samples_back, uncertainty, .. }: &Place, continues: bool) {
        self.light.restart(samples_back);
        self.change = Some(Change { samples_back, uncertainty, continues });
        self.since_alarm = Some(0);
    }

    /// Takes the brightness of the next distinct frame.
    fn watch_light(&mut self, features: &[f32]) -> Verdict {
        let Some(brightness) = FeatureMap::brightness(features) else { return Verdict::Stable };
        let begins = self.scenes.begins(features);
        self.light.push(brightness, begins);
        let deviate = self.light_deviate();
        if deviate > Some(self.thresholds.light_drift) {
            Verdict::Drift
        } else if deviate > Some(self.thresholds.light_warning) {
            Verdict::Warning
        } else {
            Verdict::Stable
        }
    }

    /// What the watch over brightness says, less where the test of all features can tell, too.
    fn light_deviate(&self) -> Option<f64> {
        let both = self.comparison.as_ref().is_some_and(Comparison::sees_light);
        Some(self.light.deviate()? - if both { BESIDE_T2 } else { 0.0 })
    }

    /// A change of light: the reference is no longer of use.
    fn light_changed(&mut self) {
        self.forget();
        let place = self.light.locate();
        self.changed(&place, false);
    }

    fn compare(&mut self, features: &[f32]) -> Verdict {
        [&mut self.comparison, &mut self.fading].into_iter().flatten().for_each(|comparison| comparison.push(features));
        let mut statistic = self.compared();
        if statistic > Some(self.thresholds.drift) {
            [&mut self.comparison, &mut self.fading].into_iter().flatten().for_each(Comparison::allow_for_correlation);
            statistic = self.compared();
        }
        if statistic > Some(self.thresholds.drift) {
            let place = self.comparison.as_mut().map(Comparison::locate);
            self.alarm(place.unwrap_or_default());
            return Verdict::Drift;
        }
        if self.frames_collected < LARGEST
            && let Some(place) = self.collect(features)
        {
            // What came before the change is no part of the new reference.
            let dimensions = features.len();
            let kept = self.collected.split_off((self.frames_collected - place.samples_back) * dimensions);
            self.forget();
            self.frames_collected = place.samples_back;
            if let Some(&stage) = STAGES.iter().rev().find(|&&stage| stage <= place.samples_back) {
                self.comparison = Some(Comparison::begin(&kept[..stage * dimensions], dimensions));
                let rest = kept[stage * dimensions..].chunks_exact(dimensions);
                rest.for_each(|frame| self.comparison.iter_mut().for_each(|comparison| comparison.push(frame)));
            }
            self.collected = kept;
            self.changed(&place, false);
            return Verdict::Drift;
        }
        if statistic > Some(self.thresholds.warning) { Verdict::Warning } else { Verdict::Stable }
    }

    /// The largest deviate: the newest fit's, and of the fit before those of the windows that the newest has no room for.
    fn compared(&self) -> Option<f64> {
        let newest = self.comparison.as_ref()?;
        let fading = self.fading.iter().flat_map(|fading| {
            WINDOWS.into_iter().filter(|&window| !newest.has_room(window)).filter_map(|window| fading.deviate(window))
        });
        WINDOWS.into_iter().filter_map(|window| newest.deviate(window)).chain(fading).reduce(f64::max)
    }
}

impl Detector for DyadicT2 {
    fn update(&mut self, features: &[f32]) -> Verdict {
        self.since_alarm = self.since_alarm.map(|since| since + 1).filter(|&since| since <= SETTLING);
        if self.frames_collected > 0 && self.dimensions() != Some(features.len()) {
            self.reset();
        }
        let light = self.watch_light(features);
        match self.compare(features) {
            Verdict::Drift => Verdict::Drift,
            _ if light == Verdict::Drift => {
                self.light_changed();
                Verdict::Drift
            }
            Verdict::Stable => light,
            Verdict::Warning => Verdict::Warning,
        }
    }

    /// The larger of the two tests' statistics, that of light in the proportion of the thresholds.
    fn statistic(&self) -> Option<f64> {
        let scale = self.thresholds.drift / self.thresholds.light_drift;
        let light = self.light_deviate().map(|deviate| scale * deviate);
        [self.compared(), light].into_iter().flatten().filter(|statistic| statistic.is_finite()).reduce(f64::max)
    }

    fn threshold(&self) -> f64 {
        self.thresholds.drift
    }

    fn warning_threshold(&self) -> f64 {
        self.thresholds.warning
    }

    fn promise(&mut self, mean_frames_between_false_alarms: u64) {
        self.thresholds = Thresholds::promising(mean_frames_between_false_alarms);
    }

    fn phase(&self) -> Phase {
        match (&self.since_alarm, &self.comparison) {
            (Some(_), _) => Phase::Settling,
            (None, Some(_)) => Phase::Armed,
            (None, None) => Phase::WarmingUp,
        }
    }

    fn reference(&self) -> (usize, usize) {
        (self.frames_collected, LARGEST)
    }

    fn variance_ratio(&self) -> Option<f64> {
        let compared = self.comparison.as_ref().map(Comparison::variance_ratio);
        compared.or(self.light.variance_ratio())
    }

    fn change(&self) -> Option<Change> {
        self.change
    }

    fn reset(&mut self) {
        *self = Self::with(self.thresholds);
    }

    fn state(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.f64(self.thresholds.drift);
        writer.optional(self.since_alarm);
        writer.u64(self.frames_collected as u64);
        writer.f32s(self.collected.iter());
        for comparison in [&self.comparison, &self.fading] {
            writer.u64(u64::from(comparison.is_some()));
            comparison.iter().for_each(|comparison| comparison.write(&mut writer));
        }
        self.scenes.write(&mut writer);
        self.light.write(&mut writer);
        writer.finish()
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), SegmentError> {
        self.reset();
        let mut reader = Reader::new(state);
        if reader.f64()?.to_bits() != self.thresholds.drift.to_bits() {
            return Err(SegmentError::State("it was written for another mean time between false alarms"));
        }
        let since_alarm = reader.optional()?;
        let frames_collected = reader.u64()?;
        let collected = reader.f32s()?;
        let whole = match frames_collected {
            0 => collected.is_empty(),
            frames if frames < LARGEST as u64 => (collected.len() as u64).is_multiple_of(frames),
            frames => frames == LARGEST as u64 && collected.is_empty(),
        };
        if !whole {
            return Err(SegmentError::State("its reference does not fit"));
        }
        let mut comparison = || Ok(if reader.u64()? == 1 { Some(Comparison::read(&mut reader)?) } else { None });
        let (newest, fading) = (comparison()?, comparison()?);
        if frames_collected >= STAGES[0] as u64 && newest.is_none() {
            return Err(SegmentError::State("its reference is not fitted"));
        }
        let (scenes, light) = (Scenes::read(&mut reader)?, LightWatch::read(&mut reader)?);
        reader.end()?;
        (self.since_alarm, self.collected) = (since_alarm, collected);
        (self.comparison, self.fading) = (newest, fading);
        (self.scenes, self.light) = (scenes, light);
        self.frames_collected = frames_collected as usize;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Seed;

    const DIMENSIONS: usize = 48;

    /// Independent Gaussian features of falling variance, with `shift` added to a few of them.
    fn frame(seed: u64, number: u64, shift: f64) -> Vec<f32> {
        let mut random = Seed(seed).random("frame", number);
        (0..DIMENSIONS)
            .map(|i| (random.normal() / (1.0 + i as f64 / 8.0) + if i % 5 == 0 { shift } else { 0.0 }) as f32)
            .collect()
    }

    #[test]
    fn without_a_change_the_statistic_is_that_of_its_law_and_no_alarm_is_raised() {
        for seed in 0..4 {
            let mut detector = DyadicT2::new(1_000_000);
            let mut statistics = Vec::new();
            for number in 0..4000 {
                assert_ne!(detector.update(&frame(seed, number, 0.0)), Verdict::Drift, "seed {seed}, frame {number}");
                statistics.extend(detector.statistic());
            }
            assert_eq!(detector.phase(), Phase::Armed);
            let mean = statistics.iter().sum::<f64>() / statistics.len() as f64;
            // The largest of five correlated deviates, in coordinates fitted to eight frames each: a little more than normal.
            assert!((0.0..2.2).contains(&mean), "mean statistic {mean}");
            assert!((1.0..1.3).contains(&detector.variance_ratio().unwrap()));
        }
    }

    #[test]
    fn a_change_is_found_soon_and_placed_where_it_happened() {
        for seed in 10..20 {
            let mut detector = DyadicT2::with_thresholds(6.0, 4.0);
            let alarm = (0..2000)
                .find(|&n| detector.update(&frame(seed, n, if n >= 1000 { 0.8 } else { 0.0 })) == Verdict::Drift);
            let alarm = alarm.expect("a change found");
            assert!((1000..1080).contains(&alarm), "alarm at {alarm}");
            let change = detector.change().unwrap();
            let first = alarm + 1 - change.samples_back as u64;
            assert!(
                first.abs_diff(1000) <= 8 + change.uncertainty as u64,
                "placed at {first} +- {}",
                change.uncertainty
            );
            assert!(!change.continues);
            assert_eq!(detector.phase(), Phase::Settling);
        }
    }

    #[test]
    fn a_gradual_change_is_one_change_and_a_second_abrupt_one_another() {
        let ramp = |n: u64| 2.0 * ((n as f64 - 1000.0) / 512.0).clamp(0.0, 1.0);
        let mut detector = DyadicT2::with_thresholds(6.0, 4.0);
        let mut changes = Vec::new();
        for n in 0..3000 {
            if detector.update(&frame(30, n, ramp(n))) == Verdict::Drift {
                changes.push(detector.change().unwrap().continues);
            }
        }
        assert_eq!(changes.iter().filter(|&&continues| !continues).count(), 1, "{changes:?}");
        let mut detector = DyadicT2::with_thresholds(6.0, 4.0);
        let mut changes = Vec::new();
        for n in 0..2500 {
            let shift = if n < 700 {
                0.0
            } else if n < 1250 {
                1.5
            } else {
                -1.5
            };
            if detector.update(&frame(31, n, shift)) == Verdict::Drift {
                changes.push(detector.change().unwrap().continues);
            }
        }
        assert_eq!(changes, [false, false]);
    }

    #[test]
    fn a_warning_comes_before_a_slow_drift() {
        let mut detector = DyadicT2::new(50_000);
        let mut warned = None;
        for n in 0..4000u64 {
            match detector.update(&frame(40, n, (n as f64 - 1000.0).max(0.0) / 1500.0)) {
                Verdict::Warning => warned = warned.or(Some(n)),
                Verdict::Drift => break,
                Verdict::Stable => {}
            }
        }
        assert!(warned.is_some());
        assert!(detector.warning_threshold() < detector.threshold());
    }

    #[test]
    fn correlated_frames_raise_the_variance_ratio() {
        let mut state = vec![0f32; DIMENSIONS];
        let mut detector = DyadicT2::new(50_000);
        for n in 0..300 {
            state.iter_mut().zip(frame(50, n, 0.0)).for_each(|(s, x)| *s = 0.9 * *s + x);
            detector.update(&state);
        }
        assert!(detector.variance_ratio().unwrap() > 4.0);
    }

    /// Frames as [`frame`] gives, each `memory` of the one before it, with the same variance.
    fn correlated(seed: u64, count: u64, memory: f64, shift: f64) -> impl Iterator<Item = Vec<f32>> {
        let mut state = frame(seed, 0, 0.0);
        (1..=count).map(move |number| {
            let fresh = (1.0 - memory * memory).sqrt() as f32;
            state.iter_mut().zip(frame(seed, number, 0.0)).for_each(|(s, x)| *s = memory as f32 * *s + fresh * x);
            state.iter().enumerate().map(|(i, &s)| s + if i % 5 == 0 { shift as f32 } else { 0.0 }).collect()
        })
    }

    #[test]
    fn frames_that_become_more_correlated_are_no_change_and_a_change_among_them_is_found() {
        let mut false_alarms = 0;
        for seed in 70..74 {
            let mut detector = DyadicT2::new(50_000);
            let mut drifts = |frames: &mut dyn Iterator<Item = Vec<f32>>| {
                frames.filter(|features| detector.update(features) == Verdict::Drift).count()
            };
            assert_eq!(drifts(&mut (0..1500).map(|n| frame(seed, n, 0.0))), 0);
            false_alarms += drifts(&mut correlated(100 + seed, 6000, 0.7, 0.0));
            let found = drifts(&mut correlated(200 + seed, 512, 0.7, 2.0));
            assert!((1..=2).contains(&found), "seed {seed}: {found} alarms after a change");
        }
        // The promise would be half of one.
        assert!(false_alarms <= 3, "{false_alarms} in 24,000 frames");
    }

    #[test]
    fn the_variance_ratio_follows_the_stream_within_a_task() {
        let mut detector = DyadicT2::new(50_000);
        (0..1500).for_each(|n| _ = detector.update(&frame(80, n, 0.0)));
        assert!(detector.variance_ratio() < Some(1.3));
        correlated(81, 2000, 0.7, 0.0).for_each(|features| _ = detector.update(&features));
        assert!(detector.variance_ratio() > Some(3.0), "{:?}", detector.variance_ratio());
        (0..1500).for_each(|n| _ = detector.update(&frame(82, n, 0.0)));
        assert!(detector.variance_ratio() < Some(1.5), "{:?}", detector.variance_ratio());
    }

    #[test]
    fn a_restored_detector_goes_on_bit_for_bit_and_refuses_damage() {
        for stop in [0u64, 100, 256, 900, 1100, 1400] {
            let shift = |n: u64| if n >= 1000 { 1.0 } else { 0.0 };
            let mut whole = DyadicT2::new(50_000);
            for n in 0..stop {
                whole.update(&frame(60, n, shift(n)));
            }
            let state = whole.state();
            let mut restored = DyadicT2::new(50_000);
            restored.restore(&state).unwrap();
            for n in stop..stop + 600 {
                let features = frame(60, n, shift(n));
                assert_eq!(whole.update(&features), restored.update(&features));
                assert_eq!(whole.statistic().map(f64::to_bits), restored.statistic().map(f64::to_bits));
            }
            assert_eq!(whole.state(), restored.state());
            assert!(restored.restore(&state[..state.len() - 1]).is_err());
            assert_eq!(restored.phase(), Phase::WarmingUp);
            assert!(DyadicT2::new(10_000).restore(&state).is_err());
        }
    }
}
