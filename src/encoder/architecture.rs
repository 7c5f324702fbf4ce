//! ResNet-18 as data: its blocks, its parameters by torchvision's names, their first values. Every backend shares it.
//!
//! Source: He et al. 2016, "Deep Residual Learning for Image Recognition", table 1 and section 4.2 (the 3x3 stem).

use super::{Parameter, Stem};
use crate::config::Seed;

/// One BasicBlock: two 3x3 convolutions around a shortcut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Prefix of its parameters, such as `layer2.0`.
    pub name: String,
    pub inputs: usize,
    pub outputs: usize,
    /// Of its first convolution and of its shortcut.
    pub stride: usize,
}

impl Block {
    /// Whether the shortcut is a 1x1 convolution with batch norm in place of the identity.
    pub fn has_downsample(&self) -> bool {
        self.stride != 1 || self.inputs != self.outputs
    }
}

/// The eight blocks of a ResNet-18 of that width, in the order of the data.
pub fn blocks(width: usize) -> Vec<Block> {
    let block = |stage: usize, index: usize| {
        let outputs = width << stage;
        let opens = index == 0 && stage > 0;
        Block {
            name: format!("layer{}.{index}", stage + 1),
            inputs: if opens { outputs / 2 } else { outputs },
            outputs,
            stride: if opens { 2 } else { 1 },
        }
    };
    (0..4).flat_map(|stage| [block(stage, 0), block(stage, 1)]).collect()
}

/// Convolutions `(name, outputs, inputs, kernel)` each with the batch norm that follows it, in torchvision's order.
fn convolutions(stem: Stem, width: usize) -> Vec<(String, String, [usize; 4])> {
    let (size, _) = stem.kernel();
    let mut all = vec![("conv1".to_owned(), "bn1".to_owned(), [width, 3, size, size])];
    for Block { name, inputs, outputs, stride } in blocks(width) {
        all.push((format!("{name}.conv1"), format!("{name}.bn1"), [outputs, inputs, 3, 3]));
        all.push((format!("{name}.conv2"), format!("{name}.bn2"), [outputs, outputs, 3, 3]));
        if stride != 1 || inputs != outputs {
            all.push((format!("{name}.downsample.0"), format!("{name}.downsample.1"), [outputs, inputs, 1, 1]));
        }
    }
    all
}

fn pack(named: Vec<(String, Vec<usize>)>) -> Vec<Parameter> {
    let mut offset = 0;
    let place = |(name, shape)| {
        let parameter = Parameter { name, shape, offset };
        offset += parameter.elements();
        parameter
    };
    named.into_iter().map(place).collect()
}

/// The trainable parameters in torchvision's order; convolution weights are (out, in, height, width).
pub fn parameter_layout(stem: Stem, width: usize) -> Vec<Parameter> {
    let of = |(conv, norm, shape): (String, String, [usize; 4])| {
        [
            (format!("{conv}.weight"), shape.to_vec()),
            (format!("{norm}.weight"), vec![shape[0]]),
            (format!("{norm}.bias"), vec![shape[0]]),
        ]
    };
    pack(convolutions(stem, width).into_iter().flat_map(of).collect())
}

/// The running statistics of batch norm in torchvision's order; they are the same for every stem.
pub fn statistics_layout(width: usize) -> Vec<Parameter> {
    let of = |(_, norm, shape): (String, String, [usize; 4])| {
        [(format!("{norm}.running_mean"), vec![shape[0]]), (format!("{norm}.running_var"), vec![shape[0]])]
    };
    pack(convolutions(Stem::Cifar, width).into_iter().flat_map(of).collect())
}

/// The first values: convolutions Kaiming-normal by fan-out, standard deviation sqrt(2 / (out * height * width)) (He et al.
/// 2015); batch norm the identity.
pub fn initial_parameters(layout: &[Parameter], seed: Seed) -> Vec<f32> {
    let mut values = Vec::with_capacity(layout.iter().map(Parameter::elements).sum());
    for parameter in layout {
        match parameter.shape[..] {
            [outputs, _, height, width] => {
                let std = (2.0 / (outputs * height * width) as f64).sqrt();
                let mut random = seed.random(&parameter.name, 0);
                values.extend((0..parameter.elements()).map(|_| (std * random.normal()) as f32));
            }
            _ if parameter.name.ends_with(".weight") => values.extend(vec![1.0; parameter.elements()]),
            _ => values.extend(vec![0.0; parameter.elements()]),
        }
    }
    values
}

/// Running means 0, running variances 1.
pub fn initial_statistics(layout: &[Parameter]) -> Vec<f32> {
    let of = |parameter: &Parameter| {
        let value = if parameter.name.ends_with("running_var") { 1.0 } else { 0.0 };
        vec![value; parameter.elements()]
    };
    layout.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameters_are_torchvisions_without_the_classifier() {
        // torchvision's resnet18 has 11,689,512 with its 7x7 stem (9,408) and classifier (513,000); the 3x3 stem has 1,728.
        let count = |stem| parameter_layout(stem, 64).iter().map(Parameter::elements).sum::<usize>();
        assert_eq!(count(Stem::Imagenet), 11_689_512 - 513_000);
        let (layout, count) = (parameter_layout(Stem::Cifar, 64), count(Stem::Cifar));
        assert_eq!(count, 11_689_512 - 9_408 - 513_000 + 1_728);
        let names: Vec<&str> = layout.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names[..4], ["conv1.weight", "bn1.weight", "bn1.bias", "layer1.0.conv1.weight"]);
        let downsample = layout.iter().find(|p| p.name == "layer2.0.downsample.0.weight").unwrap();
        assert_eq!(downsample.shape, [128, 64, 1, 1]);
        assert_eq!(names.len(), 60);
        assert_eq!(statistics_layout(64).len(), 40);
        let last = layout.last().unwrap();
        assert_eq!(last.offset + last.elements(), count);
    }

    #[test]
    fn convolutions_start_with_the_variance_of_the_fan_out() {
        let layout = parameter_layout(Stem::Cifar, 16);
        let values = initial_parameters(&layout, Seed(1));
        let parameter = layout.iter().find(|p| p.name == "layer4.0.conv1.weight").unwrap();
        let weights = &values[parameter.offset..][..parameter.elements()];
        let variance = weights.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>() / weights.len() as f64;
        assert!((variance * 128.0 * 9.0 / 2.0 - 1.0).abs() < 0.02, "{variance}");
        assert_eq!(values, initial_parameters(&layout, Seed(1)));
        assert_ne!(values, initial_parameters(&layout, Seed(2)));
    }
}
