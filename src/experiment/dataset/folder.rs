//! Folders of class folders, and Tiny-ImageNet-200, which is almost that.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::{Dataset, Labelled, Publication, decode_all};
use crate::config::Seed;
use crate::experiment::ExperimentError;

/// Endings of image files.
const IMAGES: [&str; 7] = ["jpg", "jpeg", "png", "webp", "bmp", "ppm", "pgm"];

/// One image in so many is kept for tests where the folder does not say which.
const TEST_SHARE: u64 = 5;

const FOLDER: Publication = Publication {
    name: "a folder of class folders",
    layout: "DIR/train/CLASS/IMAGE and DIR/test/CLASS/IMAGE (or val), or DIR/CLASS/IMAGE, of which a fifth is kept for tests",
    published: "a place of your own",
};

const TINY: Publication = Publication {
    name: "Tiny-ImageNet-200",
    layout: "tiny-imagenet-200/ with wnids.txt, train/WNID/images/*.JPEG (500 each), val/images/*.JPEG and val/val_annotations.txt \
             (50 each); train/WNID/*.JPEG and val/WNID/*.JPEG are taken, too",
    published: "Y. Le and X. Yang, \"Tiny ImageNet Visual Recognition Challenge\", 2015, of J. Deng et al., \"ImageNet: A \
                Large-Scale Hierarchical Image Database\", 2009",
};

/// Image files by class, both in alphabetical order.
type Classes = BTreeMap<String, Vec<PathBuf>>;

pub(super) fn classes(folder: &Path, side: usize, seed: Seed) -> Result<Dataset, ExperimentError> {
    if !folder.is_dir() {
        return Err(FOLDER.missing(folder));
    }
    let (mut notes, part) = (Vec::new(), |name: &str| folder.join(name));
    let (train, test) = if part("train").is_dir() {
        let test = if part("test").is_dir() { part("test") } else { part("val") };
        (list(&FOLDER, &part("train"))?, list(&FOLDER, &test)?)
    } else {
        notes.push(format!("one image in {TEST_SHARE} of each class is kept for tests"));
        hold_out(list(&FOLDER, folder)?, seed)
    };
    let names: Vec<String> = train.keys().cloned().collect();
    if names.is_empty() {
        return Err(FOLDER.damaged(folder, "holds no folder with images"));
    }
    let (train, test) = (read(&FOLDER, &names, &train, side)?, read(&FOLDER, &names, &test, side)?);
    Ok(Dataset { name: "folder".into(), side, class_names: names, train, test, notes })
}

pub(super) fn tiny_imagenet(folder: &Path, side: usize) -> Result<Dataset, ExperimentError> {
    let train = list(&TINY, &folder.join("train"))?;
    let test = match folder.join("val/val_annotations.txt") {
        annotations if annotations.is_file() => annotated(&annotations)?,
        _ => list(&TINY, &folder.join("val"))?,
    };
    let order = std::fs::read_to_string(folder.join("wnids.txt")).unwrap_or_default();
    let mut names: Vec<String> =
        order.lines().map(str::trim).filter(|name| train.contains_key(*name)).map(str::to_owned).collect();
    if names.is_empty() {
        names = train.keys().cloned().collect();
    }
    let mut notes = Vec::new();
    if names.len() < 200 {
        notes.push(format!("{} of the 200 classes published are here", names.len()));
    }
    let images: usize = train.values().map(Vec::len).sum();
    if images < 500 * names.len() {
        notes.push(format!("{images} training images of {} classes, where 500 a class were published", names.len()));
    }
    let (train, test) = (read(&TINY, &names, &train, side)?, read(&TINY, &names, &test, side)?);
    Ok(Dataset { name: "tiny-imagenet".into(), side, class_names: names, train, test, notes })
}

/// The image files of each folder within `folder`, those of an inner `images` folder included.
fn list(of: &Publication, folder: &Path) -> Result<Classes, ExperimentError> {
    if !folder.is_dir() {
        return Err(of.missing(folder));
    }
    let mut found = Classes::new();
    for class in entries(folder)?.into_iter().filter(|path| path.is_dir()) {
        let mut files = entries(&class)?;
        let inner = class.join("images");
        if inner.is_dir() {
            files.extend(entries(&inner)?);
        }
        files.retain(|path| is_image(path));
        files.sort();
        if let (false, Some(name)) = (files.is_empty(), class.file_name()) {
            found.insert(name.to_string_lossy().into_owned(), files);
        }
    }
    Ok(found)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, ExperimentError> {
    let listed: std::io::Result<Vec<PathBuf>> =
        std::fs::read_dir(folder).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let mut listed = listed.map_err(ExperimentError::io("list", folder))?;
    listed.sort();
    Ok(listed)
}

fn is_image(path: &Path) -> bool {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    path.is_file() && ending.is_some_and(|ending| IMAGES.contains(&&*ending))
}

/// The validation images of Tiny-ImageNet by the class that its table gives them.
fn annotated(annotations: &Path) -> Result<Classes, ExperimentError> {
    let text = std::fs::read_to_string(annotations).map_err(ExperimentError::io("read", annotations))?;
    let images = annotations.with_file_name("images");
    let mut found = Classes::new();
    for (number, line) in text.lines().enumerate() {
        let mut fields = line.split('\t');
        let (Some(file), Some(class)) = (fields.next(), fields.next()) else {
            return Err(TINY.damaged(annotations, format!("line {} has no file and class", number + 1)));
        };
        let path = images.join(file);
        if !path.is_file() {
            return Err(TINY.missing(&path));
        }
        found.entry(class.to_owned()).or_default().push(path);
    }
    Ok(found)
}

/// Splits by a draw for each file that depends on its name only.
fn hold_out(all: Classes, seed: Seed) -> (Classes, Classes) {
    let (mut train, mut test) = (Classes::new(), Classes::new());
    for (class, files) in all {
        let is_test = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            seed.random(&format!("hold out {class} {name}"), 0).below(TEST_SHARE) == 0
        };
        let (held, kept): (Vec<PathBuf>, Vec<PathBuf>) = files.into_iter().partition(is_test);
        train.insert(class.clone(), kept);
        test.insert(class, held);
    }
    (train, test)
}

fn read(of: &Publication, names: &[String], classes: &Classes, side: usize) -> Result<Labelled, ExperimentError> {
    let numbers: HashMap<&String, u32> = names.iter().zip(0..).collect();
    let (mut paths, mut numbered) = (Vec::new(), Vec::new());
    for (class, files) in classes {
        let Some(number) = numbers.get(class) else { continue };
        paths.extend(files.iter().cloned());
        numbered.extend(files.iter().map(|_| *number));
    }
    Ok(Labelled { pixels: decode_all(&paths, side, of)?, classes: numbered, ..Labelled::default() })
}
