//! A self-supervised loss of the features themselves, without heads.
//!
//! The loss that training minimises is taken behind heads, which learn too: it falls where they learn and the encoder loses. And
//! its units differ from objective to objective. This one is the same for all of them, and moves with the encoder alone.

use super::features::{dot, gram};
use super::{Faces, Features};

/// That of the votes.
const TEMPERATURE: f64 = 0.1;

/// NT-Xent, the loss of SimCLR (Chen et al., ICML 2020, equation 1), in nats: how surely a face of an image finds another face
/// of the same one among all faces of two kinds. Mean over the three pairs of kinds and all images. Each kind's mean is taken off,
/// for what all images share tells none of them apart. Faces that
/// tell nothing, such as one without spread, give about ln(2n - 1) for n images.
///
/// None for fewer than two images, faces of different images, and numbers that are not finite.
///
/// Cost: 6 n^2 d multiplications.
pub fn view_loss(faces: &Faces) -> Option<f64> {
    let n = faces.len();
    if n < 2 || !faces.are_of(n) || !faces.is_finite() {
        return None;
    }
    let Faces { plain, first, second } = faces;
    let pairs = [(plain, first), (first, second), (second, plain)];
    Some(pairs.iter().map(|(one, other)| nt_xent(one, other)).sum::<f64>() / pairs.len() as f64)
}

fn nt_xent(one: &Features, other: &Features) -> f64 {
    let n = one.len();
    if !one.has_spread() || !other.has_spread() {
        return ((2 * n - 1) as f64).ln();
    }
    let rows = [directions(one), directions(other)].concat();
    let cosines = gram(&rows);
    let loss = |at: usize| {
        let scaled = |cosine: f64| cosine / TEMPERATURE;
        // A cosine is at most 1: nothing overflows.
        let all: f64 = (0..2 * n)
            .filter(|candidate| *candidate != at)
            .map(|candidate| scaled(cosines[at][candidate] - 1.0).exp())
            .sum();
        all.ln() - scaled(cosines[at][(at + n) % (2 * n)] - 1.0)
    };
    (0..2 * n).map(loss).sum::<f64>() / (2 * n) as f64
}

/// Rows less their mean, at length one; zeros stay zeros.
fn directions(features: &Features) -> Vec<Vec<f64>> {
    let unit = |row: Vec<f64>| {
        let length = dot(&row, &row).sqrt();
        if length > 0.0 { row.iter().map(|x| x / length).collect() } else { row }
    };
    features.centred_rows().into_iter().map(unit).collect()
}

#[cfg(test)]
mod tests {
    use super::super::features::testing::{noisy, normal};
    use super::*;

    fn faces(known: &Features, accident: f32) -> Faces {
        let face = |seed| noisy(known, accident, seed);
        Faces { plain: face(1), first: face(2), second: face(3) }
    }

    #[test]
    fn it_is_simclrs_formula() {
        // Two images, opposite each other: of three candidates one is right with cosine 1, two are wrong with cosine -1.
        let known = Features::new(2, vec![1.0, 0.0, -1.0, 0.0]).unwrap();
        let loss = view_loss(&Faces { plain: known.clone(), first: known.clone(), second: known }).unwrap();
        let right = (1.0 / TEMPERATURE).exp();
        let wrong = (-1.0 / TEMPERATURE).exp();
        assert!((loss + (right / (right + 2.0 * wrong)).ln()).abs() < 1e-12, "{loss}");
    }

    #[test]
    fn it_rises_with_what_the_faces_do_not_share() {
        let known = normal(1, 100, 16);
        let losses: Vec<f64> =
            [0.0, 0.3, 1.0, 3.0].map(|accident| view_loss(&faces(&known, accident)).unwrap()).to_vec();
        assert!(losses.is_sorted() && losses[0] < 0.2 && losses[3] > 3.0, "{losses:?}");
        let flat = Features::new(16, vec![0.3; 1600]).unwrap();
        let collapsed = Faces { plain: flat.clone(), first: flat.clone(), second: flat };
        assert_eq!(view_loss(&collapsed), Some(199f64.ln()));
    }

    #[test]
    fn what_all_images_share_changes_nothing() {
        let near = faces(&normal(1, 60, 8), 0.5);
        let shifted = |face: &Features| Features::new(8, face.values().iter().map(|x| x + 4.0).collect()).unwrap();
        let far = Faces { plain: shifted(&near.plain), first: shifted(&near.first), second: shifted(&near.second) };
        assert!((view_loss(&near).unwrap() - view_loss(&far).unwrap()).abs() < 1e-4);
    }

    #[test]
    fn what_is_not_defined_is_none() {
        let few = faces(&normal(1, 1, 8), 0.5);
        assert_eq!(view_loss(&few), None);
        let broken = Faces { second: Features::new(8, vec![f32::NAN; 80]).unwrap(), ..faces(&normal(1, 10, 8), 0.5) };
        assert_eq!(view_loss(&broken), None);
        assert_eq!(view_loss(&Faces { first: normal(2, 9, 8), ..faces(&normal(1, 10, 8), 0.5) }), None);
    }
}
