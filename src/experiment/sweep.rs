//! A table of runs in one TOML file: what all have in common, then a row for each, whose values may be lists.
//!
//! ```toml
//! name = "table"
//! about = "What this is, and how long it takes."
//! seeds = 3
//! [common]
//! dataset = "split-cifar10"
//! [[run]]
//! objective = ["simsiam", "barlow"]
//! strategy = ["finetune", "lump"]
//! ```
//! A row stands for every combination of its lists, each with every seed.

use std::path::Path;

use serde::Deserialize;

use super::settings::name_of;
use super::{ExperimentError, RunSettings};

/// The table.
#[derive(Debug, Clone, PartialEq)]
pub struct Sweep {
    pub name: String,
    pub about: String,
    /// Every run with the name of its folder, all seeds of the first combination before the next.
    pub runs: Vec<(String, RunSettings)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    #[serde(default)]
    about: String,
    #[serde(default = "one")]
    seeds: u64,
    #[serde(default)]
    common: toml::Table,
    run: Vec<toml::Table>,
}

fn one() -> u64 {
    1
}

impl Sweep {
    /// Reads a file.
    ///
    /// # Errors
    /// Where it cannot be understood, or a row cannot be run.
    pub fn read(path: &Path) -> Result<Self, ExperimentError> {
        let text = std::fs::read_to_string(path).map_err(ExperimentError::io("read", path))?;
        Self::parse(&text).map_err(|error| match error {
            ExperimentError::File { message, .. } => ExperimentError::File { path: path.into(), message },
            other => other,
        })
    }

    /// Reads a text.
    ///
    /// # Errors
    /// As [`Sweep::read`].
    pub fn parse(text: &str) -> Result<Self, ExperimentError> {
        let bad = |message: String| ExperimentError::File { path: "the sweep".into(), message };
        let File { name, about, seeds, common, run } = toml::from_str(text).map_err(|error| bad(error.to_string()))?;
        let mut runs: Vec<(String, RunSettings)> = Vec::new();
        for row in run {
            let mut whole = common.clone();
            whole.extend(row);
            for combination in combinations(&whole) {
                for seed in 0..seeds.max(1) {
                    let settings: RunSettings = toml::Value::Table(combination.clone())
                        .try_into()
                        .map_err(|error: toml::de::Error| bad(error.to_string()))?;
                    let settings = RunSettings { seed: settings.seed + seed, ..settings };
                    settings.check()?;
                    runs.push((folder_of(&settings), settings));
                }
            }
        }
        let mut names: Vec<&String> = runs.iter().map(|(name, _)| name).collect();
        names.sort();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(bad(format!(
                "two runs would have the folder {}: they differ in nothing that names them",
                pair[0]
            )));
        }
        Ok(Self { name, about, runs })
    }
}

/// The settings that a list makes several of. A list of datasets to try on is one value.
fn combinations(row: &toml::Table) -> Vec<toml::Table> {
    let mut all = vec![toml::Table::new()];
    for (key, value) in row {
        let values = match value {
            toml::Value::Array(values) if key != "ood" => values.clone(),
            value => vec![value.clone()],
        };
        all = all
            .into_iter()
            .flat_map(|table| {
                values.iter().map(move |value| {
                    let mut table = table.clone();
                    table.insert(key.clone(), value.clone());
                    table
                })
            })
            .collect();
    }
    all
}

/// The customary folder of a run: what it is called by, then its seed.
pub fn folder_of(settings: &RunSettings) -> String {
    format!("{}/seed-{}", label_of(settings), settings.seed)
}

/// A short name of a run without its seed: dataset, objective, strategy, and whatever else is usually varied.
pub fn label_of(settings: &RunSettings) -> String {
    let defaults = RunSettings::default();
    let mut parts = vec![
        settings.dataset_name().to_owned(),
        name_of(&settings.objective),
        name_of(&settings.strategy).replace('+', "-plus"),
    ];
    if settings.stream != defaults.stream {
        parts.push(name_of(&settings.stream));
    }
    if settings.boundaries != defaults.boundaries {
        parts.push(format!("boundaries-{}", name_of(&settings.boundaries)));
    }
    if settings.policy != defaults.policy {
        parts.push(name_of(&settings.policy));
    }
    if settings.weights.is_some() {
        parts.push("given".to_owned());
    }
    let numbers = [
        ("e", (settings.epochs != defaults.epochs).then_some(settings.epochs as f64)),
        ("n", settings.limit_per_task.map(|limit| limit as f64)),
        ("r", (settings.replay_batch != defaults.replay_batch).then_some(settings.replay_batch as f64)),
        ("s", (settings.steps_per_batch != defaults.steps_per_batch).then_some(settings.steps_per_batch as f64)),
        ("lr", (settings.learning_rate != defaults.learning_rate).then_some(settings.learning_rate)),
    ];
    parts.extend(numbers.into_iter().filter_map(|(letter, value)| Some(format!("{letter}{}", value?))));
    parts.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_combined_and_every_combination_has_every_seed() {
        let text = "name = 'a'\nseeds = 2\n[common]\nood = ['mnist', 'svhn']\n[[run]]\nobjective = ['simsiam', 'barlow']\n\
                    strategy = ['lump', 'finetune']\n[[run]]\nobjective = 'supervised'\nstrategy = 'finetune'";
        let sweep = Sweep::parse(text).unwrap();
        assert_eq!(sweep.runs.len(), 10);
        assert_eq!(sweep.runs[0].0, "cifar10-simsiam-lump/seed-0");
        assert_eq!(sweep.runs[1].1.seed, 1);
        assert_eq!(sweep.runs[0].1.ood, ["mnist", "svhn"]);
    }

    #[test]
    fn what_cannot_be_run_is_refused_before_anything_runs() {
        let refused = |text: &str, says: &str| {
            let error = Sweep::parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        };
        refused("name = 'a'\n[[run]]\nstrategy = 'gss'", "needs labels");
        refused("name = 'a'\n[[run]]\nepoch = 2", "epoch");
        refused("name = 'a'\n[[run]]\nepochs = 2\n[[run]]\nepochs = 2", "two runs");
    }

    #[test]
    fn the_sweeps_that_come_with_the_project_can_be_run() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/sweeps");
        let mut sweeps = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "toml") {
                continue;
            }
            let sweep = Sweep::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(!sweep.runs.is_empty() && !sweep.about.is_empty());
            sweeps += 1;
        }
        assert!(sweeps >= 4, "{sweeps}");
    }
}
