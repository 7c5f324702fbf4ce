//! Other settings for a daemon that runs: what can be taken over at once, and what needs a restart.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::Config;

/// What takes effect while the daemon runs. Everything else is given to threads, files and listeners when they are made.
const HOT: [&str; 12] = [
    "learn.steps_per_batch",
    "learn.idle_steps_per_second",
    "learn.idle_after_seconds",
    "publish.interval_seconds",
    "publish.at_task_boundary",
    "knn.k",
    "knn.temperature",
    "checkpoint.interval_seconds",
    "serve.read_token_file",
    "serve.ingest_token_file",
    "serve.admin_token_file",
    "log.filter",
];

/// What a reload comes to.
#[derive(Debug, Clone, PartialEq)]
pub struct Reload {
    /// The running settings with those of the new ones that can be taken over.
    pub config: Config,
    /// Keys that are taken over.
    pub applied: Vec<String>,
    /// Keys that differ and count from the next start on.
    pub restart: Vec<String>,
}

impl Reload {
    /// In one line for people.
    ///
    /// ```
    /// use lumpd::config::{Config, Reload};
    /// let (applied, restart) = (vec!["knn.k".into()], vec!["replay.slots".into(), "decode.fit".into()]);
    /// let found = Reload { config: Config::default(), applied, restart };
    /// assert_eq!(found.summary(), "knn.k taken over; replay.slots, decode.fit: from the next start on");
    /// ```
    pub fn summary(&self) -> String {
        let taken = (!self.applied.is_empty()).then(|| format!("{} taken over", self.applied.join(", ")));
        let later = (!self.restart.is_empty()).then(|| format!("{}: from the next start on", self.restart.join(", ")));
        let parts: Vec<String> = [taken, later].into_iter().flatten().collect();
        if parts.is_empty() { "nothing has changed".into() } else { parts.join("; ") }
    }
}

/// Compares the settings of a running daemon with those it is to have.
///
/// ```
/// use lumpd::config::{Config, reload};
/// let running = Config::default();
/// let mut wanted = running.clone();
/// (wanted.knn.k, wanted.replay.slots) = (5, 512);
/// let found = reload(&running, &wanted);
/// assert_eq!((found.applied, found.restart), (vec!["knn.k".to_owned()], vec!["replay.slots".to_owned()]));
/// assert_eq!((found.config.knn.k, found.config.replay.slots), (5, running.replay.slots));
/// ```
pub fn reload(running: &Config, wanted: &Config) -> Reload {
    let (old, new) = (flat(running), flat(wanted));
    let keys: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let differing = keys.into_iter().filter(|key| old.get(*key) != new.get(*key)).cloned();
    let (applied, restart): (Vec<String>, Vec<String>) = differing.partition(|key| HOT.contains(&key.as_str()));
    let mut table = tables(running);
    for key in &applied {
        set(&mut table, key, new.get(key));
    }
    // Both are settings already, so that what is put together from them is, too.
    let config = Value::Table(table).try_into().unwrap_or_else(|_| running.clone());
    Reload { config, applied, restart }
}

fn tables(config: &Config) -> Table {
    // Settings are what TOML can say; an empty table would compare as "nothing is set".
    Table::try_from(config).unwrap_or_default()
}

/// Every setting by its dotted key, such as `replay.slots` or `source.0.path`. What is not set is left out.
pub fn flat(config: &Config) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    collect("", &Value::Table(tables(config)), &mut found);
    found
}

fn collect(prefix: &str, value: &Value, found: &mut BTreeMap<String, Value>) {
    let key = |name: &str| if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
    match value {
        Value::Table(table) => table.iter().for_each(|(name, value)| collect(&key(name), value, found)),
        Value::Array(list) if list.iter().any(Value::is_table) => {
            list.iter().enumerate().for_each(|(at, value)| collect(&key(&at.to_string()), value, found));
        }
        other => _ = found.insert(prefix.to_owned(), other.clone()),
    }
}

/// Sets `section.key`, or unsets it.
fn set(table: &mut Table, key: &str, value: Option<&Value>) {
    let Some((section, name)) = key.split_once('.') else { return };
    let Some(Value::Table(section)) = table.get_mut(section) else { return };
    match value {
        Some(value) => _ = section.insert(name.into(), value.clone()),
        None => _ = section.remove(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hot_key_is_a_setting() {
        let mut config = Config::default();
        let file = || Some("s".into());
        (config.serve.read_token_file, config.serve.ingest_token_file) = (file(), file());
        config.serve.admin_token_file = file();
        let known = flat(&config);
        for key in HOT {
            assert!(known.contains_key(key), "{key}");
        }
    }

    #[test]
    fn equal_settings_change_nothing_and_what_is_unset_is_taken_away() {
        let mut running = Config::default();
        running.serve.read_token_file = Some("r".into());
        assert_eq!(reload(&running, &running), Reload { config: running.clone(), applied: vec![], restart: vec![] });
        let found = reload(&running, &Config::default());
        assert_eq!((found.config.serve.read_token_file, found.applied.len()), (None, 1));
    }

    #[test]
    fn another_source_needs_a_restart_and_is_named() {
        let text = "[[source]]\nname = \"a\"\nkind = \"tcp\"\nlisten = \"127.0.0.1:1\"";
        let found = reload(&Config::default(), &toml::from_str(text).unwrap());
        assert!(found.applied.is_empty());
        assert!(found.restart.contains(&"source.0.name".to_owned()), "{:?}", found.restart);
    }
}
