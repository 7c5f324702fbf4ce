//! What the simpler detectors have in common: a reference of 256 frames, fitted coordinates, and a way to place a change.
//!
//! A [`Test`] sees coordinates and gives a statistic. They are here to be compared with: the default is better on every stream
//! that was measured.

use std::collections::VecDeque;

use super::bytes::{Reader, Writer, expect_length};
use super::detector::{Change, Detector, Phase, Verdict};
use super::place::{SHORTEST_SIDE, Seen, Sums, add, is_abrupt};
use super::whitening::{COMPONENTS, Coordinates, Whitening};
use super::{SegmentError, thresholds};
use crate::config::DetectorKind;

/// Frames of the reference.
pub(super) const REFERENCE: usize = 256;
/// Frames looked back on for where a change began.
const HISTORY: usize = 512;
const SETTLING: u64 = 768;
const STILL_CHANGING: u64 = 320;

/// A test on coordinates.
pub(super) trait Test: Send + Sync + Sized {
    /// The detector made of it.
    const KIND: DetectorKind;
    /// With the coordinates of the reference.
    fn begin(reference: &[Coordinates]) -> Self;
    /// Takes the next frame; the statistic, once there is one.
    fn update(&mut self, coordinates: &Coordinates) -> Option<f64>;
    fn write(&self, writer: &mut Writer);
    /// # Errors
    /// If what is read does not fit.
    fn read(reader: &mut Reader<'_>) -> Result<Self, SegmentError>;
}

/// A detector of one [`Test`].
pub(super) struct Referenced<T> {
    drift: f64,
    warning: f64,
    collected: Vec<f32>,
    frames_collected: usize,
    running: Option<Running<T>>,
    since_alarm: Option<u64>,
    change: Option<Change>,
}

struct Running<T> {
    whitening: Whitening,
    variance_ratio: f64,
    test: T,
    statistic: Option<f64>,
    history: VecDeque<Coordinates>,
    total: Sums,
    seen: u64,
}

impl<T: Test> Referenced<T> {
    pub fn new(drift: f64, warning: f64) -> Self {
        Self {
            drift,
            warning,
            collected: Vec::new(),
            frames_collected: 0,
            running: None,
            since_alarm: None,
            change: None,
        }
    }

    fn alarm(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        let history = running.history.make_contiguous();
        let seen = Seen { total: &running.total, frames: running.seen, variance_ratio: running.variance_ratio };
        let place = seen.locate(history, SHORTEST_SIDE);
        let began = self.since_alarm.map(|since| since.saturating_sub(place.samples_back as u64));
        let continues =
            began.is_some_and(|began| began < STILL_CHANGING) && !is_abrupt(history, running.variance_ratio);
        self.change = Some(Change { samples_back: place.samples_back, uncertainty: place.uncertainty, continues });
        self.since_alarm = Some(0);
    }

    fn collect(&mut self, features: &[f32]) {
        if self.frames_collected > 0 && self.collected.len() != self.frames_collected * features.len() {
            self.reset();
        }
        self.collected.extend_from_slice(features);
        self.frames_collected += 1;
        if self.frames_collected == REFERENCE {
            self.running = Some(Running::begin(&self.collected, features.len()));
            (self.collected, self.frames_collected) = (Vec::new(), 0);
        }
    }
}

impl<T: Test> Detector for Referenced<T> {
    fn update(&mut self, features: &[f32]) -> Verdict {
        self.since_alarm = self.since_alarm.map(|since| since + 1).filter(|&since| since <= SETTLING);
        if self.running.as_ref().is_some_and(|running| running.whitening.dimensions() != features.len()) {
            self.reset();
        }
        let Some(running) = &mut self.running else {
            self.collect(features);
            return Verdict::Stable;
        };
        running.push(features);
        let statistic = running.statistic;
        if statistic > Some(self.drift) {
            self.alarm();
            return Verdict::Drift;
        }
        if statistic > Some(self.warning) { Verdict::Warning } else { Verdict::Stable }
    }

    fn statistic(&self) -> Option<f64> {
        self.running.as_ref()?.statistic
    }

    fn threshold(&self) -> f64 {
        self.drift
    }

    fn warning_threshold(&self) -> f64 {
        self.warning
    }

    fn promise(&mut self, mean_frames_between_false_alarms: u64) {
        self.drift = thresholds::drift(T::KIND, mean_frames_between_false_alarms);
        self.warning = thresholds::warning(T::KIND, mean_frames_between_false_alarms);
    }

    fn phase(&self) -> Phase {
        match (&self.since_alarm, &self.running) {
            (Some(_), _) => Phase::Settling,
            (None, Some(_)) => Phase::Armed,
            (None, None) => Phase::WarmingUp,
        }
    }

    fn reference(&self) -> (usize, usize) {
        (if self.running.is_some() { REFERENCE } else { self.frames_collected }, REFERENCE)
    }

    fn variance_ratio(&self) -> Option<f64> {
        self.running.as_ref().map(|running| running.variance_ratio)
    }

    fn change(&self) -> Option<Change> {
        self.change
    }

    fn reset(&mut self) {
        *self = Self::new(self.drift, self.warning);
    }

    fn state(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.f64(self.drift);
        writer.optional(self.since_alarm);
        writer.u64(self.frames_collected as u64);
        writer.f32s(self.collected.iter());
        writer.u64(u64::from(self.running.is_some()));
        self.running.iter().for_each(|running| running.write(&mut writer));
        writer.finish()
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), SegmentError> {
        self.reset();
        let mut reader = Reader::new(state);
        if reader.f64()?.to_bits() != self.drift.to_bits() {
            return Err(SegmentError::State("it was written for another mean time between false alarms"));
        }
        let since_alarm = reader.optional()?;
        let frames = reader.u64()? as usize;
        let collected = reader.f32s()?;
        if frames >= REFERENCE || collected.len().checked_rem(frames).unwrap_or(collected.len()) != 0 {
            return Err(SegmentError::State("its reference does not fit"));
        }
        let running = if reader.u64()? == 1 { Some(Running::read(&mut reader)?) } else { None };
        reader.end()?;
        (self.since_alarm, self.frames_collected, self.collected) = (since_alarm, frames, collected);
        self.running = running;
        Ok(())
    }
}

impl<T: Test> Running<T> {
    fn begin(reference: &[f32], dimensions: usize) -> Self {
        let (whitening, variance_ratio) = Whitening::fit(reference, dimensions);
        let history: VecDeque<Coordinates> =
            reference.chunks_exact(dimensions).map(|frame| whitening.apply(frame)).collect();
        let mut total = [0.0; COMPONENTS];
        history.iter().for_each(|coordinates| add(&mut total, coordinates, 1.0));
        let (reference, _) = history.as_slices();
        let test = T::begin(reference);
        let seen = history.len() as u64;
        Self { whitening, variance_ratio, test, statistic: None, history, total, seen }
    }

    fn push(&mut self, features: &[f32]) {
        let coordinates = self.whitening.apply(features);
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(coordinates);
        add(&mut self.total, &coordinates, 1.0);
        self.seen += 1;
        self.statistic = self.test.update(&coordinates).filter(|statistic| statistic.is_finite());
    }

    fn write(&self, writer: &mut Writer) {
        self.whitening.write(writer);
        writer.f64(self.variance_ratio);
        self.test.write(writer);
        writer.optional(self.statistic.map(f64::to_bits));
        writer.u64(self.seen);
        writer.f64s(&self.total);
        write_coordinates(writer, self.history.iter());
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, SegmentError> {
        let (whitening, variance_ratio) = (Whitening::read(reader)?, reader.f64()?);
        let test = T::read(reader)?;
        let statistic = reader.optional()?.map(f64::from_bits);
        let seen = reader.u64()?;
        let total = expect_length(reader.f64s()?, COMPONENTS)?;
        let history: VecDeque<Coordinates> = read_coordinates(reader)?.into();
        if history.len() as u64 != seen.min(HISTORY as u64) {
            return Err(SegmentError::State("its history does not fit"));
        }
        let total = std::array::from_fn(|i| total[i]);
        Ok(Self { whitening, variance_ratio, test, statistic, history, total, seen })
    }
}

pub(super) fn write_coordinates<'a>(writer: &mut Writer, frames: impl Iterator<Item = &'a Coordinates>) {
    let flat: Vec<f32> = frames.flatten().copied().collect();
    writer.f32s(flat.iter());
}

/// # Errors
/// If there is no whole number of frames.
pub(super) fn read_coordinates(reader: &mut Reader<'_>) -> Result<Vec<Coordinates>, SegmentError> {
    let flat = reader.f32s()?;
    match flat.as_chunks::<COMPONENTS>() {
        (frames, []) => Ok(frames.to_vec()),
        _ => Err(SegmentError::State("it has no whole frames")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DyadicT2, adwin::Adwin, mmd::Mmd, newma::Newma, page_hinkley::PageHinkley};
    use super::*;
    use crate::config::Seed;

    fn frame(number: u64, shift: f64) -> Vec<f32> {
        let mut random = Seed(5).random("frame", number);
        (0..48)
            .map(|i| (random.normal() / (1.0 + f64::from(i) / 8.0) + if i < 6 { shift } else { 0.0 }) as f32)
            .collect()
    }

    /// The largest statistic of a quiet time, and the frames from a change to the first larger one.
    fn delay(detector: &mut dyn Detector) -> Option<u64> {
        let quiet = (0..1500).fold(0.0, |largest: f64, n| {
            detector.update(&frame(n, 0.0));
            largest.max(detector.statistic().unwrap_or(0.0))
        });
        (1500..2500)
            .find(|&n| {
                detector.update(&frame(n, 1.5));
                detector.statistic().unwrap_or(0.0) > 1.2 * quiet
            })
            .map(|n| n - 1500)
    }

    #[test]
    fn every_test_rises_after_a_change_and_less_before() {
        let all: [(&str, Box<dyn Detector>, u64); 5] = [
            ("dyadic", Box::new(DyadicT2::with_thresholds(f64::INFINITY, f64::INFINITY)), 40),
            ("mmd", Box::new(Referenced::<Mmd>::new(f64::INFINITY, f64::INFINITY)), 80),
            ("newma", Box::new(Referenced::<Newma>::new(f64::INFINITY, f64::INFINITY)), 200),
            ("adwin", Box::new(Referenced::<Adwin>::new(f64::INFINITY, f64::INFINITY)), 400),
            ("page-hinkley", Box::new(Referenced::<PageHinkley>::new(f64::INFINITY, f64::INFINITY)), 400),
        ];
        for (name, mut detector, most) in all {
            let delay = delay(detector.as_mut());
            assert!(delay.is_some_and(|delay| delay < most), "{name}: {delay:?}");
        }
    }

    fn goes_on_bit_for_bit<T: Test>() {
        for stop in [0, 100, 256, 700] {
            let mut whole = Referenced::<T>::new(1e9, 1e8);
            for n in 0..stop {
                whole.update(&frame(n, 0.0));
            }
            let state = whole.state();
            let mut restored = Referenced::<T>::new(1e9, 1e8);
            restored.restore(&state).unwrap();
            for n in stop..stop + 400 {
                assert_eq!(whole.update(&frame(n, 1.0)), restored.update(&frame(n, 1.0)));
                assert_eq!(whole.statistic().map(f64::to_bits), restored.statistic().map(f64::to_bits));
            }
            assert_eq!(whole.state(), restored.state());
            assert!(restored.restore(&state[..state.len() - 1]).is_err());
            assert!(Referenced::<T>::new(2.0, 1.0).restore(&state).is_err());
        }
    }

    #[test]
    fn restored_tests_go_on_bit_for_bit_and_refuse_damage() {
        goes_on_bit_for_bit::<Mmd>();
        goes_on_bit_for_bit::<Newma>();
        goes_on_bit_for_bit::<Adwin>();
        goes_on_bit_for_bit::<PageHinkley>();
    }
}
