//! SVHN, cropped digits: train_32x32.mat and test_32x32.mat, X (32, 32, 3, n) and y (n, 1) with the digit 0 as 10; or a folder of
//! class folders.

use std::path::Path;

use super::matlab::{self, Array, Values};
use super::{Dataset, Labelled, Publication, folder, resized};
use crate::config::Seed;
use crate::experiment::ExperimentError;

const SIDE: usize = 32;

const SVHN: Publication = Publication {
    name: "SVHN",
    layout: "format 2, cropped digits: train_32x32.mat (73,257) and test_32x32.mat (26,032), or train/ and test/ with a folder \
             for each digit",
    published: "Y. Netzer et al., \"Reading Digits in Natural Images with Unsupervised Feature Learning\", 2011",
};

pub(super) fn read(folder: &Path, side: usize, seed: Seed) -> Result<Dataset, ExperimentError> {
    if folder.join("train").is_dir() {
        return Ok(Dataset { name: "svhn".into(), ..folder::classes(folder, side, seed)? });
    }
    let mut notes = Vec::new();
    let mut part = |name: &str, published: usize| {
        let labelled = part(folder, name, side)?;
        if labelled.len() < published {
            notes.push(format!("{name} holds {} of the {published} images published", labelled.len()));
        }
        Ok::<_, ExperimentError>(labelled)
    };
    let (train, test) = (part("train_32x32.mat", 73_257)?, part("test_32x32.mat", 26_032)?);
    let class_names = (0..10).map(|class: u32| class.to_string()).collect();
    Ok(Dataset { name: "svhn".into(), side, class_names, train, test, notes })
}

fn part(folder: &Path, name: &str, side: usize) -> Result<Labelled, ExperimentError> {
    let (path, bytes) = SVHN.read(folder, name)?;
    let arrays = matlab::arrays(&bytes).map_err(|what| SVHN.damaged(&path, what))?;
    let find = |wanted: &str| {
        let found = arrays.iter().find(|array| array.name == wanted);
        found.ok_or_else(|| SVHN.damaged(&path, format!("has no array {wanted:?}")))
    };
    let (images, labels) = (find("X")?, find("y")?);
    let (Array { values: Values::Bytes(pixels), dimensions, .. }, [SIDE, SIDE, 3, count]) =
        (images, &*images.dimensions)
    else {
        let what = format!("X is of {:?} and not bytes of (32, 32, 3, n)", images.dimensions);
        return Err(SVHN.damaged(&path, what));
    };
    debug_assert_eq!(dimensions.len(), 4);
    let classes: Vec<u32> = match &labels.values {
        Values::Bytes(values) => values.iter().map(|value| u32::from(*value) % 10).collect(),
        Values::Numbers(values) => values.iter().map(|value| *value as u32 % 10).collect(),
    };
    if classes.len() != *count {
        return Err(SVHN.damaged(&path, format!("has {} labels for {count} images", classes.len())));
    }
    let pixels = pixels.chunks_exact(SIDE * SIDE * 3).flat_map(rows_first).collect();
    Ok(Labelled { pixels: resized(pixels, SIDE, side), classes, ..Labelled::default() })
}

/// Rows of interleaved pixels of one column-major image (rows, columns, channels).
fn rows_first(image: &[u8]) -> Vec<u8> {
    let at = |row: usize, column: usize, channel: usize| image[(channel * SIDE + column) * SIDE + row];
    (0..SIDE * SIDE).flat_map(|pixel| [0, 1, 2].map(|channel| at(pixel / SIDE, pixel % SIDE, channel))).collect()
}
