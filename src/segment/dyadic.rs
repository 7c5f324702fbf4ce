//! Dyadic T2: Hotelling's two-sample test of means in whitened coordinates, over windows of 16, 32, 64, 128 and 256 frames
//! against everything before them since the reference began.
//!
//! With W frames in the window, n before it, and their means m: T2 = W n / (W + n) |m_W - m_n|^2 / r, where r is the variance
//! ratio of correlated frames. T2 has about k degrees of freedom, so s_W = (T2 - k) / sqrt(2 k), and the statistic is the
//! largest s_W. It is above a threshold h about once in as many frames as were promised (see [`super::thresholds`]).
//!
//! Beside it runs a test that needs few frames and sees brightness only ([`super::light`]).
//!
//! After an alarm the reference is collected anew. Two things may happen meanwhile. The same, gradual, change goes on: a
//! second alarm whose change lies within that new reference, and is a slope rather than a step, is no new boundary. Or
//! another change comes: a reference that holds a step is found when half of it, and when all of it, is there ([`super::place`]);
//! it is an alarm, and what followed the step begins the next reference.

use super::SegmentError;
use super::bytes::{Reader, Writer, expect_length};
use super::detector::{Change, Detector, Phase, Verdict};
use super::features::FeatureMap;
use super::light::LightWatch;
use super::place::{Place, SHORTEST_SIDE, Seen, Sums, add, change_within, is_abrupt};
use super::thresholds;
use super::whitening::{COMPONENTS, Coordinates, Whitening};

/// Frames of a reference.
const REFERENCE: usize = 256;
const WINDOWS: [usize; 5] = [16, 32, 64, 128, 256];
/// Frames looked back on for where a change began.
const HISTORY: usize = 512;
/// Frames after an alarm in which another may belong to the same change.
const SETTLING: u64 = 768;
/// It does where its change lies in the reference collected since, or this little after it, and is no step.
const STILL_CHANGING: u64 = REFERENCE as u64 + 64;
/// Frames of the blocks whose means tell how correlated the frames are.
const BLOCKS: [usize; 3] = [16, 32, 64];
/// The default detector.
pub struct DyadicT2 {
    thresholds: Thresholds,
    light: LightWatch,
    /// Features of the reference while it is collected, frame by frame.
    collected: Vec<f32>,
    frames_collected: usize,
    comparison: Option<Comparison>,
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

/// What runs once there is a reference.
struct Comparison {
    whitening: Whitening,
    variance_ratio: f64,
    /// The newest coordinates, at most HISTORY, oldest first.
    history: std::collections::VecDeque<Coordinates>,
    /// Sum of all coordinates since the reference began, and how many.
    total: Sums,
    seen: u64,
    /// Sums of the newest frames by window.
    windows: [Sums; WINDOWS.len()],
    statistic: f64,
}

impl DyadicT2 {
    /// A detector that raises about one false alarm in that many distinct frames.
    pub fn new(mean_frames_between_false_alarms: u64) -> Self {
        Self::with(Thresholds {
            drift: thresholds::dyadic_t2_drift(mean_frames_between_false_alarms),
            warning: thresholds::dyadic_t2_warning(mean_frames_between_false_alarms),
            light_drift: thresholds::light(mean_frames_between_false_alarms),
            light_warning: thresholds::light_warning(mean_frames_between_false_alarms),
        })
    }

    /// A detector with thresholds of one's own that does not watch the light, for calibration.
    pub fn with_thresholds(drift: f64, warning: f64) -> Self {
        Self::with(Thresholds { drift, warning, light_drift: f64::INFINITY, light_warning: f64::INFINITY })
    }

    fn with(thresholds: Thresholds) -> Self {
        Self {
            thresholds,
            light: LightWatch::default(),
            collected: Vec::new(),
            frames_collected: 0,
            comparison: None,
            since_alarm: None,
            change: None,
        }
    }

    fn collect(&mut self, features: &[f32]) -> Verdict {
        if self.frames_collected > 0 && self.collected.len() != self.frames_collected * features.len() {
            self.reset();
        }
        self.collected.extend_from_slice(features);
        self.frames_collected += 1;
        if self.frames_collected != REFERENCE && self.frames_collected != REFERENCE / 2 {
            return Verdict::Stable;
        }
        let mut comparison = Comparison::begin(&self.collected, features.len());
        if let Some(place) = change_within(comparison.history.make_contiguous(), variance_ratio) {
            // What came before the change is no part of the new reference.
            self.collected.drain(..(self.frames_collected - place.samples_back) * features.len());
            self.frames_collected = place.samples_back;
            self.changed(&place, false);
            return Verdict::Drift;
        }
        if self.frames_collected == REFERENCE {
            self.comparison = Some(comparison);
            self.collected = Vec::new();
            self.frames_collected = 0;
        }
        Verdict::Stable
    }

    fn alarm(&mut self, place: Place) {
        let began = self.since_alarm.map(|since| since.saturating_sub(place.samples_back as u64));
        let finished = self.comparison.take();
        let abrupt = || finished.is_some_and(|mut comparison| comparison.is_abrupt());
        let continues = began.is_some_and(|began| began < STILL_CHANGING) && !abrupt();
        self.changed(&place, continues);
    }

    fn changed(&mut self, &Place { samples_back, uncertainty, .. }: &Place, continues: bool) {
        self.light.restart(samples_back);
        self.change = Some(Change { samples_back, uncertainty, continues });
        self.since_alarm = Some(0);
    }

    /// Takes the brightness of the next distinct frame.
    fn watch_light(&mut self, features: &[f32]) -> Verdict {
        let Some(brightness) = FeatureMap::brightness(features) else { return Verdict::Stable };
        self.light.push(brightness);
        let deviate = self.light.deviate();
        if deviate > Some(self.thresholds.light_drift) {
            Verdict::Drift
        } else if deviate > Some(self.thresholds.light_warning) {
            Verdict::Warning
        } else {
            Verdict::Stable
        }
    }

    /// A change of light: the reference is no longer of use.
    fn light_changed(&mut self) {
        (self.comparison, self.frames_collected) = (None, 0);
        self.collected.clear();
        let place = self.light.locate();
        self.changed(&place, false);
    }

    fn compare(&mut self, features: &[f32]) -> Verdict {
        let Some(comparison) = &mut self.comparison else {
            return self.collect(features);
        };
        comparison.push(features);
        let statistic = comparison.statistic;
        if statistic > self.thresholds.drift {
            let place = comparison.locate();
            self.alarm(place);
            return Verdict::Drift;
        }
        if statistic > self.thresholds.warning { Verdict::Warning } else { Verdict::Stable }
    }
}

impl Detector for DyadicT2 {
    fn update(&mut self, features: &[f32]) -> Verdict {
        self.since_alarm = self.since_alarm.map(|since| since + 1).filter(|&since| since <= SETTLING);
        if self.comparison.as_ref().is_some_and(|comparison| comparison.whitening.dimensions() != features.len()) {
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
        let light = self.light.deviate().map(|deviate| scale * deviate);
        let compared = self.comparison.as_ref().map(|comparison| comparison.statistic);
        [compared, light].into_iter().flatten().filter(|statistic| statistic.is_finite()).reduce(f64::max)
    }

    fn threshold(&self) -> f64 {
        self.thresholds.drift
    }

    fn warning_threshold(&self) -> f64 {
        self.thresholds.warning
    }

    fn phase(&self) -> Phase {
        match (&self.since_alarm, &self.comparison) {
            (Some(_), _) => Phase::Settling,
            (None, Some(_)) => Phase::Armed,
            (None, None) => Phase::WarmingUp,
        }
    }

    fn reference(&self) -> (usize, usize) {
        (if self.comparison.is_some() { REFERENCE } else { self.frames_collected }, REFERENCE)
    }

    fn variance_ratio(&self) -> Option<f64> {
        let compared = self.comparison.as_ref().map(|comparison| comparison.variance_ratio);
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
        writer.u64(u64::from(self.comparison.is_some()));
        if let Some(comparison) = &self.comparison {
            comparison.write(&mut writer);
        }
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
        let whole = if frames_collected == 0 {
            collected.is_empty()
        } else {
            (collected.len() as u64).is_multiple_of(frames_collected)
        };
        if frames_collected >= REFERENCE as u64 || !whole {
            return Err(SegmentError::State("its reference does not fit"));
        }
        let comparison = if reader.u64()? == 1 { Some(Comparison::read(&mut reader)?) } else { None };
        let light = LightWatch::read(&mut reader)?;
        reader.end()?;
        (self.since_alarm, self.collected, self.comparison) = (since_alarm, collected, comparison);
        self.light = light;
        self.frames_collected = frames_collected as usize;
        Ok(())
    }
}

impl Comparison {
    fn begin(reference: &[f32], dimensions: usize) -> Self {
        let mut comparison = Self {
            whitening: Whitening::fit(reference, dimensions),
            variance_ratio: 1.0,
            history: std::collections::VecDeque::with_capacity(HISTORY),
            total: [0.0; COMPONENTS],
            seen: 0,
            windows: [[0.0; COMPONENTS]; WINDOWS.len()],
            statistic: f64::NEG_INFINITY,
        };
        reference.chunks_exact(dimensions).for_each(|frame| comparison.push(frame));
        comparison.variance_ratio = variance_ratio(comparison.history.make_contiguous());
        comparison
    }

    fn push(&mut self, features: &[f32]) {
        let coordinates = self.whitening.apply(features);
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(coordinates);
        self.seen += 1;
        add(&mut self.total, &coordinates, 1.0);
        self.statistic = f64::NEG_INFINITY;
        for (index, window) in WINDOWS.into_iter().enumerate() {
            add(&mut self.windows[index], &coordinates, 1.0);
            if self.history.len() > window {
                add(&mut self.windows[index], &self.history[self.history.len() - 1 - window], -1.0);
            }
            // Only windows that hold nothing of the reference: its coordinates were fitted to it.
            if self.seen >= (REFERENCE + window) as u64 {
                let t2 = self.seen().t2(&self.windows[index], window as u64);
                let degrees = COMPONENTS as f64;
                self.statistic = self.statistic.max((t2 - degrees) / (2.0 * degrees).sqrt());
            }
        }
    }

    fn locate(&mut self) -> Place {
        self.history.make_contiguous();
        self.seen().locate(self.history.as_slices().0, SHORTEST_SIDE)
    }

    fn is_abrupt(&mut self) -> bool {
        is_abrupt(self.history.make_contiguous(), self.variance_ratio)
    }

    fn seen(&self) -> Seen<'_> {
        Seen { total: &self.total, frames: self.seen, variance_ratio: self.variance_ratio }
    }

    fn write(&self, writer: &mut Writer) {
        self.whitening.write(writer);
        writer.f64(self.variance_ratio);
        writer.f64(self.statistic);
        writer.u64(self.seen);
        writer.f64s(&self.total);
        writer.f64s(self.windows.as_flattened());
        let flat: Vec<f32> = self.history.iter().flatten().copied().collect();
        writer.f32s(flat.iter());
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, SegmentError> {
        let whitening = Whitening::read(reader)?;
        let (variance_ratio, statistic, seen) = (reader.f64()?, reader.f64()?, reader.u64()?);
        let total = expect_length(reader.f64s()?, COMPONENTS)?;
        let windows = expect_length(reader.f64s()?, COMPONENTS * WINDOWS.len())?;
        let flat = reader.f32s()?;
        let (history, rest) = flat.as_chunks::<COMPONENTS>();
        let kept = seen.min(HISTORY as u64) as usize;
        if seen < REFERENCE as u64 || history.len() != kept || !rest.is_empty() || variance_ratio.is_nan() {
            return Err(SegmentError::State("its history does not fit"));
        }
        Ok(Self {
            whitening,
            variance_ratio,
            history: history.iter().copied().collect(),
            total: std::array::from_fn(|i| total[i]),
            seen,
            windows: std::array::from_fn(|w| std::array::from_fn(|i| windows[w * COMPONENTS + i])),
            statistic,
        })
    }
}

/// How much more means of consecutive frames vary than those of independent ones: the largest [`block_ratio`] by length of
/// block, each less twice its standard error, since few long blocks would otherwise find correlation in any frames.
fn variance_ratio(frames: &[Coordinates]) -> f64 {
    let doubt = |block: usize| {
        let degrees = (frames.len() / block - 1) * COMPONENTS;
        if block == BLOCKS[0] { 1.0 } else { 1.0 - 2.0 * (2.0 / degrees as f64).sqrt() }
    };
    BLOCKS.into_iter().map(|block| doubt(block) * block_ratio(frames, block)).fold(1.0, f64::max)
}

/// The variance of block means times the block's length, over the variance of single frames, averaged over the
/// coordinates: 1 for independent frames, up to the block's length for frames that hardly change.
fn block_ratio(frames: &[Coordinates], block: usize) -> f64 {
    let ratios = (0..COMPONENTS).filter_map(|component| {
        let values: Vec<f64> = frames.iter().map(|z| f64::from(z[component])).collect();
        let means: Vec<f64> =
            values.chunks_exact(block).map(|block| block.iter().sum::<f64>() / block.len() as f64).collect();
        let single = variance(&values);
        (single > 1e-6).then(|| block as f64 * variance(&means) / single)
    });
    let (sum, count) = ratios.fold((0.0, 0), |(sum, count), ratio| (sum + ratio, count + 1));
    if count == 0 { 1.0 } else { sum / f64::from(count) }
}

fn variance(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (values.len() - 1) as f64
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
            // The largest of five standardised values with as many degrees of freedom, slightly shrunk.
            assert!((-1.0..1.2).contains(&mean), "mean statistic {mean}");
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
