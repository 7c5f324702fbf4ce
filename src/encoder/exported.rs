//! The weights of one version, off the device: what is exported for other programs.

use std::collections::HashMap;

use candle_core::{DType, Result};
use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, TensorView, serialize};

use super::{Backbone, Parameter};

/// A copy of a backbone's parameters and running statistics, f32.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    parameters: (Vec<Parameter>, Vec<f32>),
    statistics: (Vec<Parameter>, Vec<f32>),
}

impl Weights {
    /// Of the backbone as it is now; copies them off the device.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn of(backbone: &dyn Backbone) -> Result<Self> {
        let copy = |vector: &candle_core::Tensor| vector.to_dtype(DType::F32)?.to_vec1::<f32>();
        Ok(Self {
            parameters: (backbone.layout().to_vec(), copy(backbone.parameters())?),
            statistics: (backbone.statistics_layout().to_vec(), copy(backbone.statistics())?),
        })
    }

    /// A safetensors file under torchvision's names, convolutions (out, in, height, width): a `state_dict` that
    /// `load_state_dict(..., strict=False)` of a ResNet of the same width and stem takes; the classifier `fc` is not in it,
    /// `num_batches_tracked` neither.
    ///
    /// # Errors
    /// [`SafeTensorError`], were a shape not to fit its values.
    pub fn to_safetensors(&self, metadata: HashMap<String, String>) -> std::result::Result<Vec<u8>, SafeTensorError> {
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let flat = [(&self.parameters.0, bytes(&self.parameters.1)), (&self.statistics.0, bytes(&self.statistics.1))];
        let mut views = Vec::new();
        for (layout, bytes) in &flat {
            for parameter in layout.iter() {
                let (start, length) = (4 * parameter.offset, 4 * parameter.elements());
                let data = bytes.get(start..start + length).unwrap_or_default();
                views.push((parameter.name.clone(), TensorView::new(Dtype::F32, parameter.shape.clone(), data)?));
            }
        }
        serialize(views, Some(metadata))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use safetensors::SafeTensors;

    use super::*;
    use crate::config::{Precision, Seed};
    use crate::encoder::{Preset, build};

    #[test]
    fn every_parameter_and_statistic_is_in_the_file_under_its_name() {
        let backbone = build(&Preset::load("resnet18-w16").unwrap(), &Device::Cpu, Precision::F32, Seed(1)).unwrap();
        let file = Weights::of(&*backbone).unwrap().to_safetensors(HashMap::new()).unwrap();
        let tensors = SafeTensors::deserialize(&file).unwrap();
        assert_eq!(tensors.len(), backbone.layout().len() + backbone.statistics_layout().len());
        let conv = tensors.tensor("layer2.0.conv1.weight").unwrap();
        assert_eq!(conv.shape(), [32, 16, 3, 3]);
        let parameter = backbone.layout().iter().find(|p| p.name == "layer2.0.conv1.weight").unwrap();
        let first = backbone.parameters().to_vec1::<f32>().unwrap()[parameter.offset];
        assert_eq!(conv.data()[..4], first.to_le_bytes());
        assert_eq!(tensors.tensor("bn1.running_var").unwrap().data()[..4], 1.0f32.to_le_bytes());
    }
}
