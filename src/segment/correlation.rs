//! How much more the means of consecutive frames vary than those of independent ones would.

use super::whitening::{COMPONENTS, Coordinates};

/// The variance ratio 1 + 2 sum_L rho_L, with rho_L the correlation of frames L apart, all coordinates together, up to the
/// first lag whose correlation is within noise: 2 / sqrt(n k), for k coordinates of equal variance (k is that of
/// Satterthwaite where they are not). 1 for independent frames, about the number of frames of a scene for video.
///
/// The mean taken off is the frames' own, which makes every correlation too small by about 1 / n and the sum by about its
/// share of the frames.
pub(super) fn variance_ratio(frames: &[Coordinates]) -> f64 {
    let n = frames.len();
    let mut mean = [0f64; COMPONENTS];
    frames.iter().for_each(|frame| mean.iter_mut().zip(frame).for_each(|(sum, &z)| *sum += f64::from(z) / n as f64));
    let centred: Vec<Coordinates> =
        frames.iter().map(|frame| std::array::from_fn(|i| frame[i] - mean[i] as f32)).collect();
    let mut variances = [0f64; COMPONENTS];
    centred.iter().for_each(|frame| variances.iter_mut().zip(frame).for_each(|(sum, &z)| *sum += f64::from(z * z)));
    let total: f64 = variances.iter().sum();
    let squares: f64 = variances.iter().map(|variance| variance * variance).sum();
    if n < 4 || total <= 1e-9 * n as f64 || squares <= 0.0 {
        return 1.0;
    }
    let noise = 2.0 / (n as f64 * total * total / squares).sqrt();
    let mut ratio = 1.0;
    for lag in 1..n / 2 {
        let products: f64 = centred.iter().zip(&centred[lag..]).map(|(a, b)| f64::from(dot(a, b))).sum();
        let correlation = products / total * n as f64 / (n - lag) as f64 + 1.0 / n as f64;
        if correlation < noise {
            break;
        }
        ratio += 2.0 * correlation;
    }
    1.0 + (ratio - 1.0) / (1.0 - ratio / n as f64).max(0.25)
}

fn dot(a: &Coordinates, b: &Coordinates) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Seed;

    /// `scenes` independent scenes of `length` frames, with noise within.
    fn frames(scenes: usize, length: usize) -> Vec<Coordinates> {
        let draw = |purpose, n: usize| {
            let mut random = Seed(9).random(purpose, n as u64);
            std::array::from_fn::<f64, COMPONENTS, _>(|i| if i < 16 { random.normal() } else { 0.0 })
        };
        let frame = |n: usize| {
            let (scene, noise) = (draw("scene", n / length), draw("noise", n));
            std::array::from_fn(|i| (scene[i] + 0.1 * noise[i]) as f32)
        };
        (0..scenes * length).map(frame).collect()
    }

    #[test]
    fn scenes_raise_the_ratio_to_their_length_and_independent_frames_do_not() {
        assert!(variance_ratio(&frames(256, 1)) < 1.15);
        for length in [4, 8] {
            let ratio = variance_ratio(&frames(512 / length, length)) / length as f64;
            assert!((0.75..1.35).contains(&ratio), "{length}: {ratio}");
        }
        assert_eq!(variance_ratio(&[[0.5; COMPONENTS]; 100]), 1.0);
    }
}
