//! Eigenvalues of a small symmetric matrix, in f64.

/// Most sweeps of the QL iteration for one eigenvalue; two or three are usual.
const MAX_SWEEPS: usize = 60;

/// Eigenvalues of the symmetric matrix (n, n), of which the lower triangle is read, in no particular order. None if a number
/// is not finite.
///
/// Householder's reduction to a tridiagonal matrix, then the implicit QL method (Golub and Van Loan, "Matrix Computations",
/// 4th edition, sections 8.3.1 and 8.3.3). About 4/3 n^3 multiplications: tens of milliseconds for n 256.
pub(super) fn eigenvalues(mut matrix: Vec<Vec<f64>>) -> Option<Vec<f64>> {
    if matrix.iter().flatten().any(|value| !value.is_finite()) {
        return None;
    }
    let (mut diagonal, mut beside) = tridiagonal(&mut matrix);
    implicit_ql(&mut diagonal, &mut beside).then_some(diagonal)
}

/// The diagonal, and beside it the element (i + 1, i), of a tridiagonal matrix with the eigenvalues of `a`.
fn tridiagonal(a: &mut [Vec<f64>]) -> (Vec<f64>, Vec<f64>) {
    let n = a.len();
    let mut beside = vec![0.0; n.saturating_sub(1)];
    for k in 0..n.saturating_sub(1) {
        // The reflection I - 2 v v' / v'v that takes column k below the diagonal to (alpha, 0, ..., 0).
        let mut v: Vec<f64> = (k + 1..n).map(|i| a[i][k]).collect();
        let length = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        let alpha = if v[0] > 0.0 { -length } else { length };
        beside[k] = alpha;
        v[0] -= alpha;
        let square: f64 = v.iter().map(|x| x * x).sum();
        if length == 0.0 || square == 0.0 {
            continue;
        }
        reflect(&mut a[k + 1..], k + 1, &v, 2.0 / square);
    }
    ((0..n).map(|i| a[i][i]).collect(), beside)
}

/// A <- H A H for the block whose rows are `rows` from column `first`, H = I - beta v v'. Only the lower triangle is kept.
fn reflect(rows: &mut [Vec<f64>], first: usize, v: &[f64], beta: f64) {
    let m = v.len();
    let mut p = vec![0.0; m];
    for i in 0..m {
        for j in 0..i {
            p[i] += rows[i][first + j] * v[j];
            p[j] += rows[i][first + j] * v[i];
        }
        p[i] += rows[i][first + i] * v[i];
    }
    let half = 0.5 * beta * beta * p.iter().zip(v).map(|(p, v)| p * v).sum::<f64>();
    let w: Vec<f64> = p.iter().zip(v).map(|(p, v)| beta * p - half * v).collect();
    for i in 0..m {
        for j in 0..=i {
            rows[i][first + j] -= v[i] * w[j] + w[i] * v[j];
        }
    }
}

/// Makes `d` the eigenvalues of the tridiagonal matrix with diagonal `d` and neighbours `beside`; whether it converged.
fn implicit_ql(d: &mut [f64], beside: &mut Vec<f64>) -> bool {
    let n = d.len();
    beside.push(0.0);
    let e = beside;
    for l in 0..n {
        let mut sweeps = 0;
        loop {
            let split = (l..n - 1).find(|&m| e[m].abs() <= f64::EPSILON * (d[m].abs() + d[m + 1].abs()));
            let m = split.unwrap_or(n - 1);
            if m == l {
                break;
            }
            sweeps += 1;
            if sweeps > MAX_SWEEPS {
                return false;
            }
            sweep(d, e, l, m);
        }
    }
    true
}

/// One implicit QL step on rows l..=m with Wilkinson's shift.
fn sweep(d: &mut [f64], e: &mut [f64], l: usize, m: usize) {
    let slope = (d[l + 1] - d[l]) / (2.0 * e[l]);
    let root = slope.hypot(1.0);
    let mut g = d[m] - d[l] + e[l] / (slope + root.copysign(slope));
    let (mut sine, mut cosine, mut carried) = (1.0, 1.0, 0.0);
    for i in (l..m).rev() {
        let (f, b) = (sine * e[i], cosine * e[i]);
        let r = f.hypot(g);
        e[i + 1] = r;
        if r == 0.0 {
            // The rotation found an eigenvalue early: finish this step and split there.
            d[i + 1] -= carried;
            e[m] = 0.0;
            return;
        }
        (sine, cosine) = (f / r, g / r);
        g = d[i + 1] - carried;
        let t = (d[i] - g) * sine + 2.0 * cosine * b;
        carried = sine * t;
        d[i + 1] = g + carried;
        g = cosine * t - b;
    }
    d[l] -= carried;
    e[l] = g;
    e[m] = 0.0;
}

#[cfg(test)]
mod tests {
    use super::super::features::gram;
    use super::super::features::testing::normal;
    use super::*;

    fn sorted(matrix: Vec<Vec<f64>>) -> Vec<f64> {
        let mut values = eigenvalues(matrix).unwrap();
        values.sort_by(f64::total_cmp);
        values
    }

    #[test]
    fn known_matrices_have_their_known_eigenvalues() {
        assert_eq!(sorted(vec![]), [0.0; 0]);
        assert_eq!(sorted(vec![vec![3.0]]), [3.0]);
        assert_eq!(sorted(vec![vec![0.0; 4]; 4]), [0.0; 4]);
        // Second differences: 2 - 2 cos(pi k / (n + 1)).
        let n = 30;
        let of = |i: usize, j: usize| if i == j { 2.0 } else { -f64::from(u8::from(i.abs_diff(j) == 1)) };
        let values = sorted((0..n).map(|i| (0..n).map(|j| of(i, j)).collect()).collect());
        for (k, value) in values.iter().enumerate() {
            let expected = 2.0 - 2.0 * (std::f64::consts::PI * (k + 1) as f64 / (n + 1) as f64).cos();
            assert!((value - expected).abs() < 1e-13, "{k}: {value} {expected}");
        }
        // All ones: n once, 0 otherwise.
        let ones = sorted(vec![vec![1.0; 12]; 12]);
        assert!(ones[..11].iter().all(|value| value.abs() < 1e-14) && (ones[11] - 12.0).abs() < 1e-13);
    }

    #[test]
    fn random_matrices_keep_their_trace_and_their_squares() {
        for n in [2, 3, 10, 57] {
            let matrix = gram(&normal(n as u64, n, 40).centred_rows());
            let trace: f64 = (0..n).map(|i| matrix[i][i]).sum();
            let squares: f64 = matrix.iter().flatten().map(|x| x * x).sum();
            let values = sorted(matrix);
            assert!((values.iter().sum::<f64>() / trace - 1.0).abs() < 1e-12);
            assert!((values.iter().map(|x| x * x).sum::<f64>() / squares - 1.0).abs() < 1e-12);
            assert!(values[0].abs() < 1e-9 * trace, "centred rows leave a direction out");
        }
    }

    #[test]
    fn a_number_that_is_not_finite_has_no_eigenvalues() {
        assert_eq!(eigenvalues(vec![vec![f64::NAN]]), None);
    }
}
