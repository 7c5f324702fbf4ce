//! `lumpd config`: the settings as they are taken, what there is to set, and an example.

use std::io::Write;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::configuration::ConfigurationArguments;
use super::table::{Side, Table};
use crate::config::{flat, schema};

const EXAMPLE: &str = include_str!("../../deploy/lumpd.example.toml");

const EXAMPLES: &str = "\
Examples:
  lumpd config show --origin                     every setting, and which file, variable or flag set it
  lumpd config show --config lumpd.toml --json
  lumpd config schema > lumpd.schema.json        for an editor that checks TOML
  lumpd config example > lumpd.toml";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print every setting as the daemon would take it
    #[command(after_help = EXAMPLES)]
    Show(Show),
    /// Print the JSON Schema of the configuration file
    #[command(after_help = EXAMPLES)]
    Schema,
    /// Print a file with every setting, its default and its meaning
    #[command(after_help = EXAMPLES)]
    Example,
}

#[derive(Debug, Args)]
struct Show {
    /// Tell of each where it was set
    #[arg(long)]
    origin: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    configuration: ConfigurationArguments,
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    match &arguments.what {
        What::Show(show) => show.run(out),
        What::Schema => super::json::print(&schema(), out),
        What::Example => Ok(out.write_all(EXAMPLE.as_bytes())?),
    }
}

impl Show {
    fn run(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let loaded = self.configuration.load()?;
        let settings = flat(&loaded.config);
        if self.json {
            let of = |(key, value): (&String, &toml::Value)| {
                let shown = match self.origin {
                    true => json!({ "value": value, "origin": loaded.origin(key).to_string() }),
                    false => json!(value),
                };
                (key.clone(), shown)
            };
            let object: Map<String, Value> = settings.iter().map(of).collect();
            return super::json::print(&object, out);
        }
        if !self.origin {
            return Ok(write!(out, "{}", toml::to_string(&loaded.config)?)?);
        }
        let mut table = Table::new(&[("SETTING", Side::Left), ("VALUE", Side::Left), ("SET BY", Side::Left)]);
        for (key, value) in &settings {
            table.row([key.clone(), value.to_string(), loaded.origin(key).to_string()]);
        }
        Ok(table.print(out)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(origin: bool, json: bool) -> String {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lumpd.toml");
        std::fs::write(&file, "[replay]\nslots = 77\n").unwrap();
        let configuration = ConfigurationArguments { config: Some(file), ..Default::default() };
        let what = What::Show(Show { configuration, origin, json });
        let mut out = Vec::new();
        run(&Arguments { what }, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_setting_is_shown_with_where_it_was_set() {
        let text = show(true, false);
        let line = text.lines().find(|line| line.starts_with("replay.slots")).unwrap();
        assert!(line.contains("77") && line.ends_with("lumpd.toml:1") || line.ends_with("lumpd.toml:2"), "{line}");
        assert!(text.lines().any(|line| line.starts_with("learn.batch ") && line.ends_with("default")), "{text}");
        let json: Value = serde_json::from_str(&show(true, true)).unwrap();
        assert_eq!(json["replay.slots"]["value"], 77);
    }

    #[test]
    fn what_is_shown_can_be_used_as_a_file() {
        let config: crate::config::Config = toml::from_str(&show(false, false)).unwrap();
        assert_eq!(config.replay.slots, 77);
    }
}
