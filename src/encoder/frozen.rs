//! Which layers of the network are frozen, and which layer a parameter belongs to.

use std::fmt;
use std::ops::Range;

use super::Parameter;
use crate::config::EncoderLayer;

impl EncoderLayer {
    /// The layer of a parameter or running statistic, by its name: `conv1` and `bn1` are the stem, `layer2.0.conv1.weight`
    /// belongs to `layer2`.
    pub fn of(parameter: &str) -> Self {
        let first = parameter.split('.').next().unwrap_or_default();
        Self::ALL.into_iter().find(|layer| layer.name() == first).unwrap_or(Self::Stem)
    }
}

/// A set of layers that keep their parameters and running statistics to the bit while the others learn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Frozen([bool; 5]);

impl Frozen {
    pub fn new(layers: &[EncoderLayer]) -> Self {
        Self(EncoderLayer::ALL.map(|layer| layers.contains(&layer)))
    }

    pub fn is_empty(&self) -> bool {
        !self.0.contains(&true)
    }

    /// Whether the layer of a parameter or running statistic of that name is among them.
    pub fn holds(&self, parameter: &str) -> bool {
        self.0[EncoderLayer::of(parameter) as usize]
    }

    pub fn layers(&self) -> Vec<EncoderLayer> {
        EncoderLayer::ALL.into_iter().filter(|layer| self.0[*layer as usize]).collect()
    }

    /// The runs of a flat vector that are not frozen, in order.
    pub fn trainable(&self, layout: &[Parameter]) -> Vec<Range<usize>> {
        let mut runs: Vec<Range<usize>> = Vec::new();
        for parameter in layout.iter().filter(|parameter| !self.holds(&parameter.name)) {
            let range = parameter.offset..parameter.offset + parameter.elements();
            match runs.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => runs.push(range),
            }
        }
        runs
    }
}

impl fmt::Display for Frozen {
    /// `["stem", "layer1"]`, as it is set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.layers().into_iter().map(EncoderLayer::name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::{Stem, parameter_layout};

    #[test]
    fn a_parameter_belongs_to_its_layer_and_what_is_not_frozen_is_the_rest() {
        assert_eq!(EncoderLayer::of("bn1.running_mean"), EncoderLayer::Stem);
        assert_eq!(EncoderLayer::of("layer3.1.bn2.bias"), EncoderLayer::Layer3);
        let layout = parameter_layout(Stem::Imagenet, 4);
        let end = layout.last().map(|p| p.offset + p.elements()).unwrap();
        assert_eq!(Frozen::default().trainable(&layout), vec![0..end; 1]);
        let frozen = Frozen::new(&[EncoderLayer::Layer2, EncoderLayer::Stem]);
        assert_eq!(frozen.to_string(), "[\"stem\", \"layer2\"]");
        let at = |name: &str| layout.iter().find(|p| p.name == name).unwrap().offset;
        let runs = [at("layer1.0.conv1.weight")..at("layer2.0.conv1.weight"), at("layer3.0.conv1.weight")..end];
        assert_eq!(frozen.trainable(&layout), runs);
    }
}
