//! Datasets as their authors publish them: one file a format, one line in [`open`] and in [`NAMES`].
//!
//! Every reader gives square RGB images of the encoder's side with their classes, training and test apart, and refuses what is
//! missing or damaged with the file's name, the layout expected and where the dataset is published. Fewer records than were
//! published (a subset, whole in itself) are taken and told in [`Dataset::notes`].

mod cifar;
pub mod domains;
mod folder;
mod idx;
mod manifest;
mod matlab;
mod simulated;
mod svhn;
#[cfg(test)]
mod tests;

use std::io::Read;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::ExperimentError;
use crate::config::{DecodeSettings, Fit, Seed};
use crate::decode::{Decoder, Image, to_square};

/// Names of the datasets, with the tasks and classes of the customary split (0: as many as there are).
pub const NAMES: [(&str, usize, usize); 10] = [
    ("cifar10", 5, 2),
    ("cifar10-domains", 1, 0),
    ("cifar100", 20, 5),
    ("tiny-imagenet", 20, 5),
    ("mnist", 5, 2),
    ("fashion-mnist", 5, 2),
    ("svhn", 5, 2),
    ("folder", 1, 0),
    ("manifest", 1, 0),
    ("simulated", 1, 0),
];

/// Images with their classes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Labelled {
    /// Packed RGB8, n times side x side x 3 bytes.
    pub pixels: Vec<u8>,
    pub classes: Vec<u32>,
    /// Of each image the domain (phase, lighting) it was taken in, where the dataset knows of domains.
    pub domains: Vec<u32>,
    /// Of each image the track it is a frame of, counted within its class and domain, where the dataset knows of tracks.
    pub tracks: Vec<u32>,
}

impl Labelled {
    /// Images.
    pub fn len(&self) -> usize {
        self.classes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    /// One image.
    ///
    /// # Panics
    /// If `index` is not below [`Labelled::len`].
    pub fn image(&self, index: usize) -> &[u8] {
        let bytes = self.pixels.len() / self.len();
        &self.pixels[index * bytes..][..bytes]
    }

    /// Images in that order, packed.
    pub fn pack(&self, indices: &[usize]) -> Vec<u8> {
        indices.iter().flat_map(|index| self.image(*index)).copied().collect()
    }

    fn push(&mut self, pixels: &[u8], class: u32) {
        self.pixels.extend_from_slice(pixels);
        self.classes.push(class);
    }
}

/// A dataset in memory.
#[derive(Debug, Clone)]
pub struct Dataset {
    pub name: String,
    /// Pixels of a side.
    pub side: usize,
    /// Name of each class.
    pub class_names: Vec<String>,
    pub train: Labelled,
    pub test: Labelled,
    /// What a reader of the results should know, such as that it is a part of what was published.
    pub notes: Vec<String>,
}

impl Dataset {
    /// BLAKE3 of the images as they are trained on, with their classes and domains.
    pub fn hash(&self) -> String {
        let mut hash = blake3::Hasher::new();
        for part in [&self.train, &self.test] {
            hash.update(&(part.len() as u64).to_le_bytes()).update(&part.pixels);
            part.classes.iter().chain(&part.domains).for_each(|number| _ = hash.update(&number.to_le_bytes()));
        }
        hash.finalize().to_hex().to_string()
    }
}

/// How a dataset is laid out and where it was published.
#[derive(Debug, Clone, Copy)]
pub struct Publication {
    pub name: &'static str,
    pub layout: &'static str,
    pub published: &'static str,
}

impl Publication {
    fn missing(&self, path: &Path) -> ExperimentError {
        let Self { name: dataset, layout, published } = *self;
        ExperimentError::Missing { dataset, path: path.into(), layout, published }
    }

    fn damaged(&self, path: &Path, what: impl Into<String>) -> ExperimentError {
        let Self { name: dataset, layout, published } = *self;
        ExperimentError::Damaged { dataset, path: path.into(), what: what.into(), layout, published }
    }

    /// A file, whole; of `NAME` and `NAME.gz` the one that there is, unpacked.
    fn read(&self, folder: &Path, name: &str) -> Result<(PathBuf, Vec<u8>), ExperimentError> {
        let plain = folder.join(name);
        let packed = folder.join(format!("{name}.gz"));
        let path = if !plain.is_file() && packed.is_file() { packed } else { plain };
        if !path.is_file() {
            return Err(self.missing(&path));
        }
        let bytes = std::fs::read(&path).map_err(ExperimentError::io("read", &path))?;
        if path.extension().is_none_or(|extension| extension != "gz") {
            return Ok((path, bytes));
        }
        let mut unpacked = Vec::new();
        let limit = MOST_UNPACKED;
        let result = flate2::read::GzDecoder::new(&*bytes).take(limit + 1).read_to_end(&mut unpacked);
        match result {
            Err(error) => Err(self.damaged(&path, format!("cannot be unpacked: {error}"))),
            Ok(_) if unpacked.len() as u64 > limit => Err(self.damaged(&path, "unpacks to more than a dataset has")),
            Ok(_) => Ok((path, unpacked)),
        }
    }
}

/// No published file of these datasets is larger.
const MOST_UNPACKED: u64 = 4 << 30;

/// Reads a dataset. `folder`: the folder of its files or the one above; `side`: pixels of a side of the encoder's input.
///
/// # Errors
/// Names the file that is missing or damaged, the layout expected and where the dataset is published.
pub fn open(name: &str, folder: &Path, side: usize, seed: Seed) -> Result<Dataset, ExperimentError> {
    match name {
        "cifar10" => cifar::ten(&within(folder, "cifar-10-batches-bin"), side),
        "cifar10-domains" => domains::read(&within(folder, "cifar-10-batches-bin"), side),
        "cifar100" => cifar::hundred(&within(folder, "cifar-100-binary"), side),
        "tiny-imagenet" => folder::tiny_imagenet(&within(folder, "tiny-imagenet-200"), side),
        "mnist" => idx::read(&idx::MNIST, "mnist", &within(folder, "mnist"), side),
        "fashion-mnist" => idx::read(&idx::FASHION, "fashion-mnist", &within(folder, "fashion-mnist"), side),
        "svhn" => svhn::read(&within(folder, "svhn"), side, seed),
        "folder" => folder::classes(folder, side, seed),
        "manifest" => manifest::read(&within(folder, "gtsrb-tracks"), side),
        "simulated" => simulated::make(side, seed),
        _ => {
            let known = NAMES.map(|(name, ..)| name).join(", ");
            Err(ExperimentError::UnknownDataset { name: name.into(), known })
        }
    }
}

/// The customary folder within `folder`, where it is there.
fn within(folder: &Path, customary: &str) -> PathBuf {
    let inner = folder.join(customary);
    if inner.is_dir() { inner } else { folder.to_owned() }
}

/// Brings square RGB images of `from` pixels to `side`.
fn resized(pixels: Vec<u8>, from: usize, side: usize) -> Vec<u8> {
    if from == side || pixels.is_empty() {
        return pixels;
    }
    let resize = |image: &[u8]| {
        let image = Image::new(from as u32, from as u32, image.to_vec());
        to_square(&image, side as u32, Fit::Stretch).into_pixels()
    };
    pixels.par_chunks_exact(from * from * 3).flat_map_iter(resize).collect()
}

/// Decodes image files in order, each brought to the encoder's side.
fn decode_all(paths: &[PathBuf], side: usize, of: &Publication) -> Result<Vec<u8>, ExperimentError> {
    let decoder = Decoder::new(&DecodeSettings::default());
    let decode = |path: &PathBuf| {
        let bytes = std::fs::read(path).map_err(ExperimentError::io("read", path))?;
        let image = decoder.decode(&bytes).map_err(|error| of.damaged(path, error.to_string()))?;
        Ok(to_square(&image, side as u32, Fit::Stretch).into_pixels())
    };
    let images: Result<Vec<Vec<u8>>, ExperimentError> = paths.par_iter().map(decode).collect();
    Ok(images?.concat())
}
