//! MNIST and Fashion-MNIST: idx files, packed by gzip or not. Big-endian: the magic number 0x0803 (images: count, rows, columns)
//! or 0x0801 (labels: count), then a byte a value.
//!
//! As in the protocol, 28x28 is padded by 2 to 32x32 with black and repeated to three channels.

use std::path::{Path, PathBuf};

use super::{Dataset, Labelled, Publication, resized};
use crate::experiment::ExperimentError;

const ROWS: usize = 28;
const PADDING: usize = 2;
const PADDED: usize = ROWS + 2 * PADDING;
const CLASSES: u32 = 10;

pub(super) const MNIST: Publication = Publication {
    name: "MNIST",
    layout: "train-images-idx3-ubyte (60,000), train-labels-idx1-ubyte, t10k-images-idx3-ubyte (10,000) and \
             t10k-labels-idx1-ubyte, each as it is or with .gz",
    published: "Y. LeCun, C. Cortes and C. Burges, \"The MNIST Database of Handwritten Digits\", 1998",
};

pub(super) const FASHION: Publication = Publication {
    name: "Fashion-MNIST",
    layout: "train-images-idx3-ubyte (60,000), train-labels-idx1-ubyte, t10k-images-idx3-ubyte (10,000) and \
             t10k-labels-idx1-ubyte, each as it is or with .gz",
    published: "H. Xiao, K. Rasul and R. Vollgraf, \"Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning \
                Algorithms\", 2017",
};

pub(super) fn read(of: &Publication, name: &str, folder: &Path, side: usize) -> Result<Dataset, ExperimentError> {
    let mut notes = Vec::new();
    let train = part(of, folder, "train", 60_000, side, &mut notes)?;
    let test = part(of, folder, "t10k", 10_000, side, &mut notes)?;
    let class_names = (0..CLASSES).map(|class| class.to_string()).collect();
    Ok(Dataset { name: name.into(), side, class_names, train, test, notes })
}

fn part(
    of: &Publication,
    folder: &Path,
    prefix: &str,
    published: usize,
    side: usize,
    notes: &mut Vec<String>,
) -> Result<Labelled, ExperimentError> {
    let (path, images) = values(of, folder, &format!("{prefix}-images-idx3-ubyte"), &[ROWS, ROWS])?;
    let (label_path, labels) = values(of, folder, &format!("{prefix}-labels-idx1-ubyte"), &[])?;
    let count = images.len() / (ROWS * ROWS);
    if count != labels.len() {
        return Err(of.damaged(&label_path, format!("has {} labels for {count} images", labels.len())));
    }
    if count > published {
        return Err(of.damaged(&path, format!("has {count} images where {published} were published")));
    }
    if count < published {
        notes.push(format!("{prefix} holds {count} of the {published} images published"));
    }
    if let Some(class) = labels.iter().find(|class| u32::from(**class) >= CLASSES) {
        return Err(of.damaged(&label_path, format!("has a label {class}, beyond {}", CLASSES - 1)));
    }
    let pixels = images.chunks_exact(ROWS * ROWS).flat_map(padded).collect();
    let classes = labels.into_iter().map(u32::from).collect();
    Ok(Labelled { pixels: resized(pixels, PADDED, side), classes, ..Labelled::default() })
}

/// 32x32 RGB of 28x28 grey.
fn padded(image: &[u8]) -> Vec<u8> {
    let mut out = vec![0; PADDED * PADDED * 3];
    for (row, values) in image.chunks_exact(ROWS).enumerate() {
        for (column, value) in values.iter().enumerate() {
            let at = ((row + PADDING) * PADDED + column + PADDING) * 3;
            out[at..at + 3].fill(*value);
        }
    }
    out
}

/// The values of a file whose items have these dimensions.
fn values(
    of: &Publication,
    folder: &Path,
    name: &str,
    dimensions: &[usize],
) -> Result<(PathBuf, Vec<u8>), ExperimentError> {
    let (path, bytes) = of.read(folder, name)?;
    let number = |at: usize| bytes.get(4 * at..4 * at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    let magic = 0x0800 + 1 + dimensions.len() as u32;
    if number(0) != Some(magic) {
        return Err(of.damaged(&path, format!("does not begin with the number {magic:#06x} of its kind of idx file")));
    }
    for (index, expected) in dimensions.iter().enumerate() {
        if number(index + 2) != Some(*expected as u32) {
            return Err(of.damaged(&path, format!("is not of {expected} pixels a side")));
        }
    }
    let count = number(1).unwrap_or(0) as usize;
    let header = 4 * (2 + dimensions.len());
    let expected = count.saturating_mul(dimensions.iter().product()).saturating_add(header);
    if bytes.len() != expected || count == 0 {
        let what = format!("says {count} records, which is {expected} bytes, and has {}", bytes.len());
        return Err(of.damaged(&path, what));
    }
    Ok((path, bytes[header..].to_vec()))
}
