//! `lumpd export`: what was learnt, for other programs.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};

use super::Exit;
use super::configuration::ConfigurationArguments;
use crate::config::durable;
use crate::encoder::{Backbone, EncoderId, Parameter, Stem, to_safetensors};
use crate::learn::{SavedEncoder, checkpoint, saved_encoder};

const EXAMPLES: &str = "\
Examples:
  lumpd export encoder -o encoder.safetensors --state-dir /var/lib/lumpd

The state folder is only read; a daemon may be running on it.";

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The encoder of the newest checkpoint, as safetensors under torchvision's names
    #[command(after_help = EXAMPLES)]
    Encoder(EncoderArguments),
}

#[derive(Debug, Args)]
struct EncoderArguments {
    /// Write this file, whole or not at all; one that is there is replaced
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    configuration: ConfigurationArguments,
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    match &arguments.what {
        What::Encoder(arguments) => encoder(arguments, out),
    }
}

fn encoder(arguments: &EncoderArguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let state_dir = arguments.configuration.load()?.config.daemon.state_dir;
    let folder = state_dir.join("checkpoints");
    let search = checkpoint::look(&folder).map_err(|error| anyhow!(error).context(Exit::Io))?;
    for (name, reason) in &search.skipped {
        writeln!(out, "{name} is damaged and was passed over: {reason}")?;
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
    writeln!(out, "{}: the encoder of step {step}, id {}", path.display(), EncoderId::of(&backbone)?)?;
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
        Arguments { what: What::Encoder(EncoderArguments { output, configuration }) }
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
