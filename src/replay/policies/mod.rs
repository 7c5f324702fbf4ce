//! Which images stay: one file a policy, and one line in [`new`] and in [`name`].

mod fifo;
mod reservoir;

use crate::config::{PolicyKind, Seed};
use crate::stream::FrameId;

pub use fifo::Fifo;
pub use reservoir::Reservoir;

/// A frame that asks for a place.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Offer {
    pub id: FrameId,
    /// Frames offered before this one, since the buffer was made.
    pub seen: u64,
    /// Slots of the buffer.
    pub slots: usize,
}

impl Offer {
    pub fn new(id: FrameId, seen: u64, slots: usize) -> Self {
        Self { id, seen, slots }
    }
}

/// A decision about each offered frame, in their order.
///
/// It has to come out the same after a restart. So it may depend on the offer and on what is stored, but not on a state
/// of its own that would be lost: random numbers are drawn for the number of the frame. A policy that looks at features
/// keeps them by [`FrameId`], as a cache that can be filled again from the stored images.
pub trait Policy: Send + Sync {
    /// The slot for the frame, whose content it replaces, or none to reject it. Cost: O(1) unless the policy says
    /// otherwise.
    fn place(&mut self, offer: &Offer) -> Option<usize>;
}

/// The policy of the configuration, with the number that stands for it in the file.
pub fn new(kind: PolicyKind, seed: Seed) -> (u16, Box<dyn Policy>) {
    match kind {
        PolicyKind::Reservoir => (1, Box::new(Reservoir::new(seed))),
        PolicyKind::Fifo => (2, Box::new(Fifo)),
    }
}

/// What a number in a file stands for.
pub fn name(number: u16) -> &'static str {
    match number {
        0 => "none",
        1 => "reservoir",
        2 => "fifo",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_agree_with_the_configuration() {
        for kind in [PolicyKind::Reservoir, PolicyKind::Fifo] {
            let (number, _) = new(kind, Seed(0));
            assert_eq!(toml::Value::try_from(kind).unwrap().as_str(), Some(name(number)));
        }
    }
}
