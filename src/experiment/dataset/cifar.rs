//! CIFAR-10 and CIFAR-100, the binary version: records of one or two label bytes, then the red, green and blue planes of 32x32.

use std::path::Path;

use super::{Dataset, Labelled, Publication, resized};
use crate::experiment::ExperimentError;

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;

const TEN: Publication = Publication {
    name: "CIFAR-10",
    layout: "the binary version: cifar-10-batches-bin/ with data_batch_1.bin to data_batch_5.bin and test_batch.bin, \
             10,000 records of 3,073 bytes each, and batches.meta.txt",
    published: "A. Krizhevsky, \"Learning Multiple Layers of Features from Tiny Images\", 2009",
};

const HUNDRED: Publication = Publication {
    name: "CIFAR-100",
    layout: "the binary version: cifar-100-binary/ with train.bin (50,000 records of 3,074 bytes) and test.bin (10,000), \
             and fine_label_names.txt",
    published: "A. Krizhevsky, \"Learning Multiple Layers of Features from Tiny Images\", 2009",
};

pub(super) fn ten(folder: &Path, side: usize) -> Result<Dataset, ExperimentError> {
    let mut notes = Vec::new();
    let mut train = Labelled::default();
    for number in 1..=5 {
        append(&TEN, folder, &format!("data_batch_{number}.bin"), (1, 10, 10_000), &mut train, &mut notes)?;
    }
    let mut test = Labelled::default();
    append(&TEN, folder, "test_batch.bin", (1, 10, 10_000), &mut test, &mut notes)?;
    finish("cifar10", folder, "batches.meta.txt", (train, test), 10, side, notes)
}

pub(super) fn hundred(folder: &Path, side: usize) -> Result<Dataset, ExperimentError> {
    let (mut train, mut test, mut notes) = (Labelled::default(), Labelled::default(), Vec::new());
    append(&HUNDRED, folder, "train.bin", (2, 100, 50_000), &mut train, &mut notes)?;
    append(&HUNDRED, folder, "test.bin", (2, 100, 10_000), &mut test, &mut notes)?;
    finish("cifar100", folder, "fine_label_names.txt", (train, test), 100, side, notes)
}

/// Adds the records of a file. `shape`: label bytes (the last is the class), classes, records as published.
fn append(
    of: &Publication,
    folder: &Path,
    name: &str,
    (label_bytes, classes, published): (usize, u32, usize),
    to: &mut Labelled,
    notes: &mut Vec<String>,
) -> Result<(), ExperimentError> {
    let (path, bytes) = of.read(folder, name)?;
    let record = label_bytes + 3 * PLANE;
    if bytes.is_empty() || !bytes.len().is_multiple_of(record) {
        let what = format!("has {} bytes, which is no whole number of records of {record}", bytes.len());
        return Err(of.damaged(&path, what));
    }
    let records = bytes.len() / record;
    if records > published {
        return Err(of.damaged(&path, format!("has {records} records where {published} were published")));
    }
    if records < published {
        notes.push(format!("{name} holds {records} of the {published} records published"));
    }
    for (number, record) in bytes.chunks_exact(record).enumerate() {
        let class = u32::from(record[label_bytes - 1]);
        if class >= classes {
            return Err(of.damaged(&path, format!("record {number} is of class {class}, beyond {}", classes - 1)));
        }
        let (red, rest) = record[label_bytes..].split_at(PLANE);
        let (green, blue) = rest.split_at(PLANE);
        to.pixels.extend(red.iter().zip(green).zip(blue).flat_map(|((r, g), b)| [*r, *g, *b]));
        to.classes.push(class);
    }
    Ok(())
}

fn finish(
    name: &str,
    folder: &Path,
    names: &str,
    (mut train, mut test): (Labelled, Labelled),
    classes: usize,
    side: usize,
    notes: Vec<String>,
) -> Result<Dataset, ExperimentError> {
    for part in [&mut train, &mut test] {
        part.pixels = resized(std::mem::take(&mut part.pixels), SIDE, side);
    }
    // The names are for people only: without them classes have numbers.
    let text = std::fs::read_to_string(folder.join(names)).unwrap_or_default();
    let mut class_names: Vec<String> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if class_names.len() != classes {
        class_names = (0..classes).map(|class| class.to_string()).collect();
    }
    Ok(Dataset { name: name.into(), side, class_names, train, test, notes })
}
