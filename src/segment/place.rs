//! Where in the newest frames a change began, how sure that is, and whether it came at once or little by little.
//!
//! The place is the split into two means that explains most of the frames' squares. A change is abrupt if that split explains
//! clearly more than every slope does: a mean that goes from one value to another over 64, 128 or 256 frames.

use super::correlation::variance_ratio;
use super::whitening::{COMPONENTS, Coordinates};

/// Sums of coordinates.
pub(super) type Sums = [f64; COMPONENTS];

/// Fewest frames on either side of a change.
pub(super) const SHORTEST_SIDE: usize = 4;
/// Share of the frames that each side must have where the coordinates were fitted to them: few odd frames have a coordinate
/// to themselves there.
const LONGER_SIDE: usize = 8;
/// A split of a reference is beyond chance if its normal deviate is above this.
const SURE: f64 = 6.0;
/// An explanation is about as good as the best if it explains at most this much less: the 95 % point of the likelihood
/// ratio of a change's place (Hansen, Econometrica 68, 2000).
const AS_GOOD: f64 = 7.35;
/// Frames over which a gradual change may go on.
const SLOPES: [usize; 3] = [64, 128, 256];
/// Slopes are tried at every such frame.
const SLOPE_STEP: usize = 8;

/// Where a change began, as in [`super::Change`].
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Place {
    pub samples_back: usize,
    pub uncertainty: usize,
    pub t2: f64,
}

/// All frames compared since the reference began.
pub(super) struct Seen<'a> {
    pub total: &'a Sums,
    pub frames: u64,
    pub variance_ratio: f64,
}

impl Seen<'_> {
    /// Hotelling's T2 of the newest `window` frames, whose sum is given, against all before them:
    /// W n / (W + n) |m_W - m_n|^2 / r.
    pub fn t2(&self, sum: &Sums, window: u64) -> f64 {
        let (inside, before) = (window as f64, (self.frames - window) as f64);
        let squares: f64 = sum.iter().zip(self.total).map(|(s, t)| (s / inside - (t - s) / before).powi(2)).sum();
        inside * before / (inside + before) * squares / self.variance_ratio
    }

    /// The split of the newest frames (`history`, oldest first) that separates best, `side` frames at least on either side,
    /// and how sure that is.
    pub fn locate(&self, history: &[Coordinates], side: usize) -> Place {
        let longest = history.len().min((self.frames as usize).saturating_sub(side));
        let mut sum = [0.0; COMPONENTS];
        let mut curve = vec![f64::NEG_INFINITY; longest + 1];
        for (back, coordinates) in (1..=longest).zip(history.iter().rev()) {
            add(&mut sum, coordinates, 1.0);
            if back >= side {
                curve[back] = self.t2(&sum, back as u64);
            }
        }
        Place::of(&curve, 1.0)
    }
}

impl Place {
    /// From what each split explains (by the frames after it, from 1), in units of `variance`.
    pub fn of(curve: &[f64], variance: f64) -> Self {
        let best = (1..curve.len()).max_by(|&a, &b| curve[a].total_cmp(&curve[b])).unwrap_or(1);
        let enough = curve.get(best).map_or(0.0, |t2| t2 - AS_GOOD * variance);
        let as_good: Vec<usize> = (1..curve.len()).filter(|&back| curve[back] >= enough).collect();
        let spread = as_good.last().zip(as_good.first()).map_or(0, |(last, first)| last - first);
        Self { samples_back: best, uncertainty: spread.div_ceil(2), t2: curve.get(best).copied().unwrap_or(0.0) }
    }
}

pub(super) fn add(sums: &mut Sums, coordinates: &Coordinates, sign: f64) {
    sums.iter_mut().zip(coordinates).for_each(|(sum, &z)| *sum += sign * f64::from(z));
}

/// Whether a step explains `history` (oldest first) clearly better than every slope.
pub(super) fn is_abrupt(history: &[Coordinates], variance_ratio: f64) -> bool {
    let last = history.len().saturating_sub(SHORTEST_SIDE);
    let steps = (SHORTEST_SIDE..last).map(|start| explained(history, start, 1));
    let slopes = SLOPES.into_iter().flat_map(|length| {
        let starts = (0..last).step_by(SLOPE_STEP);
        starts.map(move |start| explained(history, start, length))
    });
    steps.fold(0.0, f64::max) > slopes.fold(0.0, f64::max) + AS_GOOD * variance_ratio
}

/// A change within the frames that the coordinates were fitted to (`reference`, of about unit variance): the best split, if it
/// is abrupt and beyond chance.
///
/// T2 / (n - 1) is the share R2 of the step that the k coordinates explain, so that F = (R2 / k) / ((1 - R2) / (n - 1 - k))
/// follows Fisher's distribution where nothing has changed (Rao 1973, 8c.4). Correlated frames count for fewer. F is turned
/// into a normal deviate (Paulson 1942).
pub(super) fn change_within(reference: &[Coordinates], components: usize) -> Option<Place> {
    let place = split(reference);
    let ratio = variance_ratio(&without_step(reference, place.samples_back));
    let (n, k) = (reference.len() as f64 / ratio, components as f64);
    if n < 2.0 * k + 3.0 {
        return None;
    }
    let explained = (place.t2 / (reference.len() as f64 - 1.0)).clamp(0.0, 0.999);
    let f = explained / k / ((1.0 - explained) / (n - 1.0 - k));
    (paulson(f, k, n - 1.0 - k) > SURE && is_abrupt(reference, ratio)).then_some(place)
}

/// The best split of `frames` into two means.
fn split(frames: &[Coordinates]) -> Place {
    let mut total = [0.0; COMPONENTS];
    frames.iter().for_each(|coordinates| add(&mut total, coordinates, 1.0));
    let seen = Seen { total: &total, frames: frames.len() as u64, variance_ratio: 1.0 };
    seen.locate(frames, frames.len() / LONGER_SIDE)
}

/// The variance ratio within the two sides of the frames' best split: a step would pass for correlation.
pub(super) fn variance_ratio_beside_a_step(frames: &[Coordinates]) -> f64 {
    variance_ratio(&without_step(frames, split(frames).samples_back))
}

/// Fisher's F as a normal deviate.
fn paulson(f: f64, above: f64, below: f64) -> f64 {
    let (a, b, root) = (2.0 / (9.0 * above), 2.0 / (9.0 * below), f.cbrt());
    ((1.0 - b) * root - (1.0 - a)) / (b * root * root + a).sqrt()
}

/// The frames less the mean of their side of the split.
fn without_step(frames: &[Coordinates], samples_back: usize) -> Vec<Coordinates> {
    let (before, after) = frames.split_at(frames.len() - samples_back);
    let centred = |side: &[Coordinates]| {
        let mut sum = [0.0; COMPONENTS];
        side.iter().for_each(|coordinates| add(&mut sum, coordinates, 1.0));
        let mean = sum.map(|sum| (sum / side.len() as f64) as f32);
        side.iter().map(|z| std::array::from_fn(|i| z[i] - mean[i])).collect::<Vec<Coordinates>>()
    };
    [centred(before), centred(after)].concat()
}

/// Squares of `history` that a mean explains which goes from one value to another over `length` frames from `start` on:
/// |sum_t (b_t - b) z_t|^2 / sum_t (b_t - b)^2, with b_t the share of the way gone at frame t and b its mean.
fn explained(history: &[Coordinates], start: usize, length: usize) -> f64 {
    let way = |t: usize| {
        (t.saturating_sub(start) as f64 + if t >= start { 1.0 } else { 0.0 }).min(length as f64) / length as f64
    };
    let mean = (0..history.len()).map(way).sum::<f64>() / history.len() as f64;
    let (mut sums, mut squares) = ([0f64; COMPONENTS], 0.0);
    for (t, coordinates) in history.iter().enumerate() {
        let weight = way(t) - mean;
        squares += weight * weight;
        add(&mut sums, coordinates, weight);
    }
    if squares > 0.0 { sums.iter().map(|sum| sum * sum).sum::<f64>() / squares } else { 0.0 }
}
