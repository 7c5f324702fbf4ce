//! What a step is made of: images with what is known of them, and the views that one pass takes.

use candle_core::{Result, Tensor};

use super::views::Views;

/// Packed RGB8 images, n times side x side x 3 bytes, with what is known of each.
#[derive(Debug, Clone, Copy, Default)]
pub struct Samples<'a> {
    pub pixels: &'a [u8],
    /// A number that is an image's own as long as it is remembered; one each, or none at all.
    pub ids: &'a [u64],
    /// Class of each; none at all where nothing is known, which is the rule on a stream.
    pub labels: &'a [u32],
}

impl<'a> Samples<'a> {
    /// Images of which nothing is known.
    pub fn unlabelled(pixels: &'a [u8]) -> Self {
        Self { pixels, ..Self::default() }
    }
}

/// The images of one pass: views, and what is known of the images behind them.
#[derive(Debug, Clone)]
pub struct Batch {
    pub views: Views,
    /// The images themselves, packed RGB8; empty where the views are mixtures of several.
    pub pixels: Vec<u8>,
    /// As in [`Samples::ids`].
    pub ids: Vec<u64>,
    /// As in [`Samples::labels`].
    pub labels: Vec<u32>,
    /// How many of the last images come from the memory.
    pub replayed: usize,
}

impl Batch {
    /// Views of which nothing else is known.
    pub fn of(views: Views) -> Self {
        Self { views, pixels: Vec::new(), ids: Vec::new(), labels: Vec::new(), replayed: 0 }
    }

    /// Images.
    pub fn count(&self) -> usize {
        self.views.count()
    }

    /// The same, all of it from the memory.
    pub fn from_memory(mut self) -> Self {
        self.replayed = self.count();
        self
    }

    /// This batch and, behind it, another: what is known of only one of them is not known of both.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn followed_by(self, other: Self) -> Result<Self> {
        let join = |a: &Tensor, b: &Tensor| Tensor::cat(&[a, b], 0);
        let (count, others) = (self.count(), other.count());
        let ids = both(&self.ids, &other.ids, (count, others));
        let labels = both(&self.labels, &other.labels, (count, others));
        Ok(Self {
            views: Views {
                first: join(&self.views.first, &other.views.first)?,
                second: join(&self.views.second, &other.views.second)?,
            },
            pixels: [self.pixels, other.pixels].concat(),
            ids,
            labels,
            replayed: other.replayed,
        })
    }

    /// Images `start..start + count`.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn narrow(&self, start: usize, count: usize) -> Result<Self> {
        fn part<T: Clone>(all: &[T], images: usize, start: usize, count: usize) -> Vec<T> {
            let each = all.len() / images.max(1);
            all.get(start * each..(start + count) * each).unwrap_or_default().to_vec()
        }
        let (images, end) = (self.count(), start + count);
        Ok(Self {
            views: self.views.narrow(start, count)?,
            pixels: part(&self.pixels, images, start, count),
            ids: part(&self.ids, images, start, count),
            labels: part(&self.labels, images, start, count),
            replayed: end.saturating_sub((images - self.replayed).max(start)),
        })
    }
}

fn both<T: Clone>(a: &[T], b: &[T], (count, others): (usize, usize)) -> Vec<T> {
    if a.len() == count && b.len() == others { [a, b].concat() } else { Vec::new() }
}

/// Gradient of everything that is trained.
#[derive(Debug, Clone)]
pub struct Gradient {
    /// Of the encoder's flat parameters, shape (P).
    pub backbone: Tensor,
    /// Of the head's variables, then of the strategy's own.
    pub others: Vec<Tensor>,
}

impl Gradient {
    /// Inner product with another, over everything.
    ///
    /// # Errors
    /// Where shapes differ or the device fails.
    pub fn dot(&self, other: &Self) -> Result<f64> {
        let product =
            |a: &Tensor, b: &Tensor| a.mul(b)?.sum_all()?.to_dtype(candle_core::DType::F64)?.to_scalar::<f64>();
        let mut sum = product(&self.backbone, &other.backbone)?;
        for (a, b) in self.others.iter().zip(&other.others) {
            sum += product(a, b)?;
        }
        Ok(sum)
    }

    /// `self + factor * other`.
    ///
    /// # Errors
    /// Where shapes differ or the device fails.
    pub fn plus(&self, other: &Self, factor: f64) -> Result<Self> {
        let add = |a: &Tensor, b: &Tensor| a + b.affine(factor, 0.0)?;
        Ok(Self {
            backbone: add(&self.backbone, &other.backbone)?,
            others: self.others.iter().zip(&other.others).map(|(a, b)| add(a, b)).collect::<Result<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn batch(ids: &[u64]) -> Batch {
        let values: Vec<f32> = ids.iter().map(|id| *id as f32).collect();
        let first = Tensor::new(values, &Device::Cpu).unwrap().reshape(((), 1, 1, 1)).unwrap();
        Batch { ids: ids.to_vec(), labels: vec![7; ids.len()], ..Batch::of(Views { second: first.clone(), first }) }
    }

    #[test]
    fn a_part_of_a_joined_batch_knows_what_of_it_was_replayed() {
        let joined = batch(&[1, 2, 3]).followed_by(batch(&[8, 9]).from_memory()).unwrap();
        assert_eq!((joined.count(), joined.replayed, &*joined.ids), (5, 2, &[1, 2, 3, 8, 9][..]));
        let part = joined.narrow(2, 2).unwrap();
        assert_eq!((part.replayed, &*part.ids), (1, &[3, 8][..]));
        assert_eq!(joined.narrow(0, 2).unwrap().replayed, 0);
        assert_eq!(joined.narrow(4, 1).unwrap().replayed, 1);
        let unknown = Batch { ids: Vec::new(), ..batch(&[5]) };
        assert!(joined.followed_by(unknown).unwrap().ids.is_empty());
    }
}
