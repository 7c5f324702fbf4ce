//! The plane of the two greatest variances: a picture of an embedding.

use super::Features;
use super::features::dot;

/// Sweeps of the iteration; variances a tenth apart are separated to six digits.
const SWEEPS: usize = 200;

/// Each row's place along the two directions in which the rows vary most, the greater first (principal component analysis;
/// Pearson 1901). Orthogonal iteration on the covariance (Golub and Van Loan, section 8.2.4); the sign of a direction is such
/// that its largest number is above 0. None for fewer than 3 rows or numbers that are not finite.
pub fn principal_plane(features: &Features) -> Option<Vec<[f64; 2]>> {
    if features.len() < 3 || !features.is_finite() {
        return None;
    }
    let (rows, width) = (features.centred_rows(), features.width());
    let start = |phase: f64| (0..width).map(|at| (at as f64 * phase + 1.0).sin()).collect::<Vec<f64>>();
    let mut axes = [start(0.7), start(1.9)];
    for _ in 0..SWEEPS {
        axes = axes.map(|axis| times_covariance(&rows, &axis));
        let first = unit(&axes[0]);
        let along = dot(&axes[1], &first);
        let rest: Vec<f64> = axes[1].iter().zip(&first).map(|(x, axis)| x - along * axis).collect();
        axes = [first, unit(&rest)];
    }
    let axes = axes.map(|axis| {
        let largest = axis.iter().copied().fold(0.0, |most: f64, x| if x.abs() > most.abs() { x } else { most });
        if largest < 0.0 { axis.iter().map(|x| -x).collect() } else { axis }
    });
    Some(rows.iter().map(|row| [dot(row, &axes[0]), dot(row, &axes[1])]).collect())
}

fn times_covariance(rows: &[Vec<f64>], axis: &[f64]) -> Vec<f64> {
    let mut product = vec![0.0; axis.len()];
    for row in rows {
        let along = dot(row, axis);
        product.iter_mut().zip(row).for_each(|(sum, x)| *sum += along * x);
    }
    product
}

/// At length one; a vector of zeros stays as it is.
fn unit(vector: &[f64]) -> Vec<f64> {
    let length = dot(vector, vector).sqrt();
    if length > 0.0 { vector.iter().map(|x| x / length).collect() } else { vector.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::features::testing::{normal, rotated};

    #[test]
    fn the_axes_of_the_greatest_variances_are_found_in_any_position() {
        let mut values = normal(1, 200, 6).values().to_vec();
        values.chunks_exact_mut(6).for_each(|row| {
            row[0] *= 9.0;
            row[1] *= 4.0;
        });
        let features = Features::new(6, values).unwrap();
        let plane = principal_plane(&rotated(&features, 3)).unwrap();
        let mean: f64 = features.rows().map(|row| f64::from(row[0])).sum::<f64>() / 200.0;
        let correlation: f64 = features.rows().zip(&plane).map(|(row, at)| (f64::from(row[0]) - mean) * at[0]).sum();
        let lengths = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
        let both = lengths(&mut features.rows().map(|row| f64::from(row[0]) - mean))
            * lengths(&mut plane.iter().map(|at| at[0]));
        assert!((correlation / both).abs() > 0.99, "{}", correlation / both);
        assert_eq!(principal_plane(&normal(1, 2, 3)), None);
        let still = Features::new(2, vec![1.0; 10]).unwrap();
        assert!(principal_plane(&still).unwrap().iter().all(|at| *at == [0.0, 0.0]));
    }
}
