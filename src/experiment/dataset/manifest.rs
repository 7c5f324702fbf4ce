//! Images listed in a manifest.tsv beside them: the columns `file` and `class`, and, where they are there, `phase` (the domain),
//! `track` (images that belong together), `split` (train or test). As GTSRB tracks are laid out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{Dataset, Labelled, Publication, decode_all};
use crate::experiment::ExperimentError;

/// Every so many tracks of a class one is kept for tests, where the manifest does not say which.
const TEST_SHARE: usize = 4;

const MANIFEST: Publication = Publication {
    name: "a manifest of images",
    layout: "DIR/manifest.tsv with a heading line; columns file and class, and where known phase, track and split",
    published: "a place of your own; GTSRB: J. Stallkamp et al., \"Man vs. computer: Benchmarking machine learning algorithms for \
                traffic sign recognition\", 2012",
};

struct Row {
    file: String,
    class: String,
    phase: String,
    track: String,
    split: Option<String>,
}

pub(super) fn read(folder: &Path, side: usize) -> Result<Dataset, ExperimentError> {
    let path = folder.join("manifest.tsv");
    if !path.is_file() {
        return Err(MANIFEST.missing(&path));
    }
    let text = std::fs::read_to_string(&path).map_err(ExperimentError::io("read", &path))?;
    let rows = rows(&path, &text)?;
    let class_names = in_order(rows.iter().map(|row| &row.class));
    let mut phases: Vec<String> = Vec::new();
    for row in &rows {
        if !phases.contains(&row.phase) {
            phases.push(row.phase.clone());
        }
    }
    let tracks = tracks(&rows);
    let mut notes = Vec::new();
    if rows.iter().all(|row| row.split.is_none()) {
        notes.push(format!("one track in {TEST_SHARE} of each class is kept for tests, none is in both parts"));
    }
    let (mut parts, mut paths) = ([Labelled::default(), Labelled::default()], [Vec::new(), Vec::new()]);
    for (row, track) in rows.iter().zip(tracks) {
        let part = usize::from(is_held(row, track));
        let number = |names: &[String], name: &String| names.iter().position(|known| known == name).unwrap_or(0) as u32;
        parts[part].classes.push(number(&class_names, &row.class));
        parts[part].domains.push(number(&phases, &row.phase));
        parts[part].tracks.push(track);
        paths[part].push(folder.join(&row.file));
    }
    let [mut train, mut test] = parts;
    train.pixels = decode_all(&paths[0], side, &MANIFEST)?;
    test.pixels = decode_all(&paths[1], side, &MANIFEST)?;
    Ok(Dataset { name: "manifest".into(), side, class_names, train, test, notes })
}

fn rows(path: &Path, text: &str) -> Result<Vec<Row>, ExperimentError> {
    let mut lines = text.lines();
    let heading: Vec<&str> = lines.next().unwrap_or_default().split('\t').map(str::trim).collect();
    let column = |name: &str| heading.iter().position(|heading| *heading == name);
    let (Some(file), Some(class)) = (column("file"), column("class")) else {
        return Err(MANIFEST.damaged(path, "has no columns file and class"));
    };
    let (phase, track, split) = (column("phase"), column("track"), column("split"));
    let mut rows = Vec::new();
    for (number, line) in lines.enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let fields: Vec<&str> = line.split('\t').collect();
        if fields.len() != heading.len() {
            let what = format!("line {} has {} fields and not {}", number + 2, fields.len(), heading.len());
            return Err(MANIFEST.damaged(path, what));
        }
        let field = |column: Option<usize>| column.map_or(String::new(), |column| fields[column].to_owned());
        rows.push(Row {
            file: fields[file].to_owned(),
            class: fields[class].to_owned(),
            phase: field(phase),
            track: if track.is_some() { field(track) } else { number.to_string() },
            split: split.map(|column| fields[column].to_owned()),
        });
    }
    match rows.is_empty() {
        true => Err(MANIFEST.damaged(path, "lists no image")),
        false => Ok(rows),
    }
}

/// The track of each row, counted within its class and phase.
fn tracks(rows: &[Row]) -> Vec<u32> {
    let mut known: BTreeMap<(&str, &str), BTreeMap<&str, u32>> = BTreeMap::new();
    rows.iter()
        .map(|row| {
            let of_class = known.entry((&*row.phase, &*row.class)).or_default();
            let next = of_class.len() as u32;
            *of_class.entry(&row.track).or_insert(next)
        })
        .collect()
}

/// Whether a row is for tests.
fn is_held(row: &Row, track: u32) -> bool {
    match &row.split {
        Some(split) => split != "train",
        None => track as usize % TEST_SHARE == TEST_SHARE - 1,
    }
}

/// Names without repetition: numbers by their value, others by the alphabet.
fn in_order<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut names: Vec<String> = names.cloned().collect::<BTreeSet<_>>().into_iter().collect();
    if names.iter().all(|name| name.parse::<u64>().is_ok()) {
        names.sort_by_key(|name| name.parse::<u64>().unwrap_or(0));
    }
    names
}
