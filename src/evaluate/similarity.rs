//! How alike two encoders see the same images.
//!
//! Both arguments are embeddings of the same n images in the same order, (n, d1) and (n, d2). Each measure is `None` where it
//! is not defined: different n, n too small, a number that is not finite, a reference without spread. All but
//! [`centred_cosine`] read a rotated copy as 1, since a rotation loses nothing.

use super::features::{Features, dot, gram};

/// Fewest rows of [`cka_debiased`]: its estimator divides by n - 3.
pub const MIN_CKA_ROWS: usize = 4;

/// Debiased linear centred kernel alignment: HSIC_1(K, L) / sqrt(HSIC_1(K, K) HSIC_1(L, L)) with the linear kernels K and L.
///
/// CKA: Kornblith et al., "Similarity of neural network representations revisited", ICML 2019. HSIC_1 is the unbiased
/// estimator of Song et al., "Feature selection via dependence maximization", JMLR 13, 2012. At most 1; unrelated features
/// read about 0, a little below as often as above. The biased estimator must not be used: with 256 images and 512
/// dimensions it reads .66 for unrelated features.
///
/// Cost: n^2 (d1 + d2) multiplications.
pub fn cka_debiased(reference: &Features, now: &Features) -> Option<f64> {
    if !comparable(reference, now, MIN_CKA_ROWS) || !reference.has_spread() {
        return None;
    }
    if !now.has_spread() {
        // All images look alike: nothing of the reference is in there.
        return Some(0.0);
    }
    // Centring changes nothing that HSIC_1 sees, and keeps its sums from cancelling.
    let (k, l) = (Kernel::new(gram(&reference.centred_rows())), Kernel::new(gram(&now.centred_rows())));
    let cka = k.alignment(&l);
    cka.is_finite().then(|| cka.min(1.0))
}

/// A symmetric kernel with a diagonal of zeros.
pub(super) struct Kernel {
    rows: Vec<Vec<f64>>,
    /// HSIC_1 with itself.
    own: f64,
}

impl Kernel {
    /// Of dot products of all pairs of centred rows.
    pub(super) fn new(gram: Vec<Vec<f64>>) -> Self {
        let rows = hollow(gram);
        Self { own: hsic_unbiased(&rows, &rows), rows }
    }

    /// Debiased CKA; not finite where a kernel has no spread.
    pub(super) fn alignment(&self, other: &Self) -> f64 {
        hsic_unbiased(&self.rows, &other.rows) / (self.own * other.own).sqrt()
    }

    /// HSIC_1 of both without each image in turn.
    pub(super) fn dependence_without_each(&self, other: &Self) -> Vec<f64> {
        hsic_without_each(&self.rows, &other.rows)
    }
}

fn hollow(mut kernel: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    kernel.iter_mut().enumerate().for_each(|(i, row)| row[i] = 0.0);
    kernel
}

/// HSIC_1 of two symmetric kernels with a diagonal of zeros (Song et al. 2012, equation 5):
/// [tr(KL) + 1'K1 1'L1 / ((n-1)(n-2)) - 2/(n-2) 1'KL1] / (n(n-3)).
fn hsic_unbiased(k: &[Vec<f64>], l: &[Vec<f64>]) -> f64 {
    let (k_sums, l_sums) = (sums(k), sums(l));
    let trace = k.iter().zip(l).map(|(k, l)| dot(k, l)).sum();
    let totals = k_sums.iter().sum::<f64>() * l_sums.iter().sum::<f64>();
    hsic_of(k.len() as f64, trace, totals, dot(&k_sums, &l_sums))
}

/// From tr(KL), 1'K1 1'L1 and 1'KL1 of n images.
fn hsic_of(n: f64, trace: f64, totals: f64, crossed: f64) -> f64 {
    (trace + totals / ((n - 1.0) * (n - 2.0)) - 2.0 / (n - 2.0) * crossed) / (n * (n - 3.0))
}

/// The same without each image in turn, by what its row and column add to the sums. Needs five images. Cost: 4 n^2.
fn hsic_without_each(k: &[Vec<f64>], l: &[Vec<f64>]) -> Vec<f64> {
    let (k_sums, l_sums) = (sums(k), sums(l));
    let traces: Vec<f64> = k.iter().zip(l).map(|(k, l)| dot(k, l)).collect();
    let (k_total, l_total): (f64, f64) = (k_sums.iter().sum(), l_sums.iter().sum());
    let (trace, crossed): (f64, f64) = (traces.iter().sum(), dot(&k_sums, &l_sums));
    let without = |i: usize| {
        let totals = (k_total - 2.0 * k_sums[i]) * (l_total - 2.0 * l_sums[i]);
        // The other images' sums lose what each has in common with this one.
        let crossed = crossed - k_sums[i] * l_sums[i] - dot(&k_sums, &l[i]) - dot(&k[i], &l_sums) + traces[i];
        hsic_of(k.len() as f64 - 1.0, trace - 2.0 * traces[i], totals, crossed)
    };
    (0..k.len()).map(without).collect()
}

fn sums(kernel: &[Vec<f64>]) -> Vec<f64> {
    kernel.iter().map(|row| row.iter().sum()).collect()
}

/// Share of each image's `k` nearest neighbours among the others, by cosine, that are still among its `k` nearest now: one
/// number an image, 0 to 1. Unrelated features read [`overlap_chance`] on average, and so does `now` without spread.
pub fn neighbour_overlaps(reference: &Features, now: &Features, k: usize) -> Option<Vec<f64>> {
    if k == 0 || !comparable(reference, now, k + 2) || !reference.has_spread() {
        return None;
    }
    let chance = overlap_chance(reference.len(), k)?;
    if !now.has_spread() {
        return Some(vec![chance; reference.len()]);
    }
    let (before, after) = (neighbours(reference, k), neighbours(now, k));
    let shared = |(before, after): (&Vec<usize>, &Vec<usize>)| before.iter().filter(|at| after.contains(at)).count();
    Some(before.iter().zip(&after).map(|pair| shared(pair) as f64 / k as f64).collect())
}

/// What [`neighbour_overlaps`] reads on average for unrelated features: k / (n - 1). None unless 0 < k < n - 1.
pub fn overlap_chance(n: usize, k: usize) -> Option<f64> {
    (k > 0 && k + 1 < n).then(|| k as f64 / (n - 1) as f64)
}

/// (overlap - chance) / (1 - chance): 1 where every neighbourhood is the same, about 0 where they are as good as drawn by lot.
/// May lie a little below 0.
pub fn above_chance(overlap: f64, chance: f64) -> f64 {
    (overlap - chance) / (1.0 - chance)
}

fn neighbours(features: &Features, k: usize) -> Vec<Vec<usize>> {
    nearest(&gram(&features.unit_rows()), k)
}

/// The first `k` by similarity to each, itself excluded; equals in the order of the rows.
pub(super) fn nearest(similarities: &[Vec<f64>], k: usize) -> Vec<Vec<usize>> {
    let nearest = |(own, row): (usize, &Vec<f64>)| {
        let mut others: Vec<usize> = (0..row.len()).filter(|&other| other != own).collect();
        others.select_nth_unstable_by(k - 1, |&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
        others.truncate(k);
        others
    };
    similarities.iter().enumerate().map(nearest).collect()
}

/// What the embeddings of one view of each image tell of which image another view is of. Levels, not changes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ViewLevels {
    /// Share of images whose nearest among the other views, by cosine, is their own. Chance is 1 / n; where m views are
    /// equally near, the own one counts 1 / m.
    pub recall: f64,
    /// Bits above chance: mean over the images of log2(n / rank), rank that of the own one among all n other views by
    /// cosine, less what ranks drawn by lot give, log2(n) - log2(n!) / n. Where m views are equally near, the own one has
    /// the middle rank of them. Every rank counts, not the first alone: it varies less from probe to probe than the recall.
    pub bits: f64,
}

/// Each level from the first views to the second and from the second to the first; the mean of both.
///
/// Cost: n^2 d multiplications.
pub fn view_levels(first: &Features, second: &Features) -> Option<ViewLevels> {
    if !comparable(first, second, 2) || first.width() != second.width() {
        return None;
    }
    let (first, second) = (first.unit_rows(), second.unit_rows());
    let rows: Vec<Vec<f64>> = first.iter().map(|one| second.iter().map(|other| dot(one, other)).collect()).collect();
    let n = rows.len();
    let ranks: Vec<Rank> = (0..n)
        .flat_map(|own| [Rank::of(own, rows[own].iter()), Rank::of(own, rows.iter().map(move |row| &row[own]))])
        .collect();
    let mean = |told: &dyn Fn(&Rank) -> f64| ranks.iter().map(told).sum::<f64>() / ranks.len() as f64;
    let by_lot = (n as f64).log2() - (1..=n).map(|rank| (rank as f64).log2()).sum::<f64>() / n as f64;
    Some(ViewLevels { recall: mean(&Rank::hit), bits: mean(&|rank: &Rank| (n as f64 / rank.middle()).log2()) - by_lot })
}

/// Where one's own view stands among all.
struct Rank {
    better: usize,
    /// With the own one.
    equal: usize,
}

impl Rank {
    fn of<'a>(own: usize, similarities: impl Iterator<Item = &'a f64> + Clone) -> Self {
        let own = similarities.clone().nth(own).copied().unwrap_or(f64::NAN);
        similarities.fold(Self { better: 0, equal: 0 }, |rank, &other| Self {
            better: rank.better + usize::from(other > own),
            equal: rank.equal + usize::from(other == own),
        })
    }

    fn hit(&self) -> f64 {
        if self.better > 0 { 0.0 } else { 1.0 / self.equal as f64 }
    }

    fn middle(&self) -> f64 {
        self.better as f64 + (self.equal as f64 + 1.0) / 2.0
    }
}

/// Mean cosine between each image's two embeddings, the mean row taken off both. Reads a rotated copy as a change, unlike
/// the other measures. None if the widths differ, or a centred row is zero.
pub fn centred_cosine(reference: &Features, now: &Features) -> Option<f64> {
    if !comparable(reference, now, 2) || reference.width() != now.width() {
        return None;
    }
    let (before, after) = (reference.centred_rows(), now.centred_rows());
    let cosine = |(a, b): (&Vec<f64>, &Vec<f64>)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    let mean = before.iter().zip(&after).map(cosine).sum::<f64>() / before.len() as f64;
    mean.is_finite().then_some(mean)
}

fn comparable(a: &Features, b: &Features, rows: usize) -> bool {
    a.len() == b.len() && a.len() >= rows && a.is_finite() && b.is_finite()
}

#[cfg(test)]
mod tests {
    use super::super::features::testing::{noisy, normal, rotated};
    use super::*;

    fn mean(values: &[f64]) -> f64 {
        values.iter().sum::<f64>() / values.len() as f64
    }

    fn overlap(a: &Features, b: &Features) -> f64 {
        mean(&neighbour_overlaps(a, b, 10).unwrap())
    }

    fn recall(a: &Features, b: &Features) -> f64 {
        view_levels(a, b).unwrap().recall
    }

    fn bits(a: &Features, b: &Features) -> f64 {
        view_levels(a, b).unwrap().bits
    }

    /// What is lost of the overlap.
    fn index(a: &Features, b: &Features) -> f64 {
        1.0 - above_chance(overlap(a, b), overlap_chance(a.len(), 10).unwrap())
    }

    /// tr(HKHL) / ..., the estimator that must not be used.
    fn cka_biased(a: &Features, b: &Features) -> f64 {
        let (k, l) = (gram(&a.centred_rows()), gram(&b.centred_rows()));
        let hsic = |k: &[Vec<f64>], l: &[Vec<f64>]| k.iter().zip(l).map(|(k, l)| dot(k, l)).sum::<f64>();
        hsic(&k, &l) / (hsic(&k, &k) * hsic(&l, &l)).sqrt()
    }

    #[test]
    fn a_rotated_and_scaled_copy_reads_one() {
        let features = normal(1, 128, 48);
        let copy = rotated(&features, 9);
        let copy = Features::new(48, copy.values().iter().map(|x| 7.5 * x).collect()).unwrap();
        assert!((cka_debiased(&features, &copy).unwrap() - 1.0).abs() < 1e-6);
        assert!(overlap(&features, &copy) > 0.999, "rounding may swap a pair");
        assert!(index(&features, &copy).abs() < 1e-3);
        assert!(centred_cosine(&features, &copy).unwrap() < 0.9, "which is why this one is no measure of forgetting");
    }

    #[test]
    fn unrelated_features_read_nothing_where_the_biased_estimator_reads_two_thirds() {
        let (a, b) = (normal(1, 256, 512), normal(2, 256, 512));
        assert!((cka_biased(&a, &b) - 0.665).abs() < 0.02, "biased {}", cka_biased(&a, &b));
        assert!(cka_debiased(&a, &b).unwrap().abs() < 0.02, "debiased {:?}", cka_debiased(&a, &b));
        assert!((overlap(&a, &b) - 10.0 / 255.0).abs() < 0.01);
        assert!((index(&a, &b) - 1.0).abs() < 0.01);
        assert!(centred_cosine(&a, &b).unwrap().abs() < 0.02);
    }

    #[test]
    fn more_noise_reads_as_more_forgetting() {
        let features = normal(3, 128, 32);
        let readings: Vec<(f64, f64)> = [0.05, 0.2, 0.5, 1.0, 3.0]
            .iter()
            .map(|&amount| {
                let now = noisy(&features, amount, 4);
                (cka_debiased(&features, &now).unwrap(), index(&features, &now))
            })
            .collect();
        assert!(readings.windows(2).all(|pair| pair[0].0 > pair[1].0 && pair[0].1 < pair[1].1), "{readings:?}");
    }

    #[test]
    fn the_order_of_the_images_does_not_matter() {
        let (a, b) = (normal(5, 64, 16), noisy(&normal(5, 64, 16), 0.4, 6));
        let order: Vec<usize> = (0..64).map(|i| (i * 37 + 11) % 64).collect();
        let (a2, b2) = (a.select(&order), b.select(&order));
        assert!((cka_debiased(&a, &b).unwrap() - cka_debiased(&a2, &b2).unwrap()).abs() < 1e-12);
        assert!((overlap(&a, &b) - overlap(&a2, &b2)).abs() < 1e-12);
        assert!((recall(&a, &b) - recall(&a2, &b2)).abs() < 1e-12);
        assert!((bits(&a, &b) - bits(&a2, &b2)).abs() < 1e-12);
        assert!(overlap(&a, &b2) < 0.3, "but the pairing does");
    }

    #[test]
    fn views_that_tell_all_have_all_bits_and_views_by_lot_none() {
        let features = normal(21, 256, 16);
        let all = bits(&features, &features);
        // log2(256) less what is left of it by lot: 1.43 of 8 bits.
        assert!((6.5..6.6).contains(&all), "{all}");
        let by_lot = bits(&features, &normal(22, 256, 16));
        assert!(by_lot.abs() < 0.2, "{by_lot}");
        let some = bits(&features, &noisy(&features, 1.0, 23));
        let fewer = bits(&features, &noisy(&features, 2.0, 23));
        assert!(all > some && some > fewer && fewer > 0.2, "{some} {fewer}");
    }

    #[test]
    fn hsic_agrees_with_its_definition_over_quadruples() {
        // E over all ordered quadruples of different images of K_ij (L_ij + L_kl - 2 L_ik) (Song et al. 2012, section 3).
        let (a, b) = (normal(7, 7, 3), normal(8, 7, 2));
        let (k, l) = (gram(&a.centred_rows()), gram(&b.centred_rows()));
        let (mut sum, mut count) = (0.0, 0u32);
        for (i, j, p, q) in (0..7usize.pow(4)).map(|c| (c % 7, c / 7 % 7, c / 49 % 7, c / 343)) {
            if [i != j, i != p, i != q, j != p, j != q, p != q].iter().all(|&different| different) {
                sum += k[i][j] * (l[i][j] + l[p][q] - 2.0 * l[i][p]);
                count += 1;
            }
        }
        let hsic = hsic_unbiased(&hollow(k), &hollow(l));
        assert!((hsic - sum / f64::from(count)).abs() < 1e-10, "{hsic} {}", sum / f64::from(count));
    }

    #[test]
    fn what_is_not_defined_is_none() {
        let (three, twelve) = (normal(1, 3, 8), normal(1, 12, 8));
        assert_eq!(cka_debiased(&three, &three), None);
        assert_eq!(cka_debiased(&twelve, &normal(1, 13, 8)), None);
        assert!(neighbour_overlaps(&twelve, &twelve, 10).is_some());
        assert_eq!(neighbour_overlaps(&normal(1, 11, 8), &normal(1, 11, 8), 10), None, "all others are neighbours");
        assert_eq!(view_levels(&normal(1, 1, 8), &normal(2, 1, 8)), None);
        assert_eq!(centred_cosine(&twelve, &normal(1, 12, 9)), None);
        let mut values = twelve.values().to_vec();
        values[5] = f32::NAN;
        let broken = Features::new(8, values).unwrap();
        assert_eq!(cka_debiased(&broken, &twelve), None);
        assert_eq!(neighbour_overlaps(&twelve, &broken, 3), None);
    }

    #[test]
    fn a_collapsed_encoder_has_kept_nothing_and_a_collapsed_reference_knew_nothing() {
        let (features, collapsed) = (normal(1, 64, 8), Features::new(8, vec![0.7; 512]).unwrap());
        assert_eq!(cka_debiased(&features, &collapsed), Some(0.0));
        assert!((index(&features, &collapsed) - 1.0).abs() < 1e-12);
        assert_eq!(cka_debiased(&collapsed, &features), None);
        assert_eq!(neighbour_overlaps(&collapsed, &collapsed, 10), None);
        assert!((recall(&collapsed, &collapsed) - 1.0 / 64.0).abs() < 1e-9, "chance");
    }

    #[test]
    fn view_recall_is_one_for_like_views_and_chance_for_unrelated_ones() {
        let features = normal(1, 200, 32);
        assert_eq!(recall(&features, &noisy(&features, 0.05, 2)), 1.0);
        assert!(recall(&features, &normal(3, 200, 32)) < 0.04);
    }
}
