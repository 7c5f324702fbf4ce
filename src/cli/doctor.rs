//! `lumpd doctor`: what may keep a daemon from running well on this machine, and what to do about it.

use std::io::Write;

use anyhow::bail;
use clap::Args;
use serde::Serialize;

use super::client::{Address, Client, ask};
use super::configuration::{ConfigurationArguments, plan};
use super::table;
use super::table::duration;
use crate::config::{Bytes, Plan, probe};
use crate::daemon::answers::{Status, Timestamp};
use crate::device;
use crate::serve::Tokens;

/// Open files beside one for each connection: database, buffers, sockets, folders that are watched.
const OTHER_FILES: u64 = 64;

/// Before this, a clock was never set.
const CLOCK_FLOOR: &str = "2026-01-01T00:00:00Z";

/// A checkpoint this many times older than its interval is late.
const LATE: f64 = 5.0;

#[derive(Debug, Args)]
#[command(after_help = "Exit code 1 where anything needs to be done, 78 where the configuration is wrong.

Examples:
  lumpd doctor
  lumpd doctor --config /etc/lumpd/lumpd.toml
  lumpd doctor --json | jq '.[] | select(.level != \"good\")'")]
pub(super) struct Arguments {
    /// A JSON list of what was looked at
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    configuration: ConfigurationArguments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Good,
    Note,
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    level: Level,
    what: &'static str,
    found: String,
    /// What to do; nothing where it is well.
    remedy: Option<String>,
}

impl Finding {
    fn good(what: &'static str, found: impl Into<String>) -> Self {
        Self { level: Level::Good, what, found: found.into(), remedy: None }
    }

    fn bad(what: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Bad, what, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn note(what: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Note, ..Self::bad(what, found, remedy) }
    }
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let loaded = arguments.configuration.load()?;
    let plan = plan(&loaded)?;
    let status = running(&plan);
    let mut findings = vec![Finding::good(
        "configuration",
        format!("valid, {} settings apart from the defaults", loaded.origins.len()),
    )];
    findings.extend(plan.warnings.iter().map(|warning| {
        Finding::note("configuration", format!("{} = {}", warning.key, warning.value), warning.message.clone())
    }));
    findings.push(devices(&plan));
    findings.extend(machine(&plan, status.is_some()));
    findings.extend(tokens(&plan, status.is_some()));
    findings.push(memory(&plan));
    findings.push(open_files(&plan, rustix::process::getrlimit(rustix::process::Resource::Nofile).current));
    findings.push(clock(Timestamp::now()));
    findings.extend(daemon(&plan, status.as_ref()));
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&findings)?)?;
    } else {
        print(&findings, out)?;
    }
    let bad = findings.iter().filter(|finding| finding.level == Level::Bad).count();
    if bad > 0 {
        bail!("{}", table::count(bad as u64, "thing") + " to do: see above");
    }
    Ok(())
}

fn print(findings: &[Finding], out: &mut dyn Write) -> std::io::Result<()> {
    for finding in findings {
        let mark = match finding.level {
            Level::Good => "ok  ",
            Level::Note => "note",
            Level::Bad => "BAD ",
        };
        writeln!(out, "{mark}  {:<14} {}", finding.what, table::printable(&finding.found))?;
        if let Some(remedy) = &finding.remedy {
            writeln!(out, "      {:<14} -> {}", "", table::printable(remedy))?;
        }
    }
    Ok(())
}

fn devices(plan: &Plan) -> Finding {
    let inventory = device::describe();
    match device::choose(&plan.config.device) {
        Ok(chosen) => {
            let found = format!("{} ({})", chosen.info, chosen.reason);
            match inventory.missing.first() {
                Some(missing) if chosen.info.to_string().starts_with("cpu") => {
                    Finding::note("device", found, format!("a GPU would train faster; none is used: {missing}"))
                }
                _ => Finding::good("device", found),
            }
        }
        Err(error) => Finding::bad("device", error.to_string(), "see `lumpd devices` for what this build can use here"),
    }
}

/// Folders, space and ports. A running daemon holds its ports itself, and its folders are for its own user.
fn machine(plan: &Plan, running: bool) -> Vec<Finding> {
    let held = ["port-in-use", "socket-in-use"];
    let problems: Vec<_> =
        probe(plan).into_iter().filter(|problem| !(running && held.contains(&problem.code))).collect();
    if running && problems.iter().any(|problem| problem.code == "state-dir-not-ours") {
        let state = plan.config.daemon.state_dir.display();
        let found = format!("{state} is another user's, as whom the daemon runs");
        return vec![Finding::note("folders", found, "`lumpd doctor` as that user looks into it")];
    }
    if problems.is_empty() {
        let state = plan.config.daemon.state_dir.display();
        let needed = Bytes(plan.budget.disk_bytes());
        return vec![Finding::good("folders", format!("{state} can be used, and has room for {needed}"))];
    }
    problems
        .into_iter()
        .map(|problem| Finding::bad("folders", format!("{} = {}", problem.key, problem.value), problem.message))
        .collect()
}

/// Files that the daemon reads tokens from, where there are any. One that runs has read them, perhaps as another user.
fn tokens(plan: &Plan, running: bool) -> Option<Finding> {
    let serve = &plan.config.serve;
    if running || !serve.has_token() {
        return None;
    }
    Some(match Tokens::load(serve) {
        Ok(_) => Finding::good("tokens", "every token file can be used"),
        Err(error) => Finding::bad("tokens", error.to_string(), "the daemon does not start until it can be used"),
    })
}

fn memory(plan: &Plan) -> Finding {
    let needed = plan.budget.memory_bytes();
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let Some(available) = available_bytes(&text) else {
        return Finding::note(
            "memory",
            format!("{} are needed; this system does not say how much there is", Bytes(needed)),
            "watch resident_bytes of `lumpd status`",
        );
    };
    let found = format!("{} available, {} needed beside the activations of training", Bytes(available), Bytes(needed));
    if available < needed {
        return Finding::bad(
            "memory",
            found,
            "lower replay.slots or decode.max_pixels, or take a narrower encoder.preset",
        );
    }
    Finding::good("memory", found)
}

fn available_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

fn open_files(plan: &Plan, limit: Option<u64>) -> Finding {
    let needed = 2 * plan.config.serve.max_connections as u64 + OTHER_FILES;
    match limit {
        Some(limit) if limit < needed => Finding::bad(
            "open files",
            format!("the limit is {limit}, and {needed} may be needed"),
            format!("`ulimit -n {needed}`, LimitNOFILE={needed} in the unit, or lower serve.max_connections"),
        ),
        limit => Finding::good(
            "open files",
            format!("the limit is {}, {needed} may be needed", limit.map_or("none".into(), |limit| limit.to_string())),
        ),
    }
}

fn clock(now: Timestamp) -> Finding {
    let floor: Option<Timestamp> = CLOCK_FLOOR.parse().ok();
    if floor.is_some_and(|floor| now < floor) {
        return Finding::bad(
            "clock",
            format!("it says {now}, which has been"),
            "set it (timedatectl set-ntp true): images and tasks are dated by it",
        );
    }
    Finding::good("clock", table::time(now))
}

fn running(plan: &Plan) -> Option<Status> {
    let client = Client::new(Address::Unix(plan.config.api_socket()));
    ask(client.get("/v1/status")).ok()
}

fn daemon(plan: &Plan, status: Option<&Status>) -> Vec<Finding> {
    let Some(status) = status else {
        return vec![Finding::note(
            "daemon",
            "none runs on this state folder",
            "`lumpd run`, or `systemctl start lumpd`",
        )];
    };
    let mut findings = vec![Finding::good(
        "daemon",
        format!("up {}, {} images taken in", duration(status.uptime_seconds), status.stream.accepted),
    )];
    if let Some(reason) = &status.learn.frozen {
        findings.push(Finding::bad("training", reason.clone(), "lower learn.learning_rate, then `lumpd resume`"));
    }
    if status.learn.paused_since.is_some() {
        findings.push(Finding::note("training", "it rests, as somebody asked", "`lumpd resume`"));
    }
    if status.buffer.damaged > 0 {
        let found = format!("{} slots had a wrong checksum and were dropped", status.buffer.damaged);
        findings.push(Finding::bad("disk", found, "look at the disk's health (smartctl -a)"));
    }
    let late = LATE * plan.config.checkpoint.interval_seconds;
    match &status.checkpoint {
        Some(last) if last.age_seconds > late => findings.push(Finding::bad(
            "checkpoint",
            format!("the last one is {} old", duration(last.age_seconds)),
            "look for checkpoint-failed in `lumpd events`",
        )),
        Some(last) => findings.push(Finding::good("checkpoint", format!("{} old", duration(last.age_seconds)))),
        None => findings.push(Finding::note("checkpoint", "none yet", "it comes after checkpoint.interval_seconds")),
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::answers::Answers;
    use crate::daemon::answers::fake::Fake;

    fn a_plan() -> Plan {
        plan(&ConfigurationArguments { config: Some("/dev/null".into()), ..Default::default() }.load().unwrap())
            .unwrap()
    }

    #[test]
    fn a_low_limit_and_a_clock_that_was_never_set_are_found_with_what_to_do() {
        let plan = a_plan();
        let files = open_files(&plan, Some(256));
        assert!(files.level == Level::Bad && files.remedy.unwrap().contains("LimitNOFILE=576"));
        assert_eq!(open_files(&plan, None).level, Level::Good);
        assert_eq!(clock(Timestamp::UNIX_EPOCH).level, Level::Bad);
        assert_eq!(available_bytes("MemTotal: 9 kB\nMemAvailable:    2048 kB\n"), Some(2 << 20));
    }

    #[test]
    fn folders_of_the_daemon_that_runs_are_nothing_to_change_for_somebody_else() {
        let mut plan = a_plan();
        // Another's folder: of root, or for root one that is not.
        let others = tempfile::tempdir().unwrap();
        plan.config.daemon.state_dir = "/".into();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(others.path(), Some(1), None).unwrap();
            plan.config.daemon.state_dir = others.path().into();
        }
        let levels = |running| machine(&plan, running).iter().map(|finding| finding.level).collect::<Vec<_>>();
        assert_eq!(levels(true), [Level::Note]);
        assert!(levels(false).contains(&Level::Bad));
    }

    #[test]
    fn a_token_file_that_cannot_be_used_is_found_before_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let mut plan = a_plan();
        assert_eq!(tokens(&plan, false), None);
        let path = folder.path().join("read.token");
        plan.config.serve.read_token_file = Some(path.clone());
        assert!(tokens(&plan, false).unwrap().level == Level::Bad && tokens(&plan, true).is_none());
        std::fs::write(&path, "x".repeat(64)).unwrap();
        let ours = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, ours).unwrap();
        assert_eq!(tokens(&plan, false).unwrap().level, Level::Good);
    }

    #[test]
    fn a_frozen_daemon_and_a_late_checkpoint_are_found() {
        let mut status = Fake::new().status();
        status.learn.frozen = Some("it diverged".into());
        let last =
            crate::daemon::answers::CheckpointStatus { written_at: Timestamp::UNIX_EPOCH, age_seconds: 1e6, step: 1 };
        status.checkpoint = Some(last);
        let findings = daemon(&a_plan(), Some(&status));
        let bad: Vec<&str> = findings.iter().filter(|f| f.level == Level::Bad).map(|f| f.what).collect();
        assert_eq!(bad, ["training", "checkpoint"]);
        assert_eq!(daemon(&a_plan(), None)[0].level, Level::Note);
    }
}
