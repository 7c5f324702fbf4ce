//! Small symmetric matrices as their lower triangle, a row after the other, and what is solved with them.

/// Numbers of the triangle of an n x n matrix.
pub(super) const fn numbers(n: usize) -> usize {
    n * (n + 1) / 2
}

/// Where row `i`, column `j <= i` is.
pub(super) const fn place(i: usize, j: usize) -> usize {
    i * (i + 1) / 2 + j
}

/// Row and column of each number, in order.
pub(super) fn places(n: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).flat_map(|i| (0..=i).map(move |j| (i, j)))
}

/// Correlations of a covariance matrix whose variances are taken to be at least `smallest`, `ridge` added to the diagonal and
/// all divided by 1 + `ridge`, so that the ridge makes no distance smaller where nothing is correlated.
pub(super) fn correlations(covariance: &[f64], n: usize, smallest: f64, ridge: f64) -> Vec<f64> {
    let deviations: Vec<f64> = (0..n).map(|i| covariance[place(i, i)].max(smallest).sqrt()).collect();
    let scaled = |((i, j), x): ((usize, usize), &f64)| {
        // Where a variance was too small the diagonal is what it was taken to be.
        if i == j { 1.0 } else { x / (deviations[i] * deviations[j]) / (1.0 + ridge) }
    };
    places(n).zip(covariance).map(scaled).collect()
}

/// The factor L of L L' (Golub and Van Loan, Matrix Computations, 4.2) of a positive definite matrix.
pub(super) fn cholesky(mut matrix: Vec<f64>, n: usize) -> Vec<f64> {
    for i in 0..n {
        for j in 0..=i {
            let (row, other) = (place(i, 0), place(j, 0));
            let products: f64 = (0..j).map(|k| matrix[row + k] * matrix[other + k]).sum();
            let left = matrix[row + j] - products;
            // Positive but for rounding.
            matrix[row + j] = if i == j { left.max(f64::EPSILON).sqrt() } else { left / matrix[place(j, j)] };
        }
    }
    matrix
}

/// x of L x = b.
pub(super) fn forward(factor: &[f64], b: &[f64]) -> Vec<f64> {
    let mut x = Vec::with_capacity(b.len());
    for (i, b) in b.iter().enumerate() {
        let row = place(i, 0);
        let known: f64 = x.iter().zip(&factor[row..]).map(|(x, l)| x * l).sum();
        x.push((b - known) / factor[row + i]);
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factor_is_that_of_the_textbook_and_solves() {
        // [[4, 12, -16], [12, 37, -43], [-16, -43, 98]] is L L' of [[2], [6, 1], [-8, 5, 3]].
        let factor = cholesky(vec![4.0, 12.0, 37.0, -16.0, -43.0, 98.0], 3);
        assert_eq!(factor, [2.0, 6.0, 1.0, -8.0, 5.0, 3.0]);
        assert_eq!(forward(&factor, &[2.0, 8.0, 8.0]), [1.0, 2.0, 2.0]);
    }

    #[test]
    fn correlations_have_ones_on_the_diagonal_whatever_the_variances() {
        let found = correlations(&[4.0, 3.0, 9.0, 0.0, 0.0, 0.0], 3, 1e-6, 0.25);
        assert_eq!(found, [1.0, 0.4, 1.0, 0.0, 0.0, 1.0]);
    }
}
