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

use super::Features;
use super::features::gram;
use super::similarity::{Kernel, MIN_CKA_ROWS, above_chance, nearest, overlap_chance};

/// Embeddings of the same n images, (n, width) each.
#[derive(Debug, Clone, PartialEq)]
pub struct Faces {
    /// As they are.
    pub plain: Features,
    /// In two fixed views.
    pub first: Features,
    pub second: Features,
}

impl Faces {
    fn all(&self) -> [&Features; 3] {
        [&self.plain, &self.first, &self.second]
    }

    /// Images.
    pub fn len(&self) -> usize {
        self.plain.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.plain.is_empty()
    }

    /// Numbers in a row.
    pub fn width(&self) -> usize {
        self.plain.width()
    }

    /// Whether every face has `images` rows, and all have one width.
    pub fn are_of(&self, images: usize) -> bool {
        self.all().iter().all(|face| face.len() == images && face.width() == self.width())
    }

    /// Whether every number is finite.
    pub fn is_finite(&self) -> bool {
        self.all().iter().all(|face| face.is_finite())
    }

    /// The images at `indices`, in that order.
    ///
    /// # Panics
    /// If an index is not below [`Faces::len`].
    pub fn select(&self, indices: &[usize]) -> Self {
        let [plain, first, second] = self.all().map(|face| face.select(indices));
        Self { plain, first, second }
    }

    /// Numbers in all faces.
    pub fn numbers(&self) -> usize {
        self.all().iter().map(|face| face.values().len()).sum()
    }
}

/// How alike an encoder sees images in each of their faces.
#[derive(Debug, Clone)]
pub struct Similarities {
    images: usize,
    /// Cosines of all pairs, (n, n); none of a face without spread, which tells nothing apart.
    faces: [Option<Vec<Vec<f64>>>; 3],
}

impl Faces {
    /// None where the faces are not of the same images, or a number is not finite.
    ///
    /// Cost: 3 n^2 d / 2 multiplications.
    pub fn similarities(&self) -> Option<Similarities> {
        let cosines = |face: &Features| face.has_spread().then(|| gram(&face.unit_rows()));
        let images = self.len();
        (images > 0 && self.are_of(images) && self.is_finite())
            .then(|| Similarities { images, faces: self.all().map(cosines) })
    }
}

/// Of one image: overlap above chance of its nearest neighbours in one face with those in another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbours {
    /// Reference with reference.
    pub then: f64,
    /// Reference with now.
    pub across: f64,
}

/// The `k` nearest neighbours of each image in one face against those in another: what the two encoders share of them, and
/// what the reference shares with itself, each (overlap - chance) / (1 - chance). The sum of the one over the sum of the other
/// is what was kept. None where the images are not as many, or too few.
pub fn neighbours_kept(reference: &Similarities, now: &Similarities, k: usize) -> Option<Vec<Neighbours>> {
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
    let of = |image: usize| Neighbours {
        then: confirmed(&then, &then, |a, b| shared(a, b, image)),
        across: confirmed(&then, &now, |a, b| shared(a, b, image)),
    };
    Some((0..reference.images).map(of).collect())
}

/// The neighbours of every image; none where no image has any.
type Lists = Option<Vec<Vec<usize>>>;

/// Debiased CKA, of cosines, between one encoder's face and another face of the other one, in units of what the reference reads
/// between its own faces: 1 - this is what was lost. None where the images are not as many, or too few, or the reference's
/// own faces agree in no more than chance may bring.
pub fn cka_kept(reference: &Similarities, now: &Similarities) -> Option<f64> {
    if reference.images != now.images || reference.images < MIN_CKA_ROWS {
        return None;
    }
    let kernels = |of: &Similarities| of.faces.each_ref().map(|face| face.clone().map(Kernel::new));
    let (then, now) = (kernels(reference), kernels(now));
    let cka = |a: &Option<Kernel>, b: &Option<Kernel>| match (a, b) {
        (Some(a), Some(b)) => a.alignment(b),
        _ => 0.0,
    };
    let own = confirmed(&then, &then, cka);
    let kept = confirmed(&then, &now, cka) / own;
    (own > MIN_OWN_CKA && kept.is_finite()).then_some(kept)
}

/// Twice what unrelated features read at 256 images.
const MIN_OWN_CKA: f64 = 0.02;

/// Mean over all pairs of different faces of what `a` in the one shares with `b` in the other.
fn confirmed<T>(a: &[T; 3], b: &[T; 3], share: impl Fn(&T, &T) -> f64) -> f64 {
    [(0, 1), (1, 2), (2, 0)]
        .map(|(one, other)| share(&a[one], &b[other]) + share(&a[other], &b[one]))
        .iter()
        .sum::<f64>()
        / 6.0
}

#[cfg(test)]
mod tests {
    use super::super::features::testing::{noisy, normal, rotated};
    use super::*;

    /// Images that an encoder knows by `known`, each face with its own accidents of size `accident`.
    fn faces(known: &Features, accident: f32, seed: u64) -> Faces {
        let face = |number| noisy(known, accident, 10 * seed + number);
        Faces { plain: face(1), first: face(2), second: face(3) }
    }

    fn turned(faces: &Faces) -> Faces {
        let [plain, first, second] = faces.all().map(|face| rotated(face, 9));
        Faces { plain, first, second }
    }

    fn similarities(faces: &Faces) -> Similarities {
        faces.similarities().unwrap()
    }

    fn cka(reference: &Faces, now: &Faces) -> Option<f64> {
        cka_kept(&similarities(reference), &similarities(now))
    }

    fn kept(reference: &Faces, now: &Faces) -> f64 {
        let neighbours = neighbours_kept(&similarities(reference), &similarities(now), 10).unwrap();
        let sum = |of: fn(&Neighbours) -> f64| neighbours.iter().map(of).sum::<f64>();
        sum(|image| image.across) / sum(|image| image.then)
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
