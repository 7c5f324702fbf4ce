//! Typed settings, each with its default, its unit and its meaning.
//!
//! The structures here are the single source of truth: the TOML file, the environment and the flags are overlaid on them
//! ([`load()`]), a checked configuration becomes a plan with its memory and disk budget ([`check()`]), and the machine is asked
//! whether it can run that plan ([`probe()`]). This room knows no other.
//!
//! ```
//! let config: lumpd::config::Config = toml::from_str("[replay]\nslots = 512").unwrap();
//! assert_eq!(config.replay.slots, 512);
//! assert_eq!(config.learn.objective, lumpd::config::ObjectiveKind::SimClr);
//! ```

mod check;
pub mod durable;
mod load;
mod nearest;
mod plan;
mod probe;
mod problem;
mod random;
mod reload;
mod schema;
mod settings;

pub use check::{HTTP_SOURCE, check};
pub use load::{Flags, LoadError, Loaded, Origin, default_file, load};
pub use plan::{Budget, BudgetLine, Bytes, EncoderShape, Plan, replay_file_bytes};
pub use probe::probe;
pub use problem::{Problem, Severity};
pub use random::{Random, Seed};
pub use reload::{Reload, flat, reload};
pub use schema::schema;
pub use settings::*;

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../deploy/lumpd.example.toml");

    #[test]
    fn the_example_file_holds_the_defaults() {
        assert_eq!(toml::from_str::<Config>(EXAMPLE).unwrap(), Config::default());
    }

    #[test]
    fn the_example_file_names_every_setting() {
        let source =
            "[[source]]\nname = \"a\"\nkind = \"unix\"\npath = \"p\"\nlisten = \"127.0.0.1:1\"\ndone = \"d\"\n";
        let mut config: Config = toml::from_str(source).unwrap();
        let file = || Some("s".into());
        (config.serve.socket, config.serve.read_token_file) = (file(), file());
        (config.serve.ingest_token_file, config.serve.admin_token_file) = (file(), file());
        config.encoder.weights = file();
        let everything = toml::Table::try_from(&config).unwrap();
        let keys = everything.values().flat_map(|section| match section {
            toml::Value::Array(tables) => tables[0].as_table().unwrap().keys(),
            section => section.as_table().unwrap().keys(),
        });
        let named =
            |key: &str| EXAMPLE.lines().any(|line| line.trim_start_matches("# ").starts_with(&format!("{key} = ")));
        let missing: Vec<_> = keys.filter(|key| !named(key)).collect();
        assert!(missing.is_empty(), "not in deploy/lumpd.example.toml: {missing:?}");
    }

    #[test]
    fn the_sources_shown_in_the_example_file_are_valid() {
        let uncommented: Vec<&str> = EXAMPLE
            .lines()
            .skip_while(|line| *line != "# [[source]]")
            .take_while(|line| line.starts_with('#'))
            .map(|line| line.trim_start_matches('#').trim_start())
            .collect();
        let config: Config = toml::from_str(&uncommented.join("\n")).unwrap();
        assert_eq!(config.source.len(), 2);
        let plan = check(config, EncoderShape { side: 32, features: 128, parameters: 1 });
        assert!(plan.is_ok(), "{plan:?}");
    }
}
