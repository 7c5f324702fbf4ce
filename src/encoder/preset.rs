//! Presets: one TOML card under `models/` says what a network looks like and how pixels are normalised.

use std::path::Path;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::EncoderError;
use crate::device::kernels::Window;

/// The cards that are part of the program: add one by adding a line.
const BUILT_IN: &[(&str, &str)] = &[
    ("resnet18", include_str!("../../models/resnet18.toml")),
    ("resnet18-64px", include_str!("../../models/resnet18-64px.toml")),
    ("resnet18-imagenet-96px", include_str!("../../models/resnet18-imagenet-96px.toml")),
    ("resnet18-imagenet-128px", include_str!("../../models/resnet18-imagenet-128px.toml")),
    ("resnet18-imagenet-224px", include_str!("../../models/resnet18-imagenet-224px.toml")),
    ("resnet18-w16", include_str!("../../models/resnet18-w16.toml")),
    ("resnet18-w32", include_str!("../../models/resnet18-w32.toml")),
];

/// Families of network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// He et al. 2016: BasicBlocks [2, 2, 2, 2].
    ResNet18,
}

/// What precedes the blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stem {
    /// A 3x3 convolution of stride 1, no pooling: for images of 32 and 64 pixels.
    Cifar,
    /// A 7x7 convolution of stride 2, then a 3x3 max-pool of stride 2: He et al.'s own, torchvision's and timm's.
    Imagenet,
}

impl Stem {
    /// Size and stride of the convolution's kernel; its padding is half the size.
    pub fn kernel(self) -> (usize, usize) {
        match self {
            Self::Cifar => (3, 1),
            Self::Imagenet => (7, 2),
        }
    }

    /// The max-pool behind it.
    pub fn pool(self) -> Option<Window> {
        match self {
            Self::Cifar => None,
            Self::Imagenet => Some(Window { size: 3, stride: 2, padding: 1 }),
        }
    }
}

/// A card.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preset {
    pub name: String,
    pub description: String,
    pub architecture: Architecture,
    /// Channels of the stem and the first stage; they double with each of the three further stages.
    pub width: usize,
    /// Pixels of the square input.
    pub side: usize,
    pub stem: Stem,
    /// Of each channel, of pixels scaled to 0..1.
    pub mean: [f32; 3],
    /// Of each channel, of pixels scaled to 0..1.
    pub std: [f32; 3],
}

impl Preset {
    /// A built-in preset by its name, or a card by its path (anything that ends in `.toml`).
    ///
    /// # Errors
    /// Names the known presets where there is no such one, and the key of a value that cannot be.
    pub fn load(name: &str) -> Result<Self, EncoderError> {
        if let Some((_, card)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
            return Self::parse(name, card);
        }
        let path = Path::new(name);
        if path.extension().is_none_or(|extension| extension != "toml") {
            return Err(EncoderError::UnknownPreset { name: name.into(), known: Self::names().join(", ") });
        }
        let card =
            std::fs::read_to_string(path).map_err(|source| EncoderError::ReadPreset { path: path.into(), source })?;
        Self::parse(name, &card)
    }

    /// The names of the built-in presets.
    pub fn names() -> Vec<&'static str> {
        BUILT_IN.iter().map(|(name, _)| *name).collect()
    }

    fn parse(name: &str, card: &str) -> Result<Self, EncoderError> {
        let preset: Self = toml::from_str(card)
            .map_err(|error| EncoderError::ParsePreset { name: name.into(), message: error.to_string() })?;
        preset.check(name)?;
        Ok(preset)
    }

    fn check(&self, card: &str) -> Result<(), EncoderError> {
        let refuse =
            |key, value: String, allowed| Err(EncoderError::PresetValue { name: card.into(), key, value, allowed });
        if !(1..=512).contains(&self.width) {
            return refuse("width", self.width.to_string(), "1 to 512");
        }
        if !(8..=512).contains(&self.side) {
            return refuse("side", self.side.to_string(), "8 to 512 pixels");
        }
        if !self.mean.iter().all(|mean| (0.0..=1.0).contains(mean)) {
            return refuse("mean", format!("{:?}", self.mean), "within 0 to 1");
        }
        if !self.std.iter().all(|std| *std > 0.0 && *std <= 1.0) {
            return refuse("std", format!("{:?}", self.std), "above 0 and at most 1");
        }
        Ok(())
    }

    /// Width of an embedding.
    pub fn features(&self) -> usize {
        8 * self.width
    }

    /// Bytes of one input image: RGB8, rows of pixels.
    pub fn image_bytes(&self) -> usize {
        self.side * self.side * 3
    }

    /// Packed RGB8 images (n times side x side x 3 bytes) as a normalised f32 tensor (n, side, side, 3) on the device.
    ///
    /// # Errors
    /// Where the bytes are no whole number of images, or the device fails.
    pub fn normalise(&self, images: &[u8], device: &Device) -> Result<Tensor, EncoderError> {
        if !images.len().is_multiple_of(self.image_bytes()) {
            return Err(EncoderError::ImageBytes { bytes: images.len(), side: self.side });
        }
        let table: [[f32; 256]; 3] = std::array::from_fn(|channel| {
            std::array::from_fn(|value| (value as f32 / 255.0 - self.mean[channel]) / self.std[channel])
        });
        let (pixels, _) = images.as_chunks::<3>();
        let values: Vec<f32> = pixels
            .iter()
            .flat_map(|pixel| [0, 1, 2].map(|channel| table[channel][usize::from(pixel[channel])]))
            .collect();
        let count = images.len() / self.image_bytes();
        Ok(Tensor::from_vec(values, (count, self.side, self.side, 3), device)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_card_is_sound_and_bears_its_name() {
        for name in Preset::names() {
            assert_eq!(Preset::load(name).unwrap().name, name);
        }
        assert_eq!(Preset::load("resnet18").unwrap().features(), 512);
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let error = Preset::load("resnet19").unwrap_err();
        assert_eq!(error.code(), "unknown-preset");
        assert!(error.to_string().contains("resnet18-w16"), "{error}");
        assert_eq!(Preset::load("absent.toml").unwrap_err().code(), "unreadable-preset");
    }

    #[test]
    fn a_card_of_ones_own_is_read_and_its_values_are_checked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        let card = include_str!("../../models/resnet18-w16.toml").replace("width = 16", "width = 24");
        std::fs::write(&path, &card).unwrap();
        assert_eq!(Preset::load(path.to_str().unwrap()).unwrap().features(), 192);
        std::fs::write(&path, card.replace("width = 24", "width = 0")).unwrap();
        let error = Preset::load(path.to_str().unwrap()).unwrap_err();
        assert!(error.code() == "bad-preset" && error.to_string().contains("width"), "{error}");
        std::fs::write(&path, card.replace("stem", "stern")).unwrap();
        assert!(Preset::load(path.to_str().unwrap()).unwrap_err().to_string().contains("stern"));
    }

    #[test]
    fn pixels_are_scaled_then_standardised_by_channel() {
        let preset = Preset::load("resnet18-w16").unwrap();
        let image: Vec<u8> = (0..preset.image_bytes()).map(|i| [0, 51, 255][i % 3]).collect();
        let pixels = preset.normalise(&image, &Device::Cpu).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (channel, scaled) in [0.0, 0.2, 1.0].into_iter().enumerate() {
            let expected = (scaled - preset.mean[channel]) / preset.std[channel];
            assert!((pixels[300 + channel] - expected).abs() < 1e-6);
        }
        assert_eq!(preset.normalise(&image[1..], &Device::Cpu).unwrap_err().code(), "bad-image-bytes");
    }
}
