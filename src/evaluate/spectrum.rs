//! Alarms for a representation that collapses: what does not move may also have nothing left to lose.
//!
//! Levels of one encoder on one set of images, (n, d). They did not follow forgetting when that was measured; they stand
//! beside the measures that do. None where there are fewer than two rows, or a number is not finite.

use super::eigen::eigenvalues;
use super::features::{Features, dot, gram};

/// RankMe: exp of the entropy of p_k = sigma_k / sum(sigma) + 1e-7, sigma the singular values of the embeddings, not centred
/// (Garrido et al., "RankMe", ICML 2023). The number of directions in use: 1 to min(n, d).
///
/// Cost: min(n, d)^2 max(n, d) for the smaller Gram matrix, and its eigenvalues. Singular values below 1e-8 of the largest
/// are lost in the squares; the 1e-7 hides them anyway.
pub fn rank_me(features: &Features) -> Option<f64> {
    if features.len() < 2 || !features.is_finite() {
        return None;
    }
    let rows: Vec<Vec<f64>> = features.rows().map(|row| row.iter().map(|&x| f64::from(x)).collect()).collect();
    let smaller = if features.len() <= features.width() { gram(&rows) } else { gram(&columns(&rows)) };
    let singular: Vec<f64> = eigenvalues(smaller)?.into_iter().map(|value| value.max(0.0).sqrt()).collect();
    let total: f64 = singular.iter().sum();
    if total == 0.0 {
        return None;
    }
    let entropy: f64 = singular.iter().map(|value| value / total + 1e-7).map(|p| -p * p.ln()).sum();
    Some(entropy.exp())
}

fn columns(rows: &[Vec<f64>]) -> Vec<Vec<f64>> {
    (0..rows[0].len()).map(|column| rows.iter().map(|row| row[column]).collect()).collect()
}

/// Uniformity: log of the mean of exp(-2 |u - v|^2) over all pairs of L2-normalised rows (Wang and Isola, "Understanding
/// contrastive representation learning", ICML 2020). 0 where all rows are one point; the lower the more spread, about -4
/// where they are uniform on a sphere of many dimensions.
pub fn uniformity(features: &Features) -> Option<f64> {
    if features.len() < 2 || !features.is_finite() {
        return None;
    }
    let similarities = gram(&features.unit_rows());
    let n = similarities.len();
    // |u - v|^2 = 2 - 2 u.v for rows of length one.
    let sum: f64 = (0..n).flat_map(|i| similarities[i][..i].iter()).map(|&cosine| (-4.0 * (1.0 - cosine)).exp()).sum();
    Some((sum / (n * (n - 1) / 2) as f64).ln())
}

/// Standard deviation of a dimension over L2-normalised rows, mean over the dimensions, times sqrt(d): 1 where the rows are
/// uniform on the sphere, near 0 where they collapse (Chen and He, "Exploring simple Siamese representation learning", CVPR
/// 2021, section 4.1).
pub fn feature_std(features: &Features) -> Option<f64> {
    if features.len() < 2 || !features.is_finite() {
        return None;
    }
    let rows = features.unit_rows();
    let n = rows.len() as f64;
    let deviation = |column: Vec<f64>| {
        let mean = column.iter().sum::<f64>() / n;
        let centred: Vec<f64> = column.iter().map(|x| x - mean).collect();
        (dot(&centred, &centred) / n).sqrt()
    };
    let width = features.width() as f64;
    Some(columns(&rows).into_iter().map(deviation).sum::<f64>() / width * width.sqrt())
}

#[cfg(test)]
mod tests {
    use super::super::features::testing::{normal, rotated};
    use super::*;

    fn of_rank(rank: usize, n: usize, width: usize) -> Features {
        let narrow = normal(1, n, rank);
        let values = narrow.rows().flat_map(|row| row.iter().copied().chain(vec![0.0; width - rank])).collect();
        rotated(&Features::new(width, values).unwrap(), 2)
    }

    #[test]
    fn rank_me_counts_the_directions_in_use() {
        assert!((rank_me(&of_rank(1, 50, 20)).unwrap() - 1.0).abs() < 1e-3);
        let five = rank_me(&of_rank(5, 200, 64)).unwrap();
        assert!((4.8..5.01).contains(&five), "{five}");
        let wide = rank_me(&of_rank(5, 40, 64)).unwrap();
        assert!((4.3..5.01).contains(&wide), "the Gram matrix of the rows says the same: {wide}");
        let orthogonal = (0..64).map(|at| f32::from(u8::from(at % 9 == 0))).collect();
        assert!((rank_me(&Features::new(8, orthogonal).unwrap()).unwrap() - 8.0).abs() < 1e-4);
    }

    #[test]
    fn spread_rows_and_collapsed_rows_are_told_apart() {
        let spread = normal(1, 256, 64);
        assert!((feature_std(&spread).unwrap() - 1.0).abs() < 0.02, "{:?}", feature_std(&spread));
        assert!((-4.0..-3.6).contains(&uniformity(&spread).unwrap()), "{:?}", uniformity(&spread));
        let collapsed = Features::new(64, spread.values().iter().map(|x| 5.0 + 1e-3 * x).collect()).unwrap();
        assert!(feature_std(&collapsed).unwrap() < 1e-3);
        assert!(uniformity(&collapsed).unwrap() > -1e-3);
        assert!(rank_me(&collapsed).unwrap() < 1.2);
    }

    #[test]
    fn all_levels_ignore_the_order_of_the_images_and_a_rotation() {
        let features = of_rank(7, 60, 24);
        let order: Vec<usize> = (0..60).map(|i| (i * 7 + 3) % 60).collect();
        for other in [features.select(&order), rotated(&features, 5)] {
            assert!((rank_me(&features).unwrap() - rank_me(&other).unwrap()).abs() < 1e-2);
            assert!((uniformity(&features).unwrap() - uniformity(&other).unwrap()).abs() < 1e-5);
        }
    }

    #[test]
    fn what_is_not_defined_is_none() {
        let zeros = Features::new(4, vec![0.0; 40]).unwrap();
        assert_eq!(rank_me(&zeros), None);
        for bad in [normal(1, 1, 4), Features::new(2, vec![1.0, f32::NAN, 0.0, 1.0]).unwrap()] {
            assert_eq!((rank_me(&bad), uniformity(&bad), feature_std(&bad)), (None, None, None));
        }
    }
}
