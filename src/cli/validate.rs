//! `lumpd validate`: everything that keeps a configuration from running, and what it will cost.

use std::io::{Write, stderr};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Map, Value, json};

use super::configuration::{ConfigurationArguments, SourceArguments, tell};
use super::{Exit, configuration, json};
use crate::config::{BudgetLine, Config, Loaded, Plan, Problem, probe};
use crate::encoder::{GivenWeights, Preset};
use crate::serve::Tokens;

const EXAMPLES: &str = "\
Examples:
  lumpd validate --config lumpd.toml
  lumpd validate --config lumpd.toml --no-environment   on another machine than the one it is for
  lumpd validate --watch /srv/camera --deny-warnings";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Look at the settings only, not at folders, free space and ports
    #[arg(long)]
    no_environment: bool,
    /// Fail on warnings, too
    #[arg(long)]
    deny_warnings: bool,
    /// The plan as one JSON object; what is wrong is told on standard error all the same
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    configuration: ConfigurationArguments,
    #[command(flatten)]
    sources: SourceArguments,
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let loaded = arguments.configuration.load_with(arguments.sources.sources())?;
    let plan = configuration::plan(&loaded)?;
    match arguments.json {
        true => json::print(&as_json(&plan, &loaded), out)?,
        false => show(&plan, &loaded, out)?,
    }
    if !arguments.no_environment {
        environment(&plan, &loaded)?;
    }
    if arguments.deny_warnings && !plan.warnings.is_empty() {
        bail!(anyhow::anyhow!("{} warnings: see above", plan.warnings.len()).context(Exit::Configuration));
    }
    if !arguments.json {
        writeln!(out, "\nThe configuration is valid.")?;
    }
    Ok(())
}

/// Asks this machine whether it can run the plan.
///
/// # Errors
/// If it cannot, after all that keeps it from it was told; exit code 78.
pub(super) fn environment(plan: &Plan, loaded: &Loaded) -> anyhow::Result<()> {
    let problems = probe(plan);
    tell(&problems, loaded);
    weights(&plan.config)?;
    Tokens::load(&plan.config.serve).context(Exit::Configuration)?;
    if problems.is_empty() {
        return Ok(());
    }
    Err(anyhow::anyhow!("this machine cannot run it: see above").context(Exit::Configuration))
}

/// Reads the given weights whole: better refused here than after the start.
fn weights(config: &Config) -> anyhow::Result<()> {
    let Some(path) = &config.encoder.weights else { return Ok(()) };
    let preset = Preset::load(&config.encoder.preset).context(Exit::Configuration)?;
    let given = GivenWeights::read(path, &preset).context(Exit::Configuration)?;
    for note in given.notes {
        // Nothing can be told where standard error itself is closed.
        let _ = writeln!(stderr(), "note: encoder.weights: {note}");
    }
    Ok(())
}

fn show(plan: &Plan, loaded: &Loaded, out: &mut dyn Write) -> anyhow::Result<()> {
    let config = &plan.config;
    writeln!(out, "state     {}", config.daemon.state_dir.display())?;
    writeln!(
        out,
        "encoder   {} ({} pixels, {} features)",
        config.encoder.preset, plan.encoder.side, plan.encoder.features
    )?;
    writeln!(out, "API       http://{}", config.serve.listen)?;
    for source in &config.source {
        let place = source.path.as_ref().map(|path| path.display().to_string());
        let place = place.or(source.listen.map(|address| address.to_string())).unwrap_or_default();
        let kind = format!("{:?}", source.kind).to_lowercase();
        writeln!(out, "source    {} ({kind} {place})", source.name)?;
    }
    writeln!(out, "\n{}", plan.budget)?;
    writeln!(out, "Set apart from the defaults:")?;
    for (key, origin) in &loaded.origins {
        writeln!(out, "  {key:<32} {origin}")?;
    }
    if loaded.origins.is_empty() {
        writeln!(out, "  nothing")?;
    }
    Ok(())
}

/// The resolved plan: every setting, where those apart from the defaults were set, and what it may cost at most.
fn as_json(plan: &Plan, loaded: &Loaded) -> Value {
    let line = |line: &BudgetLine| {
        let BudgetLine { what, how, memory_bytes, disk_bytes } = line;
        json!({ "what": what, "how": how, "memory_bytes": memory_bytes, "disk_bytes": disk_bytes })
    };
    let warning = |problem: &Problem| {
        let Problem { code, key, value, message, .. } = problem;
        json!({ "code": code, "key": key, "value": value, "message": message })
    };
    let origins: Map<String, Value> =
        loaded.origins.iter().map(|(key, origin)| (key.clone(), origin.to_string().into())).collect();
    json!({
        "settings": plan.config,
        "origins": origins,
        "encoder": {
            "side_pixels": plan.encoder.side,
            "features": plan.encoder.features,
            "parameters": plan.encoder.parameters,
        },
        "budget": {
            "memory_bytes": plan.budget.memory_bytes(),
            "disk_bytes": plan.budget.disk_bytes(),
            "lines": plan.budget.lines.iter().map(line).collect::<Vec<_>>(),
        },
        "warnings": plan.warnings.iter().map(warning).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validate(text: &str, deny_warnings: bool) -> anyhow::Result<String> {
        said(text, deny_warnings, false)
    }

    fn said(text: &str, deny_warnings: bool, json: bool) -> anyhow::Result<String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lumpd.toml");
        std::fs::write(&file, text).unwrap();
        let configuration = ConfigurationArguments { config: Some(file), ..Default::default() };
        let arguments =
            Arguments { configuration, sources: SourceArguments::default(), no_environment: true, deny_warnings, json };
        let mut out = Vec::new();
        run(&arguments, &mut out)?;
        Ok(String::from_utf8(out)?)
    }

    #[test]
    fn the_plan_shows_budget_and_origins() {
        let text = validate("[replay]\nslots = 100\n", false).unwrap();
        assert!(text.contains("100 + 64 spare slots of 32x32"), "{text}");
        assert!(text.contains("replay.slots"), "{text}");
        assert!(text.contains("lumpd.toml:2"), "{text}");
    }

    #[test]
    fn programs_get_the_plan_as_one_object() {
        let plan: Value = serde_json::from_str(&said("[replay]\nslots = 100\n", false, true).unwrap()).unwrap();
        assert_eq!(plan["settings"]["replay"]["slots"], 100);
        assert!(plan["origins"]["replay.slots"].as_str().unwrap().ends_with("lumpd.toml:2"), "{plan}");
        let lines = plan["budget"]["lines"].as_array().unwrap();
        let disk: u64 = lines.iter().map(|line| line["disk_bytes"].as_u64().unwrap()).sum();
        assert_eq!(plan["budget"]["disk_bytes"], disk);
        assert_eq!(plan["warnings"][0]["code"], "no-source");
    }

    #[test]
    fn warnings_fail_only_where_asked() {
        assert!(validate("", false).is_ok());
        assert_eq!(crate::cli::code(&validate("", true).unwrap_err()), 78);
    }

    #[test]
    fn a_wrong_setting_fails_with_78() {
        assert_eq!(crate::cli::code(&validate("[learn]\nbatch = 1\n", false).unwrap_err()), 78);
        assert_eq!(crate::cli::code(&validate("[learn]\nbath = 1\n", false).unwrap_err()), 78);
    }
}
