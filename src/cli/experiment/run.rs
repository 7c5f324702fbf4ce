//! `lumpd experiment run`

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::play::{self, Setup};
use crate::cli::Exit;
use crate::experiment::RunSettings;
use crate::experiment::sweep::folder_of;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// cifar10, cifar100, tiny-imagenet, mnist, fashion-mnist, svhn (with or without `split-` before it), cifar10-domains, folder,
    /// manifest or simulated
    #[arg(long, value_name = "NAME")]
    dataset: String,
    /// Folder of the dataset as its authors publish it, or the folder above
    #[arg(long, value_name = "DIR", default_value = ".")]
    data: PathBuf,
    /// simsiam, barlow, simclr or supervised
    #[arg(long, value_name = "NAME")]
    objective: Option<String>,
    /// finetune, lump, lump+, si, der, cassle, ema, pnn, multitask, agem or gss
    #[arg(long, value_name = "NAME")]
    strategy: Option<String>,
    /// The encoder's preset, or the path of a card
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// Weights that the encoder starts from: safetensors with torchvision's names, such as another run's with `--save-encoder`
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Leave the trained encoder in the run's folder as encoder.safetensors
    #[arg(long)]
    save_encoder: bool,
    /// Epochs of each task
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// tasks, given, gradual, imbalanced, recurring or interleaved
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
    /// given, found (by the daemon's segmentation) or none
    #[arg(long, value_name = "NAME")]
    boundaries: Option<String>,
    /// Most training images of each task
    #[arg(long, value_name = "N")]
    limit_per_task: Option<usize>,
    /// How many seeds, one run each
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// The first seed
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Folder for results, which are gone on with where they are unfinished
    #[arg(long, value_name = "DIR", default_value = "experiment")]
    out: PathBuf,
    /// Any other setting as in a sweep file, such as `--set batch=64`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// One JSON object a run, each on a line of its own
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let settings = settings(arguments).context(Exit::Usage)?;
    let runs: Vec<(String, RunSettings)> = (0..arguments.seeds)
        .map(|seed| RunSettings { seed: arguments.seed + seed, ..settings.clone() })
        .map(|settings| (folder_of(&settings), settings))
        .collect();
    play::all(&runs, &Setup { data: &arguments.data, folder: &arguments.out, json: arguments.json }, out)
}

fn settings(arguments: &Arguments) -> anyhow::Result<RunSettings> {
    let mut table = toml::Table::new();
    table.insert("dataset".into(), arguments.dataset.clone().into());
    let names = [
        ("objective", &arguments.objective),
        ("strategy", &arguments.strategy),
        ("preset", &arguments.preset),
        ("stream", &arguments.stream),
        ("boundaries", &arguments.boundaries),
    ];
    for (key, name) in names {
        table.extend(name.iter().map(|name| (key.to_owned(), name.clone().into())));
    }
    for (key, number) in [("epochs", arguments.epochs), ("limit_per_task", arguments.limit_per_task)] {
        table.extend(number.iter().map(|number| (key.to_owned(), (*number as i64).into())));
    }
    if let Some(path) = &arguments.weights {
        let path = path.to_str().with_context(|| format!("--weights {}: the path is no UTF-8", path.display()))?;
        table.insert("weights".into(), path.into());
    }
    if arguments.save_encoder {
        table.insert("save_encoder".into(), true.into());
    }
    for pair in &arguments.settings {
        let (key, value) = pair.split_once('=').with_context(|| format!("--set {pair}: write it as KEY=VALUE"))?;
        let parsed = toml::from_str::<toml::Table>(&format!("value = {value}")).ok();
        let value = parsed.and_then(|mut table| table.remove("value")).unwrap_or_else(|| value.into());
        table.insert(key.trim().to_owned(), value);
    }
    let settings: RunSettings = toml::Value::Table(table).try_into().context("the settings of the run")?;
    settings.check()?;
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::config::{ObjectiveKind, StrategyKind};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parsed(line: &[&str]) -> anyhow::Result<RunSettings> {
        settings(&Line::try_parse_from([&["x"], line].concat())?.arguments)
    }

    #[test]
    fn flags_and_sets_become_settings() {
        let line = ["--dataset", "split-cifar10", "--objective", "barlow", "--strategy", "lump+", "--epochs", "3"];
        let settings = parsed(&[&line[..], &["--set", "batch=64", "--set", "ood=['mnist']"]].concat()).unwrap();
        assert_eq!((settings.objective, settings.strategy), (ObjectiveKind::Barlow, StrategyKind::LumpPlus));
        assert_eq!((settings.epochs, settings.batch, &*settings.ood), (3, 64, &["mnist".to_owned()][..]));
        let says = |line: &[&str], what: &str| {
            let error = format!("{:#}", parsed(line).unwrap_err());
            assert!(error.contains(what), "{error}");
        };
        says(&["--dataset", "cifar10", "--strategy", "lamp"], "lamp");
        says(&["--dataset", "cifar10", "--set", "batsh=3"], "batsh");
        says(&["--dataset", "cifar10", "--set", "batch"], "KEY=VALUE");
    }
}
