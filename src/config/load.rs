//! Settings from their four places: defaults, then TOML files, then the environment, then flags; the later wins.
//!
//! A file is parsed with `toml` itself, so that a mistake is shown with its line, column and caret. A variable is named
//! `LUMPD__SECTION__KEY`, a flag `--set section.key=value`. Whether the values make sense together is for `check` to say.
//!
//! ```
//! use lumpd::config::{Flags, Origin, load};
//! let flags = Flags { settings: vec![("--set".into(), "replay.slots=512".into())], ..Flags::default() };
//! let loaded = load(&[], std::iter::empty(), &flags).unwrap();
//! assert_eq!(loaded.config.replay.slots, 512);
//! assert_eq!(loaded.origin("learn.batch"), &Origin::Default);
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::nearest::did_you_mean;
use super::settings::{Config, SourceSettings};

const PREFIX: &str = "LUMPD__";

/// Where a value was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    /// Line counted from 1.
    File {
        path: PathBuf,
        line: usize,
    },
    Environment {
        variable: String,
    },
    Flag {
        flag: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment { variable } => f.write_str(variable),
            Self::Flag { flag } => f.write_str(flag),
        }
    }
}

/// What the command line sets.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// The flag's name for messages, and `section.key=value`; later ones win.
    pub settings: Vec<(String, String)>,
    /// Sources in addition to those of the files, with the flag that names them.
    pub sources: Vec<(String, SourceSettings)>,
}

/// The settings, and where each came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    /// Dotted key, such as `replay.slots` or `source.0.path`, of everything that is not a default.
    pub origins: BTreeMap<String, Origin>,
}

impl Loaded {
    /// Where the value of a dotted key was set. A flag sets a source as a whole: then that holds for each of its keys.
    pub fn origin(&self, key: &str) -> &Origin {
        let whole = || key.rsplit_once('.').and_then(|(parent, _)| self.origins.get(parent));
        self.origins.get(key).or_else(whole).unwrap_or(&Origin::Default)
    }
}

/// Why the settings could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    #[error("the configuration file {} cannot be read ({source}): check that it exists and may be read", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    /// `detail` holds line, column and caret.
    #[error("in the configuration file {}: {detail}", path.display())]
    File { path: PathBuf, detail: String },
    #[error("{origin} sets {key} to `{value}`, which is not possible: {detail}")]
    Value { origin: Origin, key: String, value: String, detail: String },
    #[error("{flag} `{text}` is not of the form section.key=value, as in {flag} replay.slots=512")]
    Form { flag: String, text: String },
    #[error("the variable {variable} is not valid UTF-8: set it to readable text, or unset it")]
    NotText { variable: String },
}

impl LoadError {
    /// Stable, for machines.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "config-unreadable",
            Self::File { .. } => "config-file-invalid",
            Self::Value { .. } => "config-value-invalid",
            Self::Form { .. } => "config-flag-malformed",
            Self::NotText { .. } => "config-variable-not-text",
        }
    }
}

/// The file read where none is named: the user's, else the machine's, else none.
pub fn default_file() -> Option<PathBuf> {
    let home = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")));
    let user = home.map(|dir| dir.join("lumpd/lumpd.toml"));
    user.into_iter().chain([PathBuf::from("/etc/lumpd/lumpd.toml")]).find(|path| path.exists())
}

/// Overlays `files` in order, then the variables that begin with `LUMPD__`, then `flags`, on the defaults.
///
/// # Errors
/// The first value that cannot be read or is not of its key's type, or the first unknown key, with its place.
pub fn load(
    files: &[PathBuf],
    environment: impl IntoIterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
    flags: &Flags,
) -> Result<Loaded, LoadError> {
    let mut overlay = Overlay::default();
    for path in files {
        overlay.file(path)?;
    }
    let mut variables = Vec::new();
    for (name, value) in environment {
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
        let value = value.into_string().map_err(|_| LoadError::NotText { variable: name.into() })?;
        variables.push((name.to_string(), value));
    }
    // The order of the environment is arbitrary, and so would be the first error.
    variables.sort();
    for (variable, value) in variables {
        let key = variable[PREFIX.len()..].to_lowercase().replace("__", ".");
        overlay.value(&key, &value, Origin::Environment { variable })?;
    }
    for (flag, text) in &flags.settings {
        let form = || LoadError::Form { flag: flag.clone(), text: text.clone() };
        let (key, value) = text.split_once('=').ok_or_else(form)?;
        overlay.value(key.trim(), value.trim(), Origin::Flag { flag: flag.clone() })?;
    }
    let mut loaded = Loaded { config: overlay.config()?, origins: overlay.origins };
    for (flag, source) in &flags.sources {
        let key = format!("source.{}", loaded.config.source.len());
        loaded.config.source.push(source.clone());
        loaded.origins.insert(key, Origin::Flag { flag: flag.clone() });
    }
    Ok(loaded)
}

/// The values set so far, still as text would have them.
#[derive(Default)]
struct Overlay {
    table: Table,
    origins: BTreeMap<String, Origin>,
}

impl Overlay {
    fn file(&mut self, path: &Path) -> Result<(), LoadError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| LoadError::Unreadable { path: path.to_path_buf(), source })?;
        let wrong = |error: toml::de::Error| LoadError::File {
            path: path.to_path_buf(),
            detail: with_suggestion(error.to_string().trim_end(), error.message()),
        };
        // The typed parse finds every mistake with its place; what it read is thrown away, since it has the defaults in it.
        toml::from_str::<Config>(&text).map_err(wrong)?;
        let spans = DeTable::parse(&text).map_err(wrong)?;
        if spans.get_ref().contains_key("source") {
            // A list replaces the list below it whole.
            self.origins.retain(|key, _| !key.starts_with("source."));
        }
        self.note_table(spans.get_ref(), String::new(), &|at| Origin::File {
            path: path.to_path_buf(),
            line: text[..at].matches('\n').count() + 1,
        });
        merge(&mut self.table, toml::from_str(&text).map_err(wrong)?);
        Ok(())
    }

    /// Notes the origin of every leaf of a parsed file.
    fn note_table(&mut self, table: &DeTable<'_>, prefix: String, origin: &dyn Fn(usize) -> Origin) {
        for (key, value) in table {
            let key = format!("{prefix}{}", key.get_ref());
            self.note(value.get_ref(), key, value.span().start, origin);
        }
    }

    fn note(&mut self, value: &DeValue<'_>, key: String, at: usize, origin: &dyn Fn(usize) -> Origin) {
        match value {
            DeValue::Table(table) => self.note_table(table, format!("{key}."), origin),
            DeValue::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.note(item.get_ref(), format!("{key}.{index}"), item.span().start, origin);
                }
            }
            _ => {
                self.origins.insert(key, origin(at));
            }
        }
    }

    /// Sets one value from text: as TOML where that fits the key's type, else as a string, so that quotes may be left out.
    fn value(&mut self, key: &str, text: &str, origin: Origin) -> Result<(), LoadError> {
        let fail =
            |detail: String| LoadError::Value { origin: origin.clone(), key: key.into(), value: text.into(), detail };
        let Some((section, name)) = key.split_once('.').filter(|(section, _)| *section != "source") else {
            return Err(fail(match key.starts_with("source") {
                true => "sources are set in a file, or with --watch, --unix and --tcp".into(),
                false => "a key has a section, as in `replay.slots`".into(),
            }));
        };
        let parsed =
            toml::from_str::<Table>(&format!("value = {text}")).ok().and_then(|mut table| table.remove("value"));
        let mut first_error = None;
        for candidate in parsed.into_iter().chain([Value::String(text.into())]) {
            let mut table = self.table.clone();
            let change = Table::from_iter([(name.to_string(), candidate)]);
            merge(&mut table, Table::from_iter([(section.to_string(), Value::Table(change))]));
            match Config::deserialize_from(table.clone()) {
                Ok(_) => {
                    self.table = table;
                    self.origins.insert(key.into(), origin);
                    return Ok(());
                }
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        let message = first_error.map(|error| error.message().to_string()).unwrap_or_default();
        Err(fail(with_suggestion(&message, &message)))
    }

    fn config(&self) -> Result<Config, LoadError> {
        // Every part was read once before it was merged, so this cannot fail; if it does, it is told and not hidden.
        Config::deserialize_from(self.table.clone()).map_err(|error| LoadError::Value {
            origin: Origin::Default,
            key: "the merged configuration".into(),
            value: self.table.to_string(),
            detail: error.to_string(),
        })
    }
}

impl Config {
    fn deserialize_from(table: Table) -> Result<Self, toml::de::Error> {
        Value::Table(table).try_into()
    }
}

/// Lays `over` on `base`: tables key by key, anything else (lists, too) whole.
fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => merge(below, above),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

fn with_suggestion(shown: &str, message: &str) -> String {
    match did_you_mean(message) {
        Some(name) => format!("{shown}\ndid you mean `{name}`?"),
        None => shown.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn load_file(text: &str) -> Result<Loaded, LoadError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lumpd.toml");
        std::fs::write(&path, text).unwrap();
        load(&[path], [], &Flags::default())
    }

    fn variable(name: &str, value: &str) -> (OsString, OsString) {
        (name.into(), value.into())
    }

    fn set(text: &str) -> Flags {
        Flags { settings: vec![("--set".into(), text.into())], ..Flags::default() }
    }

    fn assert_says(error: LoadError, parts: &[&str]) {
        let text = error.to_string();
        for part in parts {
            assert!(text.contains(part), "no {part:?} in:\n{text}");
        }
    }

    #[test]
    fn later_places_win_and_each_value_knows_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.toml");
        std::fs::write(&path, "[replay]\nslots = 100\ncommit_frames = 8\n\n[learn]\nbatch = 32\n").unwrap();
        let environment = [variable("LUMPD__REPLAY__SLOTS", "200"), variable("LUMPD__LEARN__BATCH", "16")];
        let loaded = load(std::slice::from_ref(&path), environment, &set("replay.slots=300")).unwrap();
        assert_eq!(loaded.config.replay.slots, 300);
        assert_eq!(loaded.config.replay.commit_frames, 8);
        assert_eq!(loaded.config.learn.batch, 16);
        assert_eq!(loaded.origin("replay.slots"), &Origin::Flag { flag: "--set".into() });
        assert_eq!(loaded.origin("replay.commit_frames"), &Origin::File { path, line: 3 });
        assert_eq!(loaded.origin("learn.batch"), &Origin::Environment { variable: "LUMPD__LEARN__BATCH".into() });
        assert_eq!(loaded.origin("learn.momentum"), &Origin::Default);
    }

    #[test]
    fn an_unknown_key_is_shown_with_line_column_caret_and_the_nearest_known_one() {
        let error = load_file("[replay]\npolicy = \"reservoir\"\nslotz = 5\n").unwrap_err();
        assert_eq!(error.code(), "config-file-invalid");
        assert_says(error, &["line 3, column 1", "3 | slotz = 5", "^^^^^", "did you mean `slots`?"]);
    }

    #[test]
    fn a_wrong_type_is_shown_with_line_column_and_caret() {
        let error = load_file("[learn]\nbatch = \"many\"\n").unwrap_err();
        assert_says(error, &["line 2, column 9", "^^^^^^", "expected usize"]);
    }

    #[test]
    fn a_source_is_shown_with_line_column_and_caret_too() {
        let first = "[[source]]\nname = \"a\"\nkind = \"tcp\"\nlisten = \"127.0.0.1:1\"\n\n[[source]]\nname = \"b\"\n";
        let error = load_file(&format!("{first}kind = \"directory\"\npth = \"x\"\n")).unwrap_err();
        assert_says(error, &["line 9, column 1", "^^^", "did you mean `path`?"]);
        let error = load_file(&format!("{first}kind = \"directory\"\nrecursive = 3\n")).unwrap_err();
        assert_says(error, &["line 9, column 13", "expected a boolean"]);
        let error = load_file(&format!("{first}kind = \"direktory\"\n")).unwrap_err();
        assert_says(error, &["line 8, column 8", "did you mean `directory`?"]);
        let error = load_file(first).unwrap_err();
        assert_says(error, &["line 6, column 1", "missing field `kind`"]);
    }

    #[test]
    fn a_variable_in_error_is_named() {
        let none = &Flags::default();
        let error = load(&[], [variable("LUMPD__REPLAY__SLOTS", "many")], none).unwrap_err();
        assert_says(error, &["LUMPD__REPLAY__SLOTS", "replay.slots", "`many`", "expected usize"]);
        let error = load(&[], [variable("LUMPD__REPLAY__SLOT", "1")], none).unwrap_err();
        assert_says(error, &["LUMPD__REPLAY__SLOT ", "did you mean `slots`?"]);
        let error = load(&[], [variable("LUMPD__SOURCE__PATH", "x")], none).unwrap_err();
        assert_says(error, &["LUMPD__SOURCE__PATH", "--watch"]);
        assert!(load(&[], [variable("LUMPD_CONFIG", "not ours"), variable("HOME", "x")], none).is_ok());
    }

    #[test]
    fn a_flag_in_error_is_named() {
        assert_says(load(&[], [], &set("replay.slots")).unwrap_err(), &["--set", "section.key=value"]);
        assert_says(load(&[], [], &set("slots=3")).unwrap_err(), &["--set", "a key has a section"]);
        assert_says(load(&[], [], &set("reply.slots=3")).unwrap_err(), &["--set", "did you mean `replay`?"]);
    }

    #[test]
    fn a_value_from_text_takes_the_type_of_its_key() {
        let get = |text: &str| load(&[], [], &set(text)).unwrap().config;
        assert_eq!(get("encoder.preset=7").encoder.preset, "7");
        assert_eq!(get("encoder.preset=\"resnet18\"").encoder.preset, "resnet18");
        assert_eq!(get("learn.objective=barlow").learn.objective, crate::config::ObjectiveKind::Barlow);
        assert_eq!(get("learn.learning_rate=1").learn.learning_rate, 1.0);
        assert_eq!(get("serve.socket=/run/l.sock").serve.socket, Some("/run/l.sock".into()));
    }

    #[test]
    fn an_absent_file_is_named_with_what_to_do() {
        let error = load(&["nowhere/lumpd.toml".into()], [], &Flags::default()).unwrap_err();
        assert_eq!(error.code(), "config-unreadable");
        assert_says(error, &["nowhere/lumpd.toml", "check that it exists"]);
    }
}
