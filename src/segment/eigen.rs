//! Eigenvalues and eigenvectors of a symmetric matrix: Householder reduction to tridiagonal form, then QL steps with
//! implicit shifts (Bowdler, Martin, Reinsch and Wilkinson 1968; Golub and Van Loan, Matrix Computations, 8.3).
//!
//! Of a large matrix only the leading pairs are wanted: they are found by subspace iteration (Golub and Van Loan, 8.2.4) in
//! single precision.
//!
//! Sums run in a fixed order and only use addition, multiplication, division and square roots, so the result is the same
//! to the bit wherever IEEE 754 holds.

use crate::config::Seed;

/// Up to this size all eigenpairs are computed.
const SMALL: usize = 96;
/// Vectors of the subspace beyond those wanted, and multiplications: the leading eigenvalues of features fall quickly.
const SPARE: usize = 16;
const MULTIPLICATIONS: usize = 6;

/// The `count` leading eigenpairs of a positive semidefinite matrix, shape (n, n): values in falling order, and vectors a row.
/// Those of a large matrix are approximate: a basis of nearly the leading subspace, in which they are exact.
pub(super) fn leading_eigen(matrix: &[f32], n: usize, count: usize) -> (Vec<f64>, Vec<f64>) {
    let count = count.min(n);
    if n <= SMALL || count + SPARE >= n {
        let (mut values, mut vectors) = symmetric_eigen(&matrix.iter().map(|&x| f64::from(x)).collect::<Vec<_>>(), n);
        values.truncate(count);
        vectors.truncate(count * n);
        return (values, vectors);
    }
    let size = count + SPARE;
    let mut random = Seed(0).random("segment-subspace", 0);
    let mut basis: Vec<f32> = (0..size * n).map(|_| random.normal() as f32).collect();
    for _ in 0..MULTIPLICATIONS {
        orthonormalise(&mut basis, n);
        basis = multiply(matrix, &basis, n);
    }
    orthonormalise(&mut basis, n);
    let images = multiply(matrix, &basis, n);
    let mut small = vec![0.0; size * size];
    for i in 0..size {
        for j in 0..=i {
            let product = f64::from(dot32(&basis[i * n..(i + 1) * n], &images[j * n..(j + 1) * n]));
            (small[i * size + j], small[j * size + i]) = (product, product);
        }
    }
    let (values, rotations) = symmetric_eigen(&small, size);
    let mut vectors = vec![0.0; count * n];
    for (vector, rotation) in vectors.chunks_exact_mut(n).zip(rotations.chunks_exact(size)) {
        for (row, &weight) in basis.chunks_exact(n).zip(rotation) {
            vector.iter_mut().zip(row).for_each(|(sum, &x)| *sum += weight * f64::from(x));
        }
    }
    (values[..count].to_vec(), vectors)
}

/// The matrix times each row of `vectors`.
fn multiply(matrix: &[f32], vectors: &[f32], n: usize) -> Vec<f32> {
    vectors.chunks_exact(n).flat_map(|vector| matrix.chunks_exact(n).map(|row| dot32(row, vector))).collect()
}

/// Gram and Schmidt, twice over, row by row; a row within the span of those before becomes 0.
fn orthonormalise(rows: &mut [f32], n: usize) {
    for i in 0..rows.len() / n {
        let (before, rest) = rows.split_at_mut(i * n);
        let row = &mut rest[..n];
        for _ in 0..2 {
            for earlier in before.chunks_exact(n) {
                let along = dot32(earlier, row);
                row.iter_mut().zip(earlier).for_each(|(x, e)| *x -= along * e);
            }
        }
        let length = dot32(row, row).sqrt();
        let scale = if length > f32::MIN_POSITIVE { 1.0 / length } else { 0.0 };
        row.iter_mut().for_each(|x| *x *= scale);
    }
}

/// Sixteen running sums, so that the additions do not wait for one another.
pub(super) fn dot32(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 16];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..16 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

/// Rounds of QL for one eigenvalue; two or three are usual.
const MOST_ROUNDS: usize = 64;

/// Eigenvalues in falling order, and for each the unit eigenvector (row `i` of the second vector, `n` long).
///
/// `matrix` is symmetric, shape (n, n), row by row. A matrix with numbers that are not finite gives values that are not finite.
pub(super) fn symmetric_eigen(matrix: &[f64], n: usize) -> (Vec<f64>, Vec<f64>) {
    debug_assert_eq!(matrix.len(), n * n);
    let (mut diagonal, mut off_diagonal, mut vectors) = tridiagonalise(matrix.to_vec(), n);
    diagonalise(&mut diagonal, &mut off_diagonal, &mut vectors, n);
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| diagonal[b].total_cmp(&diagonal[a]).then(a.cmp(&b)));
    let values = order.iter().map(|&i| diagonal[i]).collect();
    let rows = order.iter().flat_map(|&i| vectors[i * n..(i + 1) * n].to_vec()).collect();
    (values, rows)
}

/// Reflects the matrix to tridiagonal form: its diagonal, its off-diagonal (`e[i]` between i and i + 1), and the basis, a
/// vector a row.
fn tridiagonalise(mut a: Vec<f64>, n: usize) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let mut basis = vec![0.0; n * n];
    (0..n).for_each(|i| basis[i * n + i] = 1.0);
    let mut off_diagonal = vec![0.0; n];
    let mut reflections: Vec<Option<(Vec<f64>, f64)>> = Vec::with_capacity(n);
    for step in 0..n.saturating_sub(2) {
        let start = step + 1;
        let reflection = householder(&a[step * n + start..(step + 1) * n]);
        if let Some((v, beta, norm)) = reflection {
            off_diagonal[step] = norm;
            reflect_block(&mut a, n, start, &v, beta);
            reflections.push(Some((v, beta)));
        } else {
            off_diagonal[step] = a[step * n + start];
            reflections.push(None);
        }
    }
    if n >= 2 {
        off_diagonal[n - 2] = a[(n - 2) * n + n - 1];
    }
    // Q = H1 H2 .. H(n-2); the rows of `basis` are the columns of Q, built from the last reflection back.
    for (step, reflection) in reflections.iter().enumerate().rev() {
        if let Some((v, beta)) = reflection {
            for row in basis.chunks_exact_mut(n).skip(step + 1) {
                let tail = &mut row[step + 1..];
                let projection = beta * dot(v, tail);
                tail.iter_mut().zip(v).for_each(|(x, v)| *x -= projection * v);
            }
        }
    }
    ((0..n).map(|i| a[i * n + i]).collect(), off_diagonal, basis)
}

/// The reflection I - beta v v' that turns `x` into (norm, 0, .., 0); none where it has that form already.
fn householder(x: &[f64]) -> Option<(Vec<f64>, f64, f64)> {
    let tail: f64 = x[1..].iter().map(|value| value * value).sum();
    if tail == 0.0 {
        return None;
    }
    let length = (x[0] * x[0] + tail).sqrt();
    let norm = if x[0] > 0.0 { -length } else { length };
    let mut v = x.to_vec();
    v[0] -= norm;
    let beta = 2.0 / (v[0] * v[0] + tail);
    Some((v, beta, norm))
}

/// A := H A H on the block from `start` on, for H = I - beta v v': A - v w' - w v', with w = p - (beta/2)(p'v) v, p = beta A v.
fn reflect_block(a: &mut [f64], n: usize, start: usize, v: &[f64], beta: f64) {
    let mut p: Vec<f64> = (start..n).map(|row| beta * dot(&a[row * n + start..(row + 1) * n], v)).collect();
    let shift = 0.5 * beta * dot(&p, v);
    p.iter_mut().zip(v).for_each(|(p, v)| *p -= shift * v);
    for (i, row) in (start..n).enumerate() {
        let (vi, pi) = (v[i], p[i]);
        for ((x, v), p) in a[row * n + start..(row + 1) * n].iter_mut().zip(v).zip(&p) {
            *x -= vi * p + pi * v;
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// QL with implicit shifts; `vectors` has a basis vector a row and ends with an eigenvector a row.
fn diagonalise(d: &mut [f64], e: &mut [f64], vectors: &mut [f64], n: usize) {
    for l in 0..n {
        for _ in 0..MOST_ROUNDS {
            let Some(m) =
                (l..n - 1).find(|&m| e[m].abs() <= f64::EPSILON * (d[m].abs() + d[m + 1].abs())).or(Some(n - 1))
            else {
                break;
            };
            if m == l {
                break;
            }
            ql_step(d, e, vectors, n, l, m);
        }
    }
}

/// One implicit QL sweep over the unreduced block l..=m.
fn ql_step(d: &mut [f64], e: &mut [f64], vectors: &mut [f64], n: usize, l: usize, m: usize) {
    let mut g = (d[l + 1] - d[l]) / (2.0 * e[l]);
    let r = (g * g + 1.0).sqrt();
    g = d[m] - d[l] + e[l] / (g + if g >= 0.0 { r } else { -r });
    let (mut s, mut c, mut p) = (1.0, 1.0, 0.0);
    for i in (l..m).rev() {
        let f = s * e[i];
        let b = c * e[i];
        let r = (f * f + g * g).sqrt();
        e[i + 1] = r;
        if r == 0.0 {
            d[i + 1] -= p;
            e[m] = 0.0;
            return;
        }
        (s, c) = (f / r, g / r);
        g = d[i + 1] - p;
        let t = (d[i] - g) * s + 2.0 * c * b;
        p = s * t;
        d[i + 1] = g + p;
        g = c * t - b;
        rotate(vectors, n, i, s, c);
    }
    d[l] -= p;
    e[l] = g;
    e[m] = 0.0;
}

/// Turns the basis vectors i and i + 1 in their plane.
fn rotate(vectors: &mut [f64], n: usize, i: usize, s: f64, c: f64) {
    let (low, high) = vectors[i * n..(i + 2) * n].split_at_mut(n);
    for (x, y) in low.iter_mut().zip(high) {
        let f = *y;
        *y = s * *x + c * f;
        *x = c * *x - s * f;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Seed;

    fn assert_close(got: f64, want: f64, tolerance: f64) {
        assert!((got - want).abs() <= tolerance, "{got} is not {want}");
    }

    #[test]
    fn eigenvalues_of_matrices_known_in_closed_form() {
        let (values, vectors) = symmetric_eigen(&[2.0, 1.0, 1.0, 2.0], 2);
        assert_close(values[0], 3.0, 1e-15);
        assert_close(values[1], 1.0, 1e-15);
        assert_close(vectors[0].abs(), 0.5f64.sqrt(), 1e-15);
        // The second difference matrix: 2 - 2 cos(i pi / (n + 1)).
        let n = 50;
        let mut matrix = vec![0.0; n * n];
        for i in 0..n {
            matrix[i * n + i] = 2.0;
            if i + 1 < n {
                (matrix[i * n + i + 1], matrix[(i + 1) * n + i]) = (-1.0, -1.0);
            }
        }
        let (values, _) = symmetric_eigen(&matrix, n);
        for (i, value) in values.iter().enumerate() {
            let angle = (n - i) as f64 * std::f64::consts::PI / (n + 1) as f64;
            assert_close(*value, 2.0 - 2.0 * angle.cos(), 1e-13);
        }
        assert_eq!(symmetric_eigen(&[5.0], 1), (vec![5.0], vec![1.0]));
        assert_eq!(symmetric_eigen(&[0.0; 9], 3).0, [0.0; 3]);
    }

    #[test]
    fn a_random_matrix_is_rebuilt_from_orthonormal_vectors() {
        for (n, rank) in [(7, 7), (64, 64), (96, 5)] {
            let mut random = Seed(n as u64).random("eigen", 0);
            let factor: Vec<f64> = (0..n * rank).map(|_| random.normal()).collect();
            let matrix: Vec<f64> = (0..n * n)
                .map(|at| dot(&factor[at / n * rank..(at / n + 1) * rank], &factor[at % n * rank..(at % n + 1) * rank]))
                .collect();
            let (values, vectors) = symmetric_eigen(&matrix, n);
            assert!(values.windows(2).all(|pair| pair[0] >= pair[1]));
            for i in 0..n {
                for j in 0..n {
                    let product = dot(&vectors[i * n..(i + 1) * n], &vectors[j * n..(j + 1) * n]);
                    assert_close(product, f64::from(u8::from(i == j)), 1e-12);
                    let rebuilt: f64 = (0..n).map(|k| values[k] * vectors[k * n + i] * vectors[k * n + j]).sum();
                    assert_close(rebuilt, matrix[i * n + j], 1e-10 * values[0]);
                }
            }
        }
    }

    #[test]
    fn the_leading_pairs_of_a_large_matrix_are_those_of_all() {
        let (n, rank) = (200, 300);
        let mut random = Seed(3).random("matrix", 0);
        let factor: Vec<f32> = (0..n * rank).map(|i| (random.normal() / (1.0 + (i % rank) as f64)) as f32).collect();
        let row = |i: usize| &factor[i * rank..(i + 1) * rank];
        let matrix: Vec<f32> = (0..n * n).map(|at| dot32(row(at / n), row(at % n))).collect();
        let (exact, _) = symmetric_eigen(&matrix.iter().map(|&x| f64::from(x)).collect::<Vec<_>>(), n);
        let (values, vectors) = leading_eigen(&matrix, n, 24);
        for (k, (value, vector)) in values.iter().zip(vectors.chunks_exact(n)).enumerate() {
            assert!((value - exact[k]).abs() < 0.01 * exact[k], "{k}: {value} {}", exact[k]);
            let length: f64 = vector.iter().map(|x| x * x).sum();
            assert!((length - 1.0).abs() < 1e-4);
        }
    }
}
