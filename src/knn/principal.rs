//! Principal components: the directions in which embeddings differ most (Pearson 1901), by subspace iteration on the
//! covariance (Golub and Van Loan, "Matrix Computations", section 8.2.4).

/// Rounds of the iteration: the map needs the picture, not the last digit.
const ROUNDS: usize = 40;

/// Rows on their first principal components.
#[derive(Debug, Clone, PartialEq)]
pub struct Principal<const N: usize> {
    /// Of every row, in the order given.
    pub places: Vec<[f32; N]>,
    /// Share of the variance on each, 0 to 1; none where there is no variance.
    pub explained: [Option<f64>; N],
}

/// The `N` first components of `rows`, (n, width), row after row. Signs are fixed: the largest coefficient of a direction is
/// positive, so that two runs over the same rows show the same picture.
///
/// Cost: some 40 x 2 x N x n x width multiplications.
pub fn principal<const N: usize>(rows: &[f32], width: usize) -> Principal<N> {
    let count = rows.len().checked_div(width).unwrap_or(0);
    let centred = centred(rows, width, count);
    let total: f64 = centred.iter().map(|x| f64::from(*x).powi(2)).sum();
    let mut directions: [Vec<f64>; N] = std::array::from_fn(|at| start(width, at));
    for _ in 0..ROUNDS {
        directions = directions.map(|direction| through(&centred, width, &direction));
        orthonormalise(&mut directions);
    }
    directions.iter_mut().for_each(|direction| fix_sign(direction));
    let mut places = vec![[0.0; N]; count];
    let mut explained = [None; N];
    for (at, direction) in directions.iter().enumerate() {
        let mut variance = 0.0;
        for (place, row) in places.iter_mut().zip(centred.chunks_exact(width.max(1))) {
            let along = dot(row, direction);
            variance += along * along;
            place[at] = along as f32;
        }
        explained[at] = (total > 0.0).then(|| variance / total);
    }
    Principal { places, explained }
}

fn centred(rows: &[f32], width: usize, count: usize) -> Vec<f32> {
    let mut mean = vec![0.0f64; width];
    for row in rows.chunks_exact(width.max(1)) {
        mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += f64::from(*x) / count as f64);
    }
    let differences = rows.chunks_exact(width.max(1)).flat_map(|row| row.iter().zip(&mean));
    differences.map(|(x, mean)| (f64::from(*x) - mean) as f32).collect()
}

/// A start that no symmetry of the data is orthogonal to: powers of an irrational number, modulo 1.
fn start(width: usize, at: usize) -> Vec<f64> {
    (0..width).map(|i| ((i + 1) as f64 * (at + 1) as f64 * 0.618_033_988_749_895).fract() - 0.5).collect()
}

/// The covariance (times n) applied to a direction.
fn through(centred: &[f32], width: usize, direction: &[f64]) -> Vec<f64> {
    let mut image = vec![0.0; width];
    for row in centred.chunks_exact(width.max(1)) {
        let along = dot(row, direction);
        image.iter_mut().zip(row).for_each(|(sum, x)| *sum += along * f64::from(*x));
    }
    image
}

fn dot(row: &[f32], direction: &[f64]) -> f64 {
    row.iter().zip(direction).map(|(x, d)| f64::from(*x) * d).sum()
}

/// Gram-Schmidt; a direction of no length becomes zero.
fn orthonormalise(directions: &mut [Vec<f64>]) {
    for at in 0..directions.len() {
        let (before, rest) = directions.split_at_mut(at);
        let Some(direction) = rest.first_mut() else { return };
        for other in before.iter() {
            let along: f64 = direction.iter().zip(other).map(|(a, b)| a * b).sum();
            direction.iter_mut().zip(other).for_each(|(a, b)| *a -= along * b);
        }
        let length = direction.iter().map(|x| x * x).sum::<f64>().sqrt();
        let scale = if length > 1e-12 { 1.0 / length } else { 0.0 };
        direction.iter_mut().for_each(|x| *x *= scale);
    }
}

fn fix_sign(direction: &mut [f64]) {
    let largest = direction.iter().copied().reduce(|a, b| if b.abs() > a.abs() { b } else { a });
    if largest.is_some_and(|largest| largest < 0.0) {
        direction.iter_mut().for_each(|x| *x = -*x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Seed;

    /// Rows with standard deviations 3, 1 and 0.1 along known orthogonal directions.
    fn rows(count: usize) -> Vec<f32> {
        let mut random = Seed(5).random("principal", 0);
        let (a, b, c) = ([0.6, 0.8, 0.0], [0.8, -0.6, 0.0], [0.0, 0.0, 1.0]);
        (0..count)
            .flat_map(|_| {
                let (x, y, z) = (3.0 * random.normal(), random.normal(), 0.1 * random.normal());
                std::array::from_fn::<f32, 3, _>(|i| (7.0 + x * a[i] + y * b[i] + z * c[i]) as f32)
            })
            .collect()
    }

    #[test]
    fn the_directions_of_most_variance_are_found_in_order() {
        let found = principal::<2>(&rows(4000), 3);
        let [first, second] = found.explained.map(Option::unwrap);
        assert!((first - 0.9).abs() < 0.01 && (second - 0.1).abs() < 0.01, "{first} {second}");
        let mean: f32 = found.places.iter().map(|place| place[0]).sum::<f32>() / 4000.0;
        assert!(mean.abs() < 1e-3, "places are centred: {mean}");
    }

    #[test]
    fn no_rows_equal_rows_and_one_dimension_are_no_fault() {
        assert_eq!(principal::<2>(&[], 4).places.len(), 0);
        let equal = principal::<2>(&[1.0, 2.0, 1.0, 2.0], 2);
        assert_eq!((equal.explained, equal.places), ([None, None], vec![[0.0; 2]; 2]));
        let line = principal::<2>(&[1.0, 3.0, 5.0], 1);
        assert_eq!(line.places, [[-2.0, 0.0], [0.0, 0.0], [2.0, 0.0]]);
    }
}
