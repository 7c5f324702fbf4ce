//! The same images as an encoder sees them in three faces: as they are, and in two fixed views.

use super::Features;
use super::features::gram;

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
    pub(super) images: usize,
    /// Cosines of all pairs, (n, n); none of a face without spread, which tells nothing apart.
    pub(super) faces: [Option<Vec<Vec<f64>>>; 3],
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
