//! What an encoder knows of images whichever way it sees them, and how much of that another encoder still knows.
//!
//! Part of what two embeddings say of how alike images are is an accident of the picture: of its crop and its colours, which
//! the encoder was trained not to heed. That part changes whenever the encoder goes on learning, and nothing is lost with it.
//! So images are seen in three faces, as they are and in two fixed views, and only similarities that another face confirms
//! count: agreement of the encoders across faces, in units of the reference's agreement with itself across the same faces. It
//! is the correction for attenuation (Spearman, "The proof and measurement of association between two things", American
//! Journal of Psychology 15, 1904) with the reference's reliability alone, so that an encoder that has become unreliable has
//! lost what it no longer tells.
//!
//! An encoder compared with itself reads 1, as does a rotated copy; unrelated features read about 0.

use super::Similarities;
use super::jackknife::jackknife_interval;
use super::similarity::{Kernel, MIN_CKA_ROWS, above_chance, nearest, overlap_chance};

/// What is left of what an encoder knew.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// 1 all, about 0 nothing.
    pub share: f64,
    /// The same without each of the images in turn, for its interval.
    pub without: Vec<f64>,
}

impl Kept {
    /// The mean of two, of the same images. Neither counts for more than all, which an encoder that goes on learning may read:
    /// what is confirmed better now makes up for nothing that is lost elsewhere.
    pub fn mean(&self, other: &Self) -> Self {
        let without = self.without.iter().zip(&other.without).map(|(a, b)| (a + b) / 2.0).collect();
        Self { share: (self.share.min(1.0) + other.share.min(1.0)) / 2.0, without }
    }
}

/// Of the `k` nearest neighbours of each image in one face against those in another: what the two encoders share, in units of
/// what the reference shares with itself, overlaps being counted above chance. None where the images are not as many, or too
/// few, or the reference shares with itself no more than chance may bring (its overlap is not 1.96 standard errors above 0).
///
/// Without an image its own neighbours go, and it stays among those of others.
pub fn neighbours_kept(reference: &Similarities, now: &Similarities, k: usize) -> Option<Kept> {
    let chance = overlap_chance(reference.images, k).filter(|_| reference.images == now.images)?;
    let lists = |of: &Similarities| of.faces.each_ref().map(|face| face.as_ref().map(|cosines| nearest(cosines, k)));
    let (then, now) = (lists(reference), lists(now));
    let shared = |a: &Lists, b: &Lists, image: usize| match (a, b) {
        (Some(a), Some(b)) => {
            let both = a[image].iter().filter(|at| b[image].contains(at)).count();
            above_chance(both as f64 / k as f64, chance)
        }
        _ => 0.0,
    };
    let of = |image: usize| {
        let shared = |a: &Lists, b: &Lists| shared(a, b, image);
        (confirmed(&then, &then, shared), confirmed(&then, &now, shared))
    };
    let images: Vec<(f64, f64)> = (0..reference.images).map(of).collect();
    let (own, across) = images.iter().fold((0.0, 0.0), |sums, image| (sums.0 + image.0, sums.1 + image.1));
    let without = |of: &dyn Fn(&(f64, f64)) -> f64| images.iter().map(of).collect::<Vec<_>>();
    let n = images.len() as f64;
    let known = jackknife_interval(own / n, &without(&|image| (own - image.0) / (n - 1.0)))?;
    let kept = || Kept { share: across / own, without: without(&|image| (across - image.1) / (own - image.0)) };
    (known.low > 0.0).then(kept)
}

/// The neighbours of every image; none where no image has any.
type Lists = Option<Vec<Vec<usize>>>;

/// Debiased CKA, of cosines, between one encoder's face and another face of the other one, in units of what the reference reads
/// between its own faces. None where the images are not as many, or too few, or the reference's own faces agree in no more
/// than chance may bring.
///
/// Cost: 60 n^2 multiplications.
pub fn cka_kept(reference: &Similarities, now: &Similarities) -> Option<Kept> {
    // One more than CKA itself needs: it is taken without each image, too.
    if reference.images != now.images || reference.images <= MIN_CKA_ROWS {
        return None;
    }
    let aspects = |of: &Similarities| of.faces.each_ref().map(|face| face.clone().map(Aspect::new));
    let (then, now) = (aspects(reference), aspects(now));
    let own = Alignments::of(&then, &then, reference.images);
    let across = Alignments::of(&then, &now, reference.images);
    let share = across.whole / own.whole;
    let without = across.without.iter().zip(&own.without).map(|(across, own)| across / own).collect();
    (own.whole > MIN_OWN_CKA && share.is_finite()).then_some(Kept { share, without })
}

/// A face's kernel, and its HSIC_1 with itself without each image in turn.
struct Aspect {
    kernel: Kernel,
    without: Vec<f64>,
}

impl Aspect {
    fn new(cosines: Vec<Vec<f64>>) -> Self {
        let kernel = Kernel::new(cosines);
        Self { without: kernel.dependence_without_each(&kernel), kernel }
    }

    fn alignment_without_each(&self, other: &Self) -> Vec<f64> {
        let own = self.without.iter().zip(&other.without).map(|(a, b)| (a * b).sqrt());
        self.kernel.dependence_without_each(&other.kernel).iter().zip(own).map(|(both, own)| both / own).collect()
    }
}

/// Debiased CKA over all pairs of different faces: their mean, and that without each image in turn.
struct Alignments {
    whole: f64,
    without: Vec<f64>,
}

impl Alignments {
    fn of(a: &[Option<Aspect>; 3], b: &[Option<Aspect>; 3], images: usize) -> Self {
        let whole = confirmed(a, b, |a, b| match (a, b) {
            (Some(a), Some(b)) => a.kernel.alignment(&b.kernel),
            _ => 0.0,
        });
        let mut without = vec![0.0; images];
        for (a, b) in PAIRS.iter().filter_map(|&(one, other)| Some((a[one].as_ref()?, b[other].as_ref()?))) {
            let add = |(sum, value): (&mut f64, f64)| *sum += value / PAIRS.len() as f64;
            without.iter_mut().zip(a.alignment_without_each(b)).for_each(add);
        }
        Self { whole, without }
    }
}

/// Twice what unrelated features read at 256 images.
const MIN_OWN_CKA: f64 = 0.02;

/// Every face with every other one.
const PAIRS: [(usize, usize); 6] = [(0, 1), (1, 0), (1, 2), (2, 1), (2, 0), (0, 2)];

/// Mean over all pairs of different faces of what `a` in the one shares with `b` in the other.
fn confirmed<T>(a: &[T; 3], b: &[T; 3], share: impl Fn(&T, &T) -> f64) -> f64 {
    PAIRS.iter().map(|&(one, other)| share(&a[one], &b[other])).sum::<f64>() / PAIRS.len() as f64
}

#[cfg(test)]
mod tests {
    use super::super::features::testing::{noisy, normal, rotated};
    use super::super::{Faces, Features};
    use super::*;

    /// Images that an encoder knows by `known`, each face with its own accidents of size `accident`.
    fn faces(known: &Features, accident: f32, seed: u64) -> Faces {
        let face = |number| noisy(known, accident, 10 * seed + number);
        Faces { plain: face(1), first: face(2), second: face(3) }
    }

    fn turned(faces: &Faces) -> Faces {
        let [plain, first, second] = [&faces.plain, &faces.first, &faces.second].map(|face| rotated(face, 9));
        Faces { plain, first, second }
    }

    fn similarities(faces: &Faces) -> Similarities {
        faces.similarities().unwrap()
    }

    fn cka(reference: &Faces, now: &Faces) -> Option<f64> {
        Some(cka_kept(&similarities(reference), &similarities(now))?.share)
    }

    fn kept(reference: &Faces, now: &Faces) -> f64 {
        neighbours_kept(&similarities(reference), &similarities(now), 10).unwrap().share
    }

    #[test]
    fn itself_and_a_rotated_copy_read_one_and_unrelated_features_nothing() {
        let reference = faces(&normal(1, 200, 24), 0.5, 1);
        assert_eq!((kept(&reference, &reference), cka(&reference, &reference)), (1.0, Some(1.0)));
        let copy = turned(&reference);
        assert!((kept(&reference, &copy) - 1.0).abs() < 0.01 && (cka(&reference, &copy).unwrap() - 1.0).abs() < 1e-5);
        let other = faces(&normal(2, 200, 24), 0.5, 2);
        assert!(kept(&reference, &other).abs() < 0.06, "{}", kept(&reference, &other));
        assert!(cka(&reference, &other).unwrap().abs() < 0.03);
    }

    #[test]
    fn accidents_that_change_are_no_loss_and_knowledge_that_goes_is() {
        let known = normal(1, 256, 16);
        let (reference, now) = (faces(&known, 0.7, 1), faces(&known, 0.7, 2));
        assert!((kept(&reference, &now) - 1.0).abs() < 0.05, "other accidents: {}", kept(&reference, &now));
        assert!((cka(&reference, &now).unwrap() - 1.0).abs() < 0.05);
        let overlaps = super::super::similarity::neighbour_overlaps(&reference.plain, &now.plain, 10).unwrap();
        assert!(overlaps.iter().sum::<f64>() / 256.0 < 0.5, "which the plain overlap takes for a loss");
        let readings: Vec<(f64, f64)> = [0.3, 0.7, 1.5, 4.0]
            .iter()
            .map(|&noise| {
                let now = faces(&noisy(&known, noise, 5), 0.7, 3);
                (kept(&reference, &now), cka(&reference, &now).unwrap())
            })
            .collect();
        assert!(readings.windows(2).all(|pair| pair[0].0 > pair[1].0 && pair[0].1 > pair[1].1), "{readings:?}");
        assert!(readings[0].0 > 0.7 && readings[3].0 < 0.2, "{readings:?}");
    }

    #[test]
    fn an_encoder_that_no_longer_recognises_its_views_has_lost_them() {
        let known = normal(1, 200, 16);
        let (reference, unsteady) = (faces(&known, 0.3, 1), faces(&known, 3.0, 2));
        assert!(kept(&reference, &unsteady) < 0.5 && cka(&reference, &unsteady).unwrap() < 0.5);
        let flat = Features::new(16, vec![0.5; 3200]).unwrap();
        let collapsed = Faces { plain: flat.clone(), first: flat.clone(), second: flat };
        assert_eq!((kept(&reference, &collapsed), cka(&reference, &collapsed)), (0.0, Some(0.0)));
        assert_eq!(cka(&collapsed, &reference), None, "nothing was known");
    }

    #[test]
    fn more_than_all_of_one_makes_up_for_nothing_of_the_other() {
        let kept = |share: f64| Kept { share, without: vec![share; 3] };
        assert_eq!(kept(1.4).mean(&kept(0.6)).share, 0.8);
        assert_eq!(kept(0.5).mean(&kept(0.7)).share, 0.6);
        assert_eq!(kept(1.2).mean(&kept(1.1)).share, 1.0);
    }

    #[test]
    fn cka_without_an_image_is_that_of_the_others() {
        let known = normal(1, 30, 8);
        let (reference, now) = (faces(&known, 0.4, 1), faces(&noisy(&known, 0.8, 3), 0.4, 2));
        let kept = cka_kept(&similarities(&reference), &similarities(&now)).unwrap();
        assert_eq!(kept.without.len(), 30);
        for out in [0, 7, 29] {
            let others: Vec<usize> = (0..30).filter(|at| *at != out).collect();
            let alone = cka(&reference.select(&others), &now.select(&others)).unwrap();
            assert!((kept.without[out] - alone).abs() < 1e-9, "{out}: {} {alone}", kept.without[out]);
        }
    }

    #[test]
    fn the_interval_holds_what_other_probes_read_about_as_often_as_it_says() {
        let read = |trial: u64| {
            let known = normal(100 + trial, 100, 8);
            let now = faces(&noisy(&known, 0.8, 300 + trial), 0.4, 500 + trial);
            let (then, now) = (similarities(&faces(&known, 0.4, 700 + trial)), similarities(&now));
            neighbours_kept(&then, &now, 10).unwrap().mean(&cka_kept(&then, &now).unwrap())
        };
        let found: Vec<Kept> = (0..80).map(read).collect();
        let truth = found.iter().map(|kept| kept.share).sum::<f64>() / 80.0;
        let holds = |kept: &&Kept| {
            let interval = jackknife_interval(kept.share, &kept.without).unwrap();
            interval.low <= truth && truth <= interval.high
        };
        let covered = found.iter().filter(holds).count();
        assert!((68..=80).contains(&covered), "{covered} of 80 hold {truth}");
    }

    #[test]
    fn what_is_not_defined_is_none() {
        let reference = faces(&normal(1, 12, 8), 0.3, 1);
        let neighbours = |a: &Faces, b: &Faces| neighbours_kept(&similarities(a), &similarities(b), 10);
        assert!(neighbours(&reference, &reference).is_some());
        let few = reference.select(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!(neighbours(&few, &few), None, "all others are neighbours");
        assert_eq!((neighbours(&reference, &few), cka(&reference, &few)), (None, None));
        let three = few.select(&[0, 1, 2]);
        assert_eq!(cka(&three, &three), None);
        let mut values = reference.plain.values().to_vec();
        values[5] = f32::NAN;
        let broken = Faces { second: Features::new(8, values).unwrap(), ..reference.clone() };
        assert!(broken.similarities().is_none());
        assert!(Faces { first: few.first.clone(), ..reference }.similarities().is_none());
    }
}
