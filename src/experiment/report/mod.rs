//! Results told: tables in Markdown, JSON and CSV, with the published numbers beside ours, and pictures.

mod evidence;
mod figures;
mod tables;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::published::{Published, out_of_distribution, reduced, table};
use super::sweep::label_of;
use super::{ExperimentError, RunResult};
use crate::evaluate::{AccuracySummary, KnnMode};

pub use evidence::{Against, Evidence, Ordering, StreamEvidence};
pub use tables::{csv, markdown};

/// Mean and standard deviation (n - 1) over the seeds for which it is defined.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    pub mean: f64,
    /// None for a single seed.
    pub std: Option<f64>,
    pub seeds: usize,
}

impl Spread {
    /// None without a value.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        let seeds = values.len();
        let mean = values.iter().sum::<f64>() / seeds as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        (seeds > 0).then(|| Self { mean, std: (seeds > 1).then(|| (squares / (seeds - 1) as f64).sqrt()), seeds })
    }
}

/// The averages of one mode, in percent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measures {
    pub accuracy: Option<Spread>,
    /// Against the value when learned in mode `paper`, against the best in mode `strict`.
    pub forgetting: Option<Spread>,
    pub backward_transfer: Option<Spread>,
    pub forward_transfer: Option<Spread>,
}

/// One row: runs that differ in their seed only.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    pub label: String,
    pub dataset: String,
    pub objective: String,
    pub strategy: String,
    pub seeds: usize,
    pub paper: Measures,
    pub strict: Measures,
    pub linear_probe: Option<Spread>,
    pub published: Option<Published>,
    /// Ours less the published, in points.
    pub difference: Option<f64>,
    pub forgetting_difference: Option<f64>,
    /// How the protocol differs from the published one.
    pub reduced: Option<String>,
    pub ood: Vec<OodLine>,
    /// Images presented, accuracy: mean over the seeds, in percent.
    pub curve: Vec<(u64, f64)>,
    pub limit_per_task: Option<usize>,
}

/// One dataset out of distribution, in percent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OodLine {
    pub dataset: String,
    pub frozen: Option<Spread>,
    pub fine_tuned: Option<Spread>,
    pub published: Option<f64>,
}

/// All of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub lines: Vec<Line>,
    /// Whether the measures without labels mean something; empty where no run took them.
    pub evidence: Vec<Against>,
    #[serde(skip)]
    groups: Vec<Vec<RunResult>>,
}

impl Report {
    /// Of every result within the folders.
    ///
    /// # Errors
    /// Where there is none, or one cannot be understood.
    pub fn gather(folders: &[PathBuf]) -> Result<Self, ExperimentError> {
        let mut results = Vec::new();
        for folder in folders {
            let before = results.len();
            search(folder, &mut results)?;
            if results.len() == before {
                return Err(ExperimentError::NoResult { path: folder.clone() });
            }
        }
        Ok(Self::of(results))
    }

    /// Of these results.
    pub fn of(results: Vec<RunResult>) -> Self {
        // Runs are of one row where all but the seed is the same.
        let mut groups: BTreeMap<(String, String), Vec<RunResult>> = BTreeMap::new();
        for result in results {
            let settings = super::RunSettings { seed: 0, ..result.settings.clone() };
            let key = (label_of(&settings), serde_json::to_string(&settings).unwrap_or_default());
            groups.entry(key).or_default().push(result);
        }
        let mut groups: Vec<Vec<RunResult>> = groups.into_values().collect();
        groups.iter_mut().for_each(|group| group.sort_by_key(|result| result.settings.seed));
        let cases: Vec<_> = groups.iter().flatten().map(|result| (result, evidence::cases(result))).collect();
        let evidence = evidence::against_each(&cases);
        Self { lines: groups.iter().map(|group| line(group)).collect(), evidence, groups }
    }

    /// Writes report.md, report.json, report.csv and the pictures into a folder; gives the names of the files.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn write(&self, folder: &Path) -> Result<Vec<String>, ExperimentError> {
        std::fs::create_dir_all(folder).map_err(ExperimentError::io("make", folder))?;
        let pictures = figures::all(self);
        let json = serde_json::to_string_pretty(&self)
            .map_err(|error| ExperimentError::File { path: folder.into(), message: error.to_string() })?;
        let mut files = vec![
            ("report.md".to_owned(), markdown(self, &pictures)),
            ("report.csv".to_owned(), csv(self)),
            ("report.json".to_owned(), json),
        ];
        files.extend(pictures.into_iter().map(|picture| (picture.file, picture.svg)));
        for (name, text) in &files {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(ExperimentError::io("write", &path))?;
        }
        Ok(files.into_iter().map(|(name, _)| name).collect())
    }

    /// Rows with their results.
    fn groups(&self) -> impl Iterator<Item = (&Line, &[RunResult])> {
        self.lines.iter().zip(self.groups.iter().map(Vec::as_slice))
    }
}

/// A picture of the report.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    pub file: String,
    pub caption: String,
    pub svg: String,
}

fn search(folder: &Path, found: &mut Vec<RunResult>) -> Result<(), ExperimentError> {
    found.extend(RunResult::read(folder)?);
    let entries = std::fs::read_dir(folder).map_err(ExperimentError::io("list", folder))?;
    let mut folders = Vec::new();
    for entry in entries {
        let path = entry.map_err(ExperimentError::io("list", folder))?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    folders.sort();
    folders.iter().try_for_each(|inner| search(inner, found))
}

fn line(group: &[RunResult]) -> Line {
    let settings = &group[0].settings;
    let percent = |of: &dyn Fn(&RunResult) -> Option<f64>| Spread::of(group.iter().filter_map(of).map(|x| 100.0 * x));
    let measures = |mode: KnnMode| {
        let of = |pick: fn(&AccuracySummary) -> Option<f64>| percent(&|result| pick(result.summary(mode)));
        Measures {
            accuracy: of(|summary| summary.average_accuracy),
            forgetting: match mode {
                KnnMode::Paper => of(|summary| summary.forgetting_from_learned),
                KnnMode::Strict => of(|summary| summary.forgetting_max),
            },
            backward_transfer: of(|summary| summary.backward_transfer),
            forward_transfer: of(|summary| summary.forward_transfer),
        }
    };
    let (paper, strict) = (measures(KnnMode::Paper), measures(KnnMode::Strict));
    let published = table(settings);
    let against = |ours: Option<Spread>, theirs: Option<f64>| Some(ours?.mean - theirs?);
    let curve = group[0].curve.iter().enumerate().map(|(at, point)| {
        let values = group.iter().filter_map(|result| result.curve.get(at)).map(|point| point.accuracy);
        (point.images, 100.0 * Spread::of(values).map_or(f64::NAN, |spread| spread.mean))
    });
    let ood = settings.ood.iter().enumerate().map(|(at, dataset)| OodLine {
        dataset: dataset.clone(),
        frozen: percent(&|result| result.ood.get(at)?.frozen),
        fine_tuned: percent(&|result| result.ood.get(at)?.fine_tuned),
        published: out_of_distribution(settings, dataset),
    });
    Line {
        label: label_of(&super::RunSettings { seed: 0, ..settings.clone() }),
        dataset: settings.dataset_name().into(),
        objective: super::settings::name_of(&settings.objective),
        strategy: super::settings::name_of(&settings.strategy),
        seeds: group.len(),
        linear_probe: percent(&|result| result.linear_probe),
        difference: against(paper.accuracy, published.map(|published| published.accuracy.0)),
        forgetting_difference: against(paper.forgetting, published.and_then(|published| Some(published.forgetting?.0))),
        reduced: reduced(settings),
        ood: ood.collect(),
        curve: curve.collect(),
        limit_per_task: settings.limit_per_task,
        paper,
        strict,
        published,
    }
}

#[cfg(test)]
mod tests;
