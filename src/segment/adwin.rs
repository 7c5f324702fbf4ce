//! ADWIN (Bifet and Gavalda, SIAM Data Mining 2007): a window that is cut wherever its two parts have means too far apart, one
//! for each of the first eight coordinates.
//!
//! The window is a histogram of buckets of 1, 2, 4, ... frames, at most five of a size. Its test, |m_0 - m_1| > sqrt(2 v L / m) +
//! 2 L / (3 m) with m the harmonic size of the parts and L = ln(2 / delta'), is solved for L: the statistic is the largest L
//! over all cuts and coordinates, and the threshold on it stands for delta'.

use super::SegmentError;
use super::bytes::{Reader, Writer};
use super::referenced::Test;
use super::whitening::Coordinates;
use crate::config::DetectorKind;

const WATCHED: usize = 8;
/// Buckets of one size.
const BUCKETS: usize = 5;
/// Most sizes; beyond it the oldest bucket is dropped.
const SIZES: usize = 20;
/// Coordinates are taken to lie within so many standard deviations: the test wants values of a range of 1.
const RANGE: f64 = 4.0;
/// Fewest frames of a part.
const SHORTEST: f64 = 5.0;

#[derive(Clone, Copy)]
struct Bucket {
    count: f64,
    sum: f64,
    squares: f64,
}

/// Buckets by size, the newest and smallest first; within a size the newest last.
#[derive(Default)]
struct Window(Vec<Vec<Bucket>>);

pub(super) struct Adwin(Vec<Window>);

impl Window {
    fn push(&mut self, x: f64) {
        let mut carried = Some(Bucket { count: 1.0, sum: x, squares: x * x });
        for size in 0.. {
            let Some(bucket) = carried.take() else { break };
            if size == self.0.len() {
                self.0.push(Vec::with_capacity(BUCKETS + 1));
            }
            self.0[size].push(bucket);
            if self.0[size].len() > BUCKETS {
                let (a, b) = (self.0[size].remove(0), self.0[size].remove(0));
                let both = Bucket { count: a.count + b.count, sum: a.sum + b.sum, squares: a.squares + b.squares };
                carried = (size + 1 < SIZES).then_some(both);
            }
        }
    }

    /// The largest L over the cuts between buckets.
    fn statistic(&self) -> f64 {
        let buckets = || self.0.iter().flat_map(|size| size.iter().rev());
        let (count, sum, squares) =
            buckets().fold((0.0, 0.0, 0.0), |(n, s, q), b| (n + b.count, s + b.sum, q + b.squares));
        let variance = (squares / count - (sum / count).powi(2)).max(1e-9);
        let (mut new, mut of_new, mut largest) = (0.0, 0.0, 0.0f64);
        for bucket in buckets() {
            (new, of_new) = (new + bucket.count, of_new + bucket.sum);
            let old = count - new;
            if new < SHORTEST || old < SHORTEST {
                continue;
            }
            let apart = (of_new / new - (sum - of_new) / old).abs();
            let harmonic = 1.0 / (1.0 / new + 1.0 / old);
            let (linear, root) = (2.0 / (3.0 * harmonic), (2.0 * variance / harmonic).sqrt());
            let solution = ((root * root + 4.0 * linear * apart).sqrt() - root) / (2.0 * linear);
            largest = largest.max(solution * solution);
        }
        largest
    }
}

impl Test for Adwin {
    const KIND: DetectorKind = DetectorKind::Adwin;

    fn begin(reference: &[Coordinates]) -> Self {
        let mut adwin = Self((0..WATCHED).map(|_| Window::default()).collect());
        reference.iter().for_each(|frame| adwin.push(frame));
        adwin
    }

    fn update(&mut self, coordinates: &Coordinates) -> Option<f64> {
        self.push(coordinates);
        self.0.iter().map(Window::statistic).reduce(f64::max)
    }

    fn write(&self, writer: &mut Writer) {
        for window in &self.0 {
            writer.u64(window.0.len() as u64);
            for size in &window.0 {
                let flat: Vec<f64> = size.iter().flat_map(|b| [b.count, b.sum, b.squares]).collect();
                writer.f64s(&flat);
            }
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, SegmentError> {
        let mut window = || {
            let sizes = reader.u64()?;
            if sizes > SIZES as u64 {
                return Err(SegmentError::State("its windows do not fit"));
            }
            let size = |values: Vec<f64>| match values.as_chunks::<3>() {
                (buckets, []) if buckets.len() <= BUCKETS => {
                    Ok(buckets.iter().map(|&[count, sum, squares]| Bucket { count, sum, squares }).collect())
                }
                _ => Err(SegmentError::State("its windows do not fit")),
            };
            Ok(Window((0..sizes).map(|_| size(reader.f64s()?)).collect::<Result<_, _>>()?))
        };
        Ok(Self((0..WATCHED).map(|_| window()).collect::<Result<_, _>>()?))
    }
}

impl Adwin {
    fn push(&mut self, coordinates: &Coordinates) {
        for (window, &z) in self.0.iter_mut().zip(coordinates) {
            window.push((f64::from(z).clamp(-RANGE, RANGE) + RANGE) / (2.0 * RANGE));
        }
    }
}
