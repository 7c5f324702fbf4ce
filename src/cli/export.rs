//! `lumpd export encoder|bank`: what was learnt, for other programs.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, anyhow, bail};
use clap::{Args, Subcommand};
use safetensors::SafeTensors;
use serde_json::json;

use super::api::{ApiArguments, encoder_line};
use super::client::ask;
use super::configuration::ConfigurationArguments;
use super::table::count;
use super::{Exit, json};
use crate::config::durable;
use crate::encoder::{Backbone, EncoderId, Parameter, Stem, to_safetensors};
use crate::learn::{SavedEncoder, checkpoint, saved_encoder};

const EXAMPLES: &str = "\
Examples:
  lumpd export encoder -o encoder.safetensors --state-dir /var/lib/lumpd
  lumpd export bank -o bank.safetensors          every stored image's embedding, with its id, task, source and time

The encoder is read from the state folder, whether or not a daemon runs on it; the bank is asked of the running daemon.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The encoder of the newest checkpoint, as safetensors under torchvision's names
    #[command(after_help = EXAMPLES)]
    Encoder(EncoderArguments),
    /// The embeddings of the stored images as safetensors, with the version of the encoder that made them
    #[command(after_help = EXAMPLES)]
    Bank(BankArguments),
}

#[derive(Debug, Args)]
struct EncoderArguments {
    /// Write this file, whole or not at all; one that is there is replaced
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// One JSON object instead of lines for people
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    configuration: ConfigurationArguments,
}

#[derive(Debug, Args)]
struct BankArguments {
    /// Write this file, whole or not at all; one that is there is replaced
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    api: ApiArguments,
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    match &arguments.what {
        What::Encoder(arguments) => encoder(arguments, out),
        What::Bank(arguments) => bank(arguments, out),
    }
}

fn bank(arguments: &BankArguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let file = ask(arguments.api.client()?.for_files().get_bytes("/v1/export/bank"))?;
    let of_another_version = "the daemon's answer is no bank: are daemon and command of one version?";
    let tensors = SafeTensors::deserialize(&file).context(of_another_version)?;
    let &[rows, width] = tensors.tensor("embeddings").context(of_another_version)?.shape() else {
        bail!(of_another_version);
    };
    let (_, head) = SafeTensors::read_metadata(&file).context(of_another_version)?;
    let said = |key: &str| head.metadata().as_ref().and_then(|said| said.get(key)).cloned().unwrap_or_default();
    let (encoder, version) = (said("lumpd.encoder"), said("lumpd.encoder_version").parse().unwrap_or(0));
    let path = &arguments.output;
    durable::replace(path, &file).with_context(|| format!("write {}", path.display())).context(Exit::Io)?;

    let answer = json!({ "file": path, "rows": rows, "width": width, "encoder": encoder, "encoder_version": version });
    arguments.api.print(&answer, out, |_, out| {
        let rows = count(rows as u64, "embedding");
        writeln!(out, "{}: {rows} of {width} numbers, {}", path.display(), encoder_line(version, &encoder))
    })
}

fn encoder(arguments: &EncoderArguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let state_dir = arguments.configuration.load()?.config.daemon.state_dir;
    let folder = state_dir.join("checkpoints");
    let search = checkpoint::look(&folder).map_err(|error| anyhow!(error).context(Exit::Io))?;
    if !arguments.json {
        for (name, reason) in &search.skipped {
            writeln!(out, "{name} is damaged and was passed over: {reason}")?;
        }
    }
    let loaded = search.loaded.with_context(|| {
        format!(
            "there is no whole checkpoint in {}: let `lumpd run` write one, or name another --state-dir",
            folder.display()
        )
    });
    let files: Vec<_> = loaded.context(Exit::Io)?.files.into_iter().collect();
    let SavedEncoder { preset, step, backbone } = saved_encoder(&files)?;
    let path = &arguments.output;
    durable::replace(path, &to_safetensors(&backbone)?).with_context(|| format!("write {}", path.display()))?;

    let parameters: usize = backbone.layout().iter().map(Parameter::elements).sum();
    let id = EncoderId::of(&backbone)?;
    if arguments.json {
        let skipped: Vec<_> = search
            .skipped
            .iter()
            .map(|(name, reason)| json!({ "checkpoint": name, "damage": reason.to_string() }))
            .collect();
        let answer = json!({
            "file": path, "encoder": id.to_string(), "step": step, "preset": preset.name, "parameters": parameters,
            "features": preset.features(), "side_pixels": preset.side, "mean": preset.mean, "std": preset.std,
            "skipped": skipped,
        });
        return json::print(&answer, out);
    }
    writeln!(out, "{}: the encoder of step {step}, id {id}", path.display())?;
    writeln!(out, "  preset {}, {parameters} parameters, features of {}", preset.name, preset.features())?;
    writeln!(out, "  pixels are scaled to 0..1, then (pixel - {:?}) / {:?} by channel", preset.mean, preset.std)?;
    writeln!(out, "  names are torchvision's; there is no classifier, so fc.weight and fc.bias are absent")?;
    match (preset.stem, preset.width) {
        (Stem::Imagenet, 64) => writeln!(
            out,
            "  model = torchvision.models.resnet18(); model.fc = torch.nn.Identity(); model.load_state_dict(load_file(...))"
        )?,
        _ => writeln!(
            out,
            "  torchvision's own resnet18 has the ImageNet form of width 64: this one needs a model of its form"
        )?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::config::{LearnSettings, Seed};
    use crate::encoder::{GivenWeights, Preset};
    use crate::learn::Trainer;
    use crate::learn::checkpoint::{Generations, Keep};

    fn arguments(state: &std::path::Path, output: PathBuf) -> Arguments {
        let configuration = ConfigurationArguments {
            config: Some("/dev/null".into()),
            state_dir: Some(state.into()),
            ..ConfigurationArguments::default()
        };
        Arguments { what: What::Encoder(EncoderArguments { output, json: false, configuration }) }
    }

    #[test]
    fn the_newest_checkpoint_becomes_a_file_that_is_given_back_to_the_bit() {
        let preset = Preset { width: 2, side: 16, ..Preset::load("resnet18-imagenet-96px").unwrap() };
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("encoder.safetensors");
        let arguments = arguments(dir.path(), output.clone());
        assert_eq!(crate::cli::code(&run(&arguments, &mut Vec::new()).unwrap_err()), 74, "no checkpoints at all");

        let generations = Generations::open(&dir.path().join("checkpoints"), Keep::default()).unwrap();
        let new = |seed| Trainer::new(preset.clone(), &LearnSettings::default(), &Device::Cpu, Seed(seed)).unwrap();
        let (older, newer) = (new(1), new(2));
        for (step, trainer) in [(5, &older), (9, &newer)] {
            let files = trainer.save().unwrap();
            let files: Vec<(&str, &[u8])> = files.iter().map(|(n, b)| (n.as_str(), b.as_slice())).collect();
            generations.write(step, &files, &serde_json::json!({})).unwrap();
        }
        let export = || {
            let mut text = Vec::new();
            run(&arguments, &mut text).unwrap();
            let mut taken = new(3);
            let id = taken.give(&GivenWeights::read(&output, &preset).unwrap()).unwrap();
            (id, String::from_utf8(text).unwrap())
        };
        let id = |trainer: &Trainer| EncoderId::of(trainer.backbone()).unwrap();
        let (found, text) = export();
        assert_eq!(found, id(&newer));
        assert!(text.contains(&found.to_string()) && text.contains("fc.weight"), "{text}");

        // A damaged one is passed over, and stays where it is: nothing is changed in the state folder.
        let newest = dir.path().join("checkpoints/step-000000000009");
        std::fs::write(newest.join("state.json"), b"{}").unwrap();
        let (found, text) = export();
        assert_eq!(found, id(&older));
        assert!(text.contains("step-000000000009 is damaged") && newest.exists(), "{text}");
    }
}
