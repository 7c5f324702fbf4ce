//! The flags that say where the settings come from, and what becomes of them; shared by every verb that reads settings.

use std::io::{Write, stderr};
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::Exit;
use crate::config::{
    self, AfterKind, Config, EncoderShape, Flags, Loaded, Origin, Plan, Problem, SourceKind, SourceSettings, WatchKind,
    WhenFull,
};
use crate::encoder::{HeadShape, Parameter, Preset, parameter_layout};
use crate::learn::objective;

/// `--config`, `--set` and the named flags of common settings.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Settings")]
pub struct ConfigurationArguments {
    /// Read this file instead of $XDG_CONFIG_HOME/lumpd/lumpd.toml or /etc/lumpd/lumpd.toml
    #[arg(long, short, value_name = "FILE", env = "LUMPD_CONFIG")]
    pub config: Option<PathBuf>,

    /// Set one value, as in --set replay.slots=512; may be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub settings: Vec<String>,

    /// Folder of everything that survives a restart (daemon.state_dir)
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// Address of the HTTP API (serve.listen)
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,

    /// Unix socket of the HTTP API (serve.socket)
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

impl ConfigurationArguments {
    /// Reads file, environment and flags.
    ///
    /// # Errors
    /// The first setting that cannot be read, with its place; exit code 78.
    pub fn load(&self) -> anyhow::Result<Loaded> {
        self.load_with(Vec::new())
    }

    /// As [`Self::load`], with sources that other flags name.
    pub(super) fn load_with(&self, sources: Vec<(String, SourceSettings)>) -> anyhow::Result<Loaded> {
        let files: Vec<PathBuf> = self.config.clone().or_else(config::default_file).into_iter().collect();
        let flags = Flags { settings: self.settings(), sources };
        config::load(&files, std::env::vars_os(), &flags).context(Exit::Configuration)
    }

    /// Named flags come after `--set`, so they win.
    fn settings(&self) -> Vec<(String, String)> {
        let set = self.settings.iter().map(|text| ("--set".to_string(), text.clone()));
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let named = [
            ("--state-dir", "daemon.state_dir", path(&self.state_dir)),
            ("--listen", "serve.listen", self.listen.clone()),
            ("--socket", "serve.socket", path(&self.socket)),
        ];
        let named = named.into_iter().filter_map(|(flag, key, value)| Some((flag.into(), format!("{key}={}", value?))));
        set.chain(named).collect()
    }
}

/// Sources named by flags, so that a daemon can be started without a file.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Sources")]
pub(super) struct SourceArguments {
    /// Take images from this folder; may be repeated
    #[arg(long, value_name = "DIR")]
    watch: Vec<PathBuf>,

    /// Take frames from this unix socket, which `lumpd feed --to PATH` sends to
    #[arg(long, value_name = "PATH")]
    unix: Vec<PathBuf>,

    /// Take frames from this loopback address, which `lumpd feed --to tcp:ADDRESS` sends to
    #[arg(long, value_name = "ADDRESS")]
    tcp: Vec<std::net::SocketAddr>,
}

impl SourceArguments {
    pub(super) fn sources(&self) -> Vec<(String, SourceSettings)> {
        let watch = self.watch.iter().map(|path| ("--watch", SourceKind::Directory, Some(path.clone()), None));
        let unix = self.unix.iter().map(|path| ("--unix", SourceKind::Unix, Some(path.clone()), None));
        let tcp = self.tcp.iter().map(|address| ("--tcp", SourceKind::Tcp, None, Some(*address)));
        let all = watch.chain(unix).chain(tcp).enumerate();
        all.map(|(index, (flag, kind, path, listen))| {
            // The name is stored with every image: it must come out the same at the next start.
            let name = format!("{}-{}", flag.trim_start_matches('-'), index + 1);
            (flag.to_string(), SourceSettings { path, listen, ..source(name, kind) })
        })
        .collect()
    }
}

/// A source with the defaults of a file that gives only its name and kind.
pub(super) fn source(name: String, kind: SourceKind) -> SourceSettings {
    SourceSettings {
        name,
        kind,
        path: None,
        listen: None,
        recursive: true,
        watch: WatchKind::Auto,
        poll_seconds: 2.0,
        after: AfterKind::Keep,
        done: None,
        queue_bytes: 16 << 20,
        when_full: WhenFull::Block,
    }
}

/// Turns settings into a plan, and tells everything that is wrong with them on standard error.
///
/// # Errors
/// If a setting is wrong; exit code 78.
pub(super) fn plan(loaded: &Loaded) -> anyhow::Result<Plan> {
    let encoder = encoder_shape(&loaded.config)?;
    match config::check(loaded.config.clone(), encoder) {
        Ok(plan) => {
            tell(&plan.warnings, loaded);
            Ok(plan)
        }
        Err(problems) => {
            tell(&problems, loaded);
            let errors = problems.iter().filter(|problem| problem.is_error()).count();
            Err(anyhow::anyhow!("{errors} wrong: see above").context(Exit::Configuration))
        }
    }
}

fn encoder_shape(config: &Config) -> anyhow::Result<EncoderShape> {
    let preset = Preset::load(&config.encoder.preset).context(Exit::Configuration)?;
    let backbone: usize = parameter_layout(preset.stem, preset.width).iter().map(Parameter::elements).sum();
    let heads = head_parameters(&objective(config.learn.objective).head_shape(preset.features()), preset.features());
    let parameters = backbone + heads;
    Ok(EncoderShape { side: preset.side, features: preset.features(), parameters })
}

/// Weights of the linear layers, with a bias or the two parameters of a batch norm for each output.
fn head_parameters(shape: &HeadShape, features: usize) -> usize {
    let layers = shape.projector.iter().chain(&shape.predictor);
    let count = layers.scan(features, |inputs, layer| {
        let per_output = *inputs + if layer.norm { 2 } else { 1 };
        *inputs = layer.outputs;
        Some(layer.outputs * per_output)
    });
    count.sum()
}

/// One line a problem, with the place where its value was set.
pub(super) fn tell(problems: &[Problem], loaded: &Loaded) {
    for problem in problems {
        let place = match loaded.origin(&problem.key) {
            Origin::Default => String::new(),
            origin => format!(" (set by {origin})"),
        };
        // Nothing can be told where standard error itself is closed.
        let _ = writeln!(stderr(), "{problem}{place}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_flags_win_over_set_and_are_named_as_origin() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lumpd.toml");
        std::fs::write(&file, "").unwrap();
        let arguments = ConfigurationArguments {
            config: Some(file),
            settings: vec!["daemon.state_dir=\"a\"".into()],
            state_dir: Some("b".into()),
            ..ConfigurationArguments::default()
        };
        let loaded = arguments.load().unwrap();
        assert_eq!(loaded.config.daemon.state_dir, PathBuf::from("b"));
        assert_eq!(loaded.origin("daemon.state_dir"), &Origin::Flag { flag: "--state-dir".into() });
    }

    #[test]
    fn sources_by_flag_are_named_in_order_and_have_the_defaults_of_a_file() {
        let arguments =
            SourceArguments { watch: vec!["in".into()], unix: vec![], tcp: vec!["127.0.0.1:7718".parse().unwrap()] };
        let sources = arguments.sources();
        assert_eq!(sources[1].1.name, "tcp-2");
        let text = "[[source]]\nname = \"watch-1\"\nkind = \"directory\"\npath = \"in\"";
        assert_eq!(toml::from_str::<Config>(text).unwrap().source, [sources[0].1.clone()]);
    }

    #[test]
    fn the_budget_counts_every_parameter_that_is_trained() {
        use candle_core::{DType, Device};
        for kind in [config::ObjectiveKind::SimSiam, config::ObjectiveKind::Barlow, config::ObjectiveKind::SimClr] {
            let shape = objective(kind).head_shape(128);
            let head = crate::encoder::Head::new(&shape, 128, DType::F32, &Device::Cpu, config::Seed(0)).unwrap();
            let elements: usize = head.variables().iter().map(|(_, variable)| variable.elem_count()).sum();
            assert_eq!(head_parameters(&shape, 128), elements, "{kind:?}");
        }
    }

    #[test]
    fn an_unknown_preset_is_a_fault_of_the_configuration() {
        let mut loaded = ConfigurationArguments { config: None, ..Default::default() }.load().unwrap();
        loaded.config.encoder.preset = "resnet19".into();
        assert_eq!(crate::cli::code(&plan(&loaded).unwrap_err()), 78);
    }
}
