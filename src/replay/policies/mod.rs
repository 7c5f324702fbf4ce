//! Which images stay: one file a policy, and one line in [`new`] and in [`name`].
//!
//! Reservoir and FIFO decide in O(1). [`MinRed`] compares features: O(n d) for n slots and features of d numbers.

mod fifo;
mod minred;
mod reservoir;

use crate::config::{PolicyKind, Seed};
use crate::stream::FrameId;

pub use fifo::Fifo;
pub use minred::MinRed;
pub use reservoir::Reservoir;

/// A frame that asks for a place.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Offer<'a> {
    pub id: FrameId,
    /// Frames offered before this one, since the buffer was made.
    pub seen: u64,
    /// Slots of the buffer.
    pub slots: usize,
    /// What a policy compares it by, of any length but zero; none where it was not computed.
    pub feature: Option<&'a [f32]>,
}

impl<'a> Offer<'a> {
    pub fn new(id: FrameId, seen: u64, slots: usize) -> Self {
        Self { id, seen, slots, feature: None }
    }

    /// The same with a feature.
    pub fn with_feature(self, feature: Option<&'a [f32]>) -> Self {
        Self { feature, ..self }
    }
}

/// A decision about each offered frame, in their order.
///
/// It has to come out the same after a restart. So it may depend on the offer and on what is stored, but not on a state
/// of its own that would be lost: random numbers are drawn for the number of the frame. A policy that looks at features
/// keeps them by [`FrameId`], as a cache that can be filled again from the stored images ([`FeaturePolicy`]).
pub trait Policy: Send + Sync {
    /// The slot for the frame, whose content it replaces, or none to reject it. Cost: O(1) unless the policy says
    /// otherwise.
    fn place(&mut self, offer: &Offer<'_>) -> Option<usize>;

    /// Where it looks at features: what keeps them.
    fn features(&mut self) -> Option<&mut dyn FeaturePolicy> {
        None
    }
}

/// Where features come from: those of different kinds cannot be compared at all, those of different versions of the
/// encoder only so far as training has not moved them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeatureSpace {
    pub kind: FeatureKind,
    /// Length of a feature.
    pub width: usize,
    /// Of the encoder, from 1.
    pub version: u64,
}

/// What computes features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeatureKind {
    /// A map that never changes.
    Frozen,
    /// The published encoder.
    Published,
}

impl FeatureKind {
    fn number(self) -> u8 {
        match self {
            Self::Frozen => 1,
            Self::Published => 2,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        [Self::Frozen, Self::Published].into_iter().find(|kind| kind.number() == number)
    }
}

/// What keeps the features of the stored images. Told of every change of what is stored.
pub trait FeaturePolicy {
    /// Says what computes the features from now on.
    fn enter_space(&mut self, space: FeatureSpace);

    /// A frame was written to a slot, after `place` named it or not.
    fn stored(&mut self, slot: usize, frame: FrameId);

    /// A slot was emptied.
    fn removed(&mut self, slot: usize);

    /// Takes up what is stored: `live` are all frames with their slots; `saved` is what [`save`](Self::save) gave, and
    /// is used so far as it fits.
    fn adopt(&mut self, slots: usize, live: &[(usize, FrameId)], saved: Option<&[u8]>);

    /// Frames whose features are missing or of an older version, at most `count`, in turn.
    fn stale(&mut self, count: usize) -> Vec<FrameId>;

    /// A frame's feature as it is now, in place of the one there was.
    fn refresh(&mut self, frame: FrameId, feature: &[f32]);

    /// Everything it knows, as bytes.
    fn save(&self) -> Vec<u8>;
}

/// The policy of the configuration, with the number that stands for it in the file.
pub fn new(kind: PolicyKind, seed: Seed) -> (u16, Box<dyn Policy>) {
    match kind {
        PolicyKind::Reservoir => (1, Box::new(Reservoir::new(seed))),
        PolicyKind::Fifo => (2, Box::new(Fifo)),
        PolicyKind::MinRed => (3, Box::new(MinRed::new(seed))),
    }
}

/// What a number in a file stands for.
pub fn name(number: u16) -> &'static str {
    match number {
        0 => "none",
        1 => "reservoir",
        2 => "fifo",
        3 => "minred",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_agree_with_the_configuration() {
        for kind in [PolicyKind::Reservoir, PolicyKind::Fifo, PolicyKind::MinRed] {
            let (number, _) = new(kind, Seed(0));
            assert_eq!(toml::Value::try_from(kind).unwrap().as_str(), Some(name(number)));
        }
    }
}
