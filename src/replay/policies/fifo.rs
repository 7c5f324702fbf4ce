use super::{Offer, Policy};

/// The newest frames: each takes the place of the oldest.
#[derive(Debug, Clone, Copy)]
pub struct Fifo;

impl Policy for Fifo {
    fn place(&mut self, offer: &Offer<'_>) -> Option<usize> {
        Some((offer.seen % offer.slots as u64) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::FrameId;

    #[test]
    fn it_goes_round() {
        let places: Vec<_> = (0..7).map(|seen| Fifo.place(&Offer::new(FrameId(seen + 1), seen, 3)).unwrap()).collect();
        assert_eq!(places, [0, 1, 2, 0, 1, 2, 0]);
    }
}
