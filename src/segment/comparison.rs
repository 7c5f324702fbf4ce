//! The newest frames against all before them, in the coordinates of one fit.

use std::collections::VecDeque;

use super::SegmentError;
use super::bytes::{Reader, Writer, expect_length};
use super::correlation::variance_ratio;
use super::place::{Place, SHORTEST_SIDE, Seen, Sums, add, change_within, is_abrupt, variance_ratio_beside_a_step};
use super::whitening::{COMPONENTS, Coordinates, Whitening};

/// Frames of the windows.
pub(super) const WINDOWS: [usize; 8] = [16, 32, 64, 96, 128, 192, 256, 384];
/// Frames looked back on for where a change began.
const HISTORY: usize = 512;
/// A window holds at least so many independent frames: one scene or two are no change.
const INDEPENDENT_IN_WINDOW: f64 = 4.0;
/// The reference must, too: fewer do not tell how much a coordinate varies.
const INDEPENDENT_IN_REFERENCE: f64 = 32.0;
/// Fewest frames that tell how correlated they are.
const FRAMES_FOR_CORRELATION: usize = 12;
/// Frames between two looks at how correlated the stream is.
const RECALIBRATED_EVERY: u64 = 256;
/// The variance ratio stays as it is until it is so many times as large or as small.
const WORTH_A_CHANGE: f64 = 1.5;
/// So many tell all features apart well enough to see a change of light, too.
const INDEPENDENT_FOR_LIGHT: f64 = 128.0;

/// What runs once there is a reference.
pub(super) struct Comparison {
    whitening: Whitening,
    /// As the stream has been.
    settled_ratio: f64,
    /// What counts for the newest frame: no less.
    variance_ratio: f64,
    /// Frames that the coordinates were fitted to.
    fitted: u64,
    /// The newest coordinates, at most HISTORY, oldest first.
    history: VecDeque<Coordinates>,
    /// Sum of all coordinates since the reference began, and how many.
    total: Sums,
    seen: u64,
    /// Sums of the newest frames by window.
    windows: [Sums; WINDOWS.len()],
}

impl Comparison {
    /// With coordinates fitted to `reference`, shape (frames, dimensions).
    pub fn begin(reference: &[f32], dimensions: usize) -> Self {
        let (whitening, variance_ratio) = Whitening::fit(reference, dimensions);
        let mut comparison = Self {
            whitening,
            settled_ratio: variance_ratio,
            variance_ratio,
            fitted: (reference.len() / dimensions) as u64,
            history: VecDeque::with_capacity(HISTORY),
            total: [0.0; COMPONENTS],
            seen: 0,
            windows: [[0.0; COMPONENTS]; WINDOWS.len()],
        };
        reference.chunks_exact(dimensions).for_each(|frame| comparison.push(frame));
        comparison
    }

    pub fn dimensions(&self) -> usize {
        self.whitening.dimensions()
    }

    pub fn variance_ratio(&self) -> f64 {
        self.variance_ratio
    }

    pub fn push(&mut self, features: &[f32]) {
        self.variance_ratio = self.settled_ratio;
        let coordinates = self.whitening.apply(features);
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(coordinates);
        self.seen += 1;
        add(&mut self.total, &coordinates, 1.0);
        for (sum, window) in self.windows.iter_mut().zip(WINDOWS) {
            add(sum, &coordinates, 1.0);
            if self.history.len() > window {
                add(sum, &self.history[self.history.len() - 1 - window], -1.0);
            }
        }
        if self.seen.is_multiple_of(RECALIBRATED_EVERY) && self.history.len() == HISTORY {
            self.recalibrate();
        }
    }

    /// Takes the variance ratio anew where the stream is no longer as correlated as its reference was. The newest half of the
    /// frames looked back on is left out: a change that is about to be found would pass for correlation.
    fn recalibrate(&mut self) {
        let settled = &self.history.make_contiguous()[..HISTORY / 2];
        let now = variance_ratio_beside_a_step(settled);
        if !(1.0 / WORTH_A_CHANGE..WORTH_A_CHANGE).contains(&(now / self.settled_ratio)) {
            (self.settled_ratio, self.variance_ratio) = (now, now);
        }
    }

    /// What passes for a change may be frames that have become more correlated: until the next frame, takes the variance ratio of
    /// the frames since where the change would be, if it is larger. Where these are few, some of before are among them, and the
    /// step passes for correlation: such a change must be a large one, or wait for more frames.
    pub fn allow_for_correlation(&mut self) {
        let since = self.locate().samples_back.max(FRAMES_FOR_CORRELATION);
        let frames = self.history.make_contiguous();
        let now = variance_ratio(&frames[frames.len().saturating_sub(since)..]);
        if now > WORTH_A_CHANGE * self.variance_ratio {
            self.variance_ratio = now;
        }
    }

    /// Whether a window holds nothing of the reference: the coordinates were fitted to it.
    pub fn has_room(&self, window: usize) -> bool {
        self.seen >= self.fitted + window as u64
    }

    /// Whether a change of light is seen here as soon as by the watch over brightness alone.
    pub fn sees_light(&self) -> bool {
        self.fitted as f64 >= INDEPENDENT_FOR_LIGHT * self.variance_ratio
    }

    fn is_telling(&self) -> bool {
        self.fitted as f64 >= INDEPENDENT_IN_REFERENCE * self.variance_ratio
    }

    /// The deviate of a window that can be told by now: no longer than the reference, and of more than one scene.
    pub fn deviate(&self, window: usize) -> Option<f64> {
        let enough = window as f64 >= INDEPENDENT_IN_WINDOW * self.variance_ratio;
        let telling = enough && window as u64 <= self.fitted && self.is_telling();
        let sums = WINDOWS.iter().position(|&other| other == window).map(|index| &self.windows[index]);
        let sums = sums.filter(|_| telling && self.has_room(window))?;
        Some(self.whitening.deviate(self.seen().t2(sums, window as u64)))
    }

    pub fn locate(&mut self) -> Place {
        self.history.make_contiguous();
        self.seen().locate(self.history.as_slices().0, SHORTEST_SIDE)
    }

    pub fn is_abrupt(&mut self) -> bool {
        is_abrupt(self.history.make_contiguous(), self.variance_ratio)
    }

    /// A change within the reference, when nothing has been seen but it.
    pub fn change_within(&mut self) -> Option<Place> {
        let components = self.whitening.components();
        if !self.is_telling() {
            return None;
        }
        change_within(self.history.make_contiguous(), components)
    }

    fn seen(&self) -> Seen<'_> {
        Seen { total: &self.total, frames: self.seen, variance_ratio: self.variance_ratio }
    }

    pub fn write(&self, writer: &mut Writer) {
        self.whitening.write(writer);
        writer.f64(self.settled_ratio);
        writer.f64(self.variance_ratio);
        writer.u64(self.fitted);
        writer.u64(self.seen);
        writer.f64s(&self.total);
        writer.f64s(self.windows.as_flattened());
        let flat: Vec<f32> = self.history.iter().flatten().copied().collect();
        writer.f32s(flat.iter());
    }

    pub fn read(reader: &mut Reader<'_>) -> Result<Self, SegmentError> {
        let whitening = Whitening::read(reader)?;
        let (settled_ratio, variance_ratio) = (reader.f64()?, reader.f64()?);
        let (fitted, seen) = (reader.u64()?, reader.u64()?);
        let total = expect_length(reader.f64s()?, COMPONENTS)?;
        let windows = expect_length(reader.f64s()?, COMPONENTS * WINDOWS.len())?;
        let flat = reader.f32s()?;
        let (history, rest) = flat.as_chunks::<COMPONENTS>();
        let kept = seen.min(HISTORY as u64) as usize;
        if seen < fitted
            || history.len() != kept
            || !rest.is_empty()
            || settled_ratio.is_nan()
            || variance_ratio.is_nan()
        {
            return Err(SegmentError::State("its history does not fit"));
        }
        Ok(Self {
            whitening,
            settled_ratio,
            variance_ratio,
            fitted,
            history: history.iter().copied().collect(),
            total: std::array::from_fn(|i| total[i]),
            seen,
            windows: std::array::from_fn(|w| std::array::from_fn(|i| windows[w * COMPONENTS + i])),
        })
    }
}
