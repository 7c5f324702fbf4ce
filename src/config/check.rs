//! From settings to a plan: every value checked in one pass, so that one run names all that is wrong.
//!
//! Nothing outside the settings is looked at here; folders, free space and ports are for [`probe`](super::probe()).
//!
//! ```
//! use lumpd::config::{Config, EncoderShape, check};
//! let encoder = EncoderShape { side: 32, features: 128, parameters: 700_000 };
//! let mut config = Config::default();
//! assert!(check(config.clone(), encoder).is_ok());
//! config.learn.batch = 1;
//! config.replay.slots = 0;
//! let problems = check(config, encoder).unwrap_err();
//! assert_eq!(problems.iter().filter(|problem| problem.is_error()).count(), 2);
//! ```

use std::collections::HashMap;
use std::fmt::Display;

use super::plan::{Budget, EncoderShape, Plan};
use super::problem::Problem;
use super::settings::{
    AfterKind, CheckpointSettings, Config, DaemonSettings, DecodeSettings, EncoderLayer, EncoderSettings,
    EvaluateSettings, KnnSettings, LearnSettings, ObjectiveKind, PublishSettings, ReplaySettings, SegmentSettings,
    ServeSettings, SourceKind, SourceSettings, WhenFull,
};

/// Checks every setting; `encoder` is the shape of the preset that `config.encoder` names.
///
/// # Errors
/// All problems found, warnings among them, where at least one is an error.
pub fn check(config: Config, encoder: EncoderShape) -> Result<Plan, Vec<Problem>> {
    let mut found = Findings::default();
    found.daemon(&config.daemon);
    found.sources(&config.source, &config.decode);
    found.decode(&config.decode);
    found.segment(&config.segment);
    found.replay(&config.replay);
    found.encoder(&config.encoder, &config.learn);
    found.learn(&config.learn, &config.replay);
    found.publish(&config.publish);
    found.knn(&config.knn, &config.replay);
    found.evaluate(&config.evaluate);
    found.step_locked(&config.learn, &config.evaluate);
    found.checkpoint(&config.checkpoint);
    found.serve(&config.serve);
    found.log_filter(&config.log.filter);
    if found.problems.iter().any(Problem::is_error) {
        return Err(found.problems);
    }
    let budget = Budget::of(&config, encoder);
    Ok(Plan { config, encoder, budget, warnings: found.problems })
}

#[derive(Default)]
struct Findings {
    problems: Vec<Problem>,
}

impl Findings {
    fn range<T: PartialOrd + Display>(&mut self, key: &str, value: T, low: T, high: T) {
        // Written so that NaN, which compares with nothing, is out of range.
        if !(value >= low && value <= high) {
            let message = format!("must be from {low} to {high}");
            self.problems.push(Problem::error("out-of-range", key, value, message));
        }
    }

    fn at_least<T: PartialOrd + Display>(&mut self, key: &str, value: T, low: T) {
        if value < low {
            let message = format!("must be at least {low}");
            self.problems.push(Problem::error("out-of-range", key, value, message));
        }
    }

    fn positive(&mut self, key: &str, value: f64) {
        if !(value > 0.0 && value.is_finite()) {
            self.problems.push(Problem::error("out-of-range", key, value, "must be above 0 and finite"));
        }
    }

    /// A length of time: `Duration::from_secs_f64` panics beyond some 10^19 seconds, and a year is long enough.
    fn seconds(&mut self, key: &str, value: f64) {
        const YEAR: f64 = 365.0 * 86_400.0;
        self.range(key, value, 0.001, YEAR);
    }

    fn warn(&mut self, code: &'static str, key: &str, value: impl Display, message: String) {
        self.problems.push(Problem::warning(code, key, value, message));
    }

    fn daemon(&mut self, daemon: &DaemonSettings) {
        if !daemon.state_dir.is_absolute() {
            let message =
                "a relative folder depends on where lumpd is started; better give it from the root".to_string();
            self.warn("relative-path", "daemon.state_dir", daemon.state_dir.display(), message);
        }
        self.range("daemon.threads", daemon.threads, 0, 1024);
        self.seconds("daemon.drain_seconds", daemon.drain_seconds);
    }

    fn sources(&mut self, sources: &[SourceSettings], decode: &DecodeSettings) {
        if sources.is_empty() {
            let message = "no source is configured: images can come only through HTTP POST".to_string();
            self.warn("no-source", "source", "[]", message);
        }
        self.range("source", sources.len(), 0, MOST_SOURCES);
        let mut names = HashMap::new();
        let mut places = HashMap::new();
        for (index, source) in sources.iter().enumerate() {
            self.source(index, source, decode);
            if let Some(first) = names.insert(source.name.as_str(), index) {
                let message = format!("source {first} has this name, too: give each source a name of its own");
                self.problems.push(Problem::error("name-taken", key(index, "name"), &source.name, message));
            }
            let place = source.path.as_ref().map(|path| path.display().to_string());
            let place =
                place.or(source.listen.filter(|address| address.port() != 0).map(|address| address.to_string()));
            let Some(place) = place else { continue };
            if let Some(first) = places.insert(place.clone(), index) {
                let message = format!("source {first} reads from here, too: every image would come twice");
                self.problems.push(Problem::error("place-taken", format!("source.{index}"), place, message));
            }
        }
    }

    fn source(&mut self, index: usize, source: &SourceSettings, decode: &DecodeSettings) {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if source.name.is_empty() || source.name.len() > 64 || !source.name.chars().all(plain) {
            let message = "a name has 1 to 64 letters, digits, `-`, `_` and `.`";
            self.problems.push(Problem::error("bad-name", key(index, "name"), &source.name, message));
        }
        if source.name == HTTP_SOURCE {
            let message = "this is the name of what comes through HTTP POST: choose another";
            self.problems.push(Problem::error("name-taken", key(index, "name"), &source.name, message));
        }
        let (path, listen) = match source.kind {
            SourceKind::Directory | SourceKind::Unix => (true, false),
            SourceKind::Tcp => (false, true),
        };
        self.belongs(index, source, "path", path, source.path.as_ref().map(|path| path.display().to_string()));
        self.belongs(index, source, "listen", listen, source.listen.map(|address| address.to_string()));
        if let Some(address) = source.listen.filter(|address| !address.ip().is_loopback()) {
            let message = "frames are taken from this machine only: listen on 127.0.0.1 or [::1]";
            self.problems.push(Problem::error("not-loopback", key(index, "listen"), address, message));
        }
        let directory = source.kind == SourceKind::Directory;
        let (after, full) = (source.after != AfterKind::Keep, source.when_full == WhenFull::DropNewest);
        self.misplaced(index, source, "after", after && !directory);
        self.misplaced(index, source, "when_full", full && directory);
        self.misplaced(index, source, "done", source.done.is_some() && !(directory && source.after == AfterKind::Move));
        self.range(&key(index, "poll_seconds"), source.poll_seconds, 0.05, 86_400.0);
        if source.queue_bytes < decode.max_bytes / 2 {
            let message =
                format!("an image may have {} bytes (decode.max_bytes) and would wait alone", decode.max_bytes);
            self.warn("small-queue", &key(index, "queue_bytes"), source.queue_bytes, message);
        }
        self.at_least(&key(index, "queue_bytes"), source.queue_bytes, 1 << 16);
    }

    fn misplaced(&mut self, index: usize, source: &SourceSettings, name: &str, wrong: bool) {
        if wrong {
            let message = match name {
                "after" => "only files of a directory can be moved or deleted: remove it",
                "when_full" => "a folder is its own queue and loses nothing by waiting: remove it, or use \"block\"",
                _ => "goes with kind = \"directory\" and after = \"move\" only: remove it",
            };
            self.problems.push(Problem::error("key-misplaced", key(index, name), &source.name, message));
        }
    }

    fn belongs(&mut self, index: usize, source: &SourceSettings, name: &str, needed: bool, value: Option<String>) {
        let kind = format!("{:?}", source.kind).to_lowercase();
        match (needed, value) {
            (true, None) => {
                let message = format!("a source of kind `{kind}` needs `{name}`");
                self.problems.push(Problem::error("key-missing", key(index, name), "(not set)", message));
            }
            (false, Some(value)) => {
                let message = format!("a source of kind `{kind}` has no `{name}`: remove it, or change the kind");
                self.problems.push(Problem::error("key-misplaced", key(index, name), value, message));
            }
            _ => {}
        }
    }

    fn decode(&mut self, decode: &DecodeSettings) {
        self.range("decode.max_bytes", decode.max_bytes, 1 << 10, 1 << 30);
        self.range("decode.max_side_pixels", decode.max_side_pixels, 16, 65_535);
        self.range("decode.max_pixels", decode.max_pixels, 256, 1 << 30);
    }

    fn segment(&mut self, segment: &SegmentSettings) {
        let frames = segment.mean_frames_between_false_alarms;
        self.range("segment.mean_frames_between_false_alarms", frames, 100, 1_000_000_000_000);
        if let Some(hours) = segment.mean_hours_between_false_alarms {
            self.range("segment.mean_hours_between_false_alarms", hours, 0.01, 1_000_000.0);
        }
        self.range("segment.max_tasks", segment.max_tasks, 2, 4096);
    }

    fn replay(&mut self, replay: &ReplaySettings) {
        self.range("replay.slots", replay.slots, 1, 1 << 28);
        self.range("replay.commit_frames", replay.commit_frames, 1, 4096);
        self.range("replay.duplicate_window", replay.duplicate_window, 0, 1 << 24);
    }

    fn encoder(&mut self, encoder: &EncoderSettings, learn: &LearnSettings) {
        let freeze = &encoder.freeze;
        let shown = || format!("{:?}", freeze.iter().map(|layer| layer.name()).collect::<Vec<_>>());
        if let Some(twice) = freeze.iter().enumerate().find(|(at, layer)| freeze[..*at].contains(layer)) {
            let message = format!("names {} twice: name each layer once", twice.1.name());
            self.problems.push(Problem::error("layer-twice", "encoder.freeze", shown(), message));
        }
        if EncoderLayer::ALL.iter().all(|layer| freeze.contains(layer)) {
            let message = "freezes the whole encoder, which would learn nothing: leave out at least layer4";
            self.problems.push(Problem::error("all-frozen", "encoder.freeze", shown(), message));
        }
        if !freeze.is_empty() && encoder.weights.is_none() {
            let message = "without encoder.weights, a new encoder's frozen layers stay random".to_string();
            self.warn("random-frozen", "encoder.freeze", shown(), message);
        }
        let factor = learn.given_rate_factor;
        self.range("learn.given_rate_factor", factor, 0.0, 100.0);
        if factor != 1.0 && encoder.weights.is_none() {
            let message = "has no effect on an encoder that did not start from encoder.weights".to_string();
            self.warn("nothing-given", "learn.given_rate_factor", factor, message);
        }
    }

    fn learn(&mut self, learn: &LearnSettings, replay: &ReplaySettings) {
        // Batch normalisation has no variance, and SimCLR no other image, in a batch of one.
        self.range("learn.batch", learn.batch, 2, 4096);
        self.range("learn.replay_batch", learn.replay_batch, 0, 4096);
        if learn.replay_batch > replay.slots {
            let message =
                format!("the buffer holds only {} images (replay.slots): a batch would repeat some", replay.slots);
            self.warn("large-replay-batch", "learn.replay_batch", learn.replay_batch, message);
        }
        self.range("learn.steps_per_batch", learn.steps_per_batch, 1, 1000);
        self.range("learn.idle_steps_per_second", learn.idle_steps_per_second, 0.0, 1000.0);
        self.seconds("learn.idle_after_seconds", learn.idle_after_seconds);
        self.positive("learn.learning_rate", learn.learning_rate);
        self.range("learn.momentum", learn.momentum, 0.0, 0.9999);
        self.range("learn.weight_decay", learn.weight_decay, 0.0, 1.0);
        self.range("learn.mix_alpha", learn.mix_alpha, 0.001, 1000.0);
        let weights = [
            ("learn.si_weight", learn.si_weight),
            ("learn.der_weight", learn.der_weight),
            ("learn.distil_weight", learn.distil_weight),
            ("learn.align_weight", learn.align_weight),
        ];
        weights.into_iter().for_each(|(key, weight)| self.range(key, weight, 0.0, 1e6));
        self.range("learn.ema_decay", learn.ema_decay, 0.0, 1.0);
        self.range("learn.classes", learn.classes, 1, 1_000_000);
        if let Some(why) = learn.strategy.refused_on_a_stream() {
            let message = format!("is for experiments only (lumpd experiment): {why}");
            self.problems.push(Problem::error("not-on-a-stream", "learn.strategy", name_of(&learn.strategy), message));
        }
        if learn.objective == ObjectiveKind::Supervised {
            let message = "is for experiments only (lumpd experiment): a stream has no labels";
            let name = name_of(&learn.objective);
            self.problems.push(Problem::error("not-on-a-stream", "learn.objective", name, message));
        }
    }

    fn publish(&mut self, publish: &PublishSettings) {
        self.seconds("publish.interval_seconds", publish.interval_seconds);
    }

    fn knn(&mut self, knn: &KnnSettings, replay: &ReplaySettings) {
        self.range("knn.k", knn.k, 1, 1000);
        if knn.k > replay.slots {
            let message = format!("only {} images are kept (replay.slots): answers will be shorter", replay.slots);
            self.warn("large-k", "knn.k", knn.k, message);
        }
        // Below, exp(1 / temperature) leaves the range of a float.
        self.range("knn.temperature", knn.temperature, 0.005, 100.0);
    }

    fn evaluate(&mut self, evaluate: &EvaluateSettings) {
        self.range("evaluate.probes_per_task", evaluate.probes_per_task, 2, 100_000);
        self.range("evaluate.max_probes", evaluate.max_probes, 2, 1_000_000);
        if evaluate.max_probes < evaluate.probes_per_task {
            let message = format!("is below evaluate.probes_per_task = {}: raise it", evaluate.probes_per_task);
            let problem = Problem::error("out-of-range", "evaluate.max_probes", evaluate.max_probes, message);
            self.problems.push(problem);
        }
        self.range("evaluate.holdout_ratio", evaluate.holdout_ratio, 0.0, 0.5);
        self.range("evaluate.history", evaluate.history, 1, 100_000);
    }

    fn step_locked(&mut self, learn: &LearnSettings, evaluate: &EvaluateSettings) {
        if learn.step_locked && evaluate.holdout_ratio > 0.0 {
            let message = "learn.step_locked needs 0: which images are held out depends on the tasks found so far";
            let (key, value) = ("evaluate.holdout_ratio", evaluate.holdout_ratio);
            self.problems.push(Problem::error("not-step-locked", key, value, message));
        }
    }

    fn checkpoint(&mut self, checkpoint: &CheckpointSettings) {
        self.seconds("checkpoint.interval_seconds", checkpoint.interval_seconds);
        self.range("checkpoint.keep", checkpoint.keep, 1, 1000);
        self.at_least("checkpoint.max_bytes", checkpoint.max_bytes, 1);
        if checkpoint.keep == 1 {
            let message = "where the only checkpoint is damaged, what was learnt is lost: keep at least 2".to_string();
            self.warn("single-checkpoint", "checkpoint.keep", 1, message);
        }
    }

    fn serve(&mut self, serve: &ServeSettings) {
        let exposed = !serve.listen.ip().is_loopback();
        if exposed && !serve.has_token() {
            let message = "other machines could ask, and no token says who may: use 127.0.0.1 or [::1], or set \
                           serve.admin_token_file";
            self.problems.push(Problem::error("not-loopback", "serve.listen", serve.listen, message));
        }
        if exposed && serve.listen.ip().is_unspecified() && serve.hosts.is_empty() {
            let message = "requests from other machines are refused unless serve.hosts names this one as they call it";
            self.warn("no-hosts", "serve.listen", serve.listen, message.into());
        }
        for (index, name) in serve.hosts.iter().enumerate() {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-.:[]".contains(c);
            if name.is_empty() || name.len() > 255 || !name.chars().all(plain) {
                let message = "a host is a name or an address, with a port or without: no scheme, no path, no `*`";
                self.problems.push(Problem::error("bad-host", format!("serve.hosts.{index}"), name, message));
            }
        }
        if !(serve.requests_per_second >= 0.0 && serve.requests_per_second.is_finite()) {
            let message = "a number of requests, or 0 for no limit";
            let value = serve.requests_per_second;
            self.problems.push(Problem::error("out-of-range", "serve.requests_per_second", value, message));
        }
        self.range("serve.max_connections", serve.max_connections, 1, 65_536);
        self.seconds("serve.request_seconds", serve.request_seconds);
    }

    fn log_filter(&mut self, filter: &str) {
        if let Err(error) = filter.parse::<tracing_subscriber::filter::Targets>() {
            let message = format!("{error}: use a level such as `info`, or `info,lumpd::stream=debug`");
            self.problems.push(Problem::error("bad-filter", "log.filter", filter, message));
        }
    }
}

/// The source name of what comes through HTTP POST.
pub const HTTP_SOURCE: &str = "http";

/// Below the number of values that a metric's label may take.
const MOST_SOURCES: usize = 100;

/// As a configuration file has it.
fn name_of(kind: &impl serde::Serialize) -> String {
    toml::Value::try_from(kind).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn key(index: usize, name: &str) -> String {
    format!("source.{index}.{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENCODER: EncoderShape = EncoderShape { side: 32, features: 128, parameters: 700_000 };

    fn problems(text: &str) -> Vec<(String, &'static str)> {
        let config: Config = toml::from_str(text).unwrap();
        let problems = match check(config, ENCODER) {
            Ok(plan) => plan.warnings,
            Err(problems) => problems,
        };
        problems.into_iter().map(|problem| (problem.key, problem.code)).collect()
    }

    fn assert_problem(text: &str, key: &str, code: &str) {
        let found = problems(text);
        assert!(found.iter().any(|(k, c)| k == key && *c == code), "{text}: {found:?}");
    }

    const HERE: &str =
        "[daemon]\nstate_dir = \"/s\"\n[[source]]\nname = \"a\"\nkind = \"tcp\"\nlisten = \"127.0.0.1:0\"\n";

    #[test]
    fn a_sound_configuration_has_no_problem() {
        assert_eq!(problems(HERE), []);
    }

    #[test]
    fn everything_wrong_is_found_in_one_pass() {
        let found =
            problems("[learn]\nbatch = 1\nlearning_rate = nan\n[replay]\nslots = 0\n[serve]\nlisten = \"0.0.0.0:1\"");
        for key in ["learn.batch", "learn.learning_rate", "replay.slots", "serve.listen"] {
            assert!(found.iter().any(|(k, _)| k == key), "{key} not in {found:?}");
        }
    }

    #[test]
    fn a_source_has_the_keys_of_its_kind_and_no_other() {
        let source = |rest: &str| format!("[[source]]\nname = \"a\"\n{rest}");
        assert_problem(&source("kind = \"directory\""), "source.0.path", "key-missing");
        assert_problem(&source("kind = \"tcp\""), "source.0.listen", "key-missing");
        assert_problem(
            &source("kind = \"unix\"\npath = \"p\"\nlisten = \"[::1]:1\""),
            "source.0.listen",
            "key-misplaced",
        );
        assert_problem(&source("kind = \"tcp\"\nlisten = \"10.0.0.1:1\""), "source.0.listen", "not-loopback");
    }

    #[test]
    fn what_happens_to_files_and_to_frames_beyond_the_queue_is_set_where_it_makes_sense() {
        let source = |rest: &str| format!("[[source]]\nname = \"a\"\npath = \"p\"\n{rest}");
        assert_problem(&source("kind = \"unix\"\nafter = \"delete\""), "source.0.after", "key-misplaced");
        assert_problem(
            &source("kind = \"directory\"\nwhen_full = \"drop_newest\""),
            "source.0.when_full",
            "key-misplaced",
        );
        assert_problem(&source("kind = \"directory\"\ndone = \"d\""), "source.0.done", "key-misplaced");
        let sound = source("kind = \"directory\"\nafter = \"move\"\ndone = \"d\"");
        assert!(problems(&sound).iter().all(|(key, _)| !key.starts_with("source.0")), "{:?}", problems(&sound));
    }

    #[test]
    fn source_names_are_plain_and_unique() {
        assert_problem("[[source]]\nname = \"a b\"\nkind = \"unix\"\npath = \"p\"", "source.0.name", "bad-name");
        assert_problem("[[source]]\nname = \"http\"\nkind = \"unix\"\npath = \"p\"", "source.0.name", "name-taken");
        let again = format!("{HERE}[[source]]\nname = \"a\"\nkind = \"unix\"\npath = \"p\"");
        assert_problem(&again, "source.1.name", "name-taken");
        let twice = "[[source]]\nname = \"a\"\nkind = \"unix\"\npath = \"p\"\n[[source]]\nname = \"b\"\nkind = \"unix\"\npath = \"p\"";
        assert_problem(twice, "source.1", "place-taken");
    }

    #[test]
    fn a_replay_batch_beyond_the_buffer_is_a_warning_only() {
        let text = format!("{HERE}[replay]\nslots = 32");
        assert_problem(&text, "learn.replay_batch", "large-replay-batch");
        assert!(check(toml::from_str(&text).unwrap(), ENCODER).is_ok());
    }

    #[test]
    fn what_needs_labels_or_tasks_by_name_is_for_experiments() {
        assert_problem(&format!("{HERE}[learn]\nstrategy = \"gss\""), "learn.strategy", "not-on-a-stream");
        assert_problem(&format!("{HERE}[learn]\nobjective = \"supervised\""), "learn.objective", "not-on-a-stream");
        for strategy in ["lump+", "si", "der", "cassle", "ema", "finetune"] {
            assert_eq!(problems(&format!("{HERE}[learn]\nstrategy = \"{strategy}\"")), [], "{strategy}");
        }
    }

    #[test]
    fn a_length_of_time_that_would_overflow_is_refused() {
        assert_problem("[publish]\ninterval_seconds = 1e300", "publish.interval_seconds", "out-of-range");
        assert_problem("[daemon]\ndrain_seconds = -1.0", "daemon.drain_seconds", "out-of-range");
    }

    #[test]
    fn layers_are_frozen_by_name_once_and_never_all_of_them() {
        assert_problem("[encoder]\nfreeze = [\"stem\", \"stem\"]", "encoder.freeze", "layer-twice");
        let all = "[encoder]\nfreeze = [\"stem\", \"layer1\", \"layer2\", \"layer3\", \"layer4\"]";
        assert_problem(all, "encoder.freeze", "all-frozen");
        assert_problem("[encoder]\nfreeze = [\"stem\"]", "encoder.freeze", "random-frozen");
        let unknown = toml::from_str::<Config>("[encoder]\nfreeze = [\"layer5\"]").unwrap_err().to_string();
        assert!(unknown.contains("layer5") && unknown.contains("`layer4`"), "{unknown}");
    }

    #[test]
    fn a_factor_for_given_weights_needs_given_weights() {
        assert_problem("[learn]\ngiven_rate_factor = 0.1", "learn.given_rate_factor", "nothing-given");
        assert_problem("[learn]\ngiven_rate_factor = nan", "learn.given_rate_factor", "out-of-range");
        let given = format!("{HERE}[encoder]\nweights = \"w\"\nfreeze = [\"stem\"]\n[learn]\ngiven_rate_factor = 0.1");
        assert_eq!(problems(&given), []);
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_refused() {
        assert_problem("[log]\nfilter = \"info,lumpd=loud\"", "log.filter", "bad-filter");
    }
}
