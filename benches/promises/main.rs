//! The promises of reliability, each tried as often as one likes; every run ends with its counts and its violations.
//!
//! ```text
//! cargo bench --bench promises -- PROMISE [--count N] [--seed N]
//!
//! kill9        kill -9 of the daemon, all inlets at once                            1,000 cycles
//! power        power cuts in the simulator, of the store in memory                  10,000,000 images
//! errors       writes and syncs that fail, of the store in memory                   the first 500 of each
//! calls        writes and syncs that fail, of the daemon under strace               the first 500 of each
//! disk-full    a small tmpfs and a small ext4, filled and freed (needs root)        200 cycles of each
//! resume       killed where steps are locked to the stream                          50 kills
//! checkpoints  damage to the newest checkpoint                                      1,000 mutations
//! half-written files with stalls and killed writers                                 10,000 files
//! files        more files than notifications can tell of, and restarts              1,000,000 files
//! corpus       hostile and odd images through every inlet                           once
//! fuzz         mutated bytes for every parser                                       1,000,000 of each
//! memory       frames through a socket                                              1,000,000 frames
//! ```
//!
//! `power`, `errors` and `checkpoints` look inside and are tests of the library: they are run by `cargo test` with the count
//! in the environment. The rest drive the built binary from outside.

#[path = "../../tests/lumpd/crash/mod.rs"]
#[allow(dead_code, reason = "the tests use parts of it that a long run does not")]
mod crash;
#[path = "../../tests/fuzz/mod.rs"]
#[allow(dead_code, reason = "the tests use parts of it that a long run does not")]
mod fuzz;
#[path = "../../tests/lumpd/pictures.rs"]
#[allow(dead_code, reason = "the tests use parts of it that a long run does not")]
mod pictures;
#[path = "../../tests/lumpd/process.rs"]
#[allow(dead_code, reason = "the tests use parts of it that a long run does not")]
mod process;

use std::process::{Command, ExitCode};

const USAGE: &str = "give a promise: kill9, power, errors, calls, disk-full, resume, checkpoints, half-written, files, corpus, \
                     fuzz or memory; then --count N, --seed N";

struct Arguments {
    promise: String,
    count: Option<u64>,
    seed: u64,
}

fn arguments() -> Result<Arguments, String> {
    let (mut promise, mut count, mut seed) = (None, None, 1);
    let mut given = std::env::args().skip(1);
    while let Some(word) = given.next() {
        let mut number = || given.next().and_then(|text| text.replace('_', "").parse().ok()).ok_or(USAGE);
        match word.as_str() {
            "--bench" => {}
            "--count" | "--cycles" => count = Some(number()?),
            "--seed" => seed = number()?,
            word if !word.starts_with('-') && promise.is_none() => promise = Some(word.to_owned()),
            _ => return Err(USAGE.into()),
        }
    }
    Ok(Arguments { promise: promise.ok_or(USAGE)?, count, seed })
}

fn main() -> ExitCode {
    let run = arguments().and_then(|arguments| run(&arguments));
    match run {
        Ok(0) => ExitCode::SUCCESS,
        Ok(violations) => {
            eprintln!("{violations} violations");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

/// The number of violations.
fn run(arguments: &Arguments) -> Result<u64, String> {
    let &Arguments { ref promise, count, seed } = arguments;
    Ok(match promise.as_str() {
        "kill9" => {
            let tally = crash::kill9::run(count.unwrap_or(1_000), seed);
            println!("{tally}");
            tally.violations()
        }
        "power" => library("replay::tests::crash", "LUMPD_CRASH_IMAGES", count.unwrap_or(10_000_000))?,
        "errors" => library("replay::tests::errors", "LUMPD_FAILING_EVERY", 1)?,
        "checkpoints" => library("learn::checkpoint", "LUMPD_CHECKPOINT_MUTATIONS", count.unwrap_or(1_000))?,
        "calls" => calls(count.unwrap_or(500))?,
        "disk-full" => disk_full(count.unwrap_or(200)),
        "resume" => {
            let tally = crash::resume::run(count.unwrap_or(50), 100, seed);
            println!("{tally}");
            tally.different
        }
        "half-written" => {
            let tally = crash::half_written::run(count.unwrap_or(10_000), seed);
            println!("{tally}");
            tally.partial + tally.missing
        }
        "files" => {
            let tally = crash::many_files::run(count.unwrap_or(1_000_000), 4);
            println!("{tally}");
            tally.offered.abs_diff(tally.files) + u64::from(tally.growth > 64 << 20)
        }
        "corpus" => {
            let tally = crash::corpus::run();
            println!("{tally}");
            tally.wrong.len() as u64
        }
        "fuzz" => {
            let mut findings = 0;
            for target in fuzz::TARGETS {
                let tally = fuzz::run(target, count.unwrap_or(1_000_000), seed);
                println!("{tally}");
                tally.findings.iter().take(20).for_each(|finding| println!("  {finding}"));
                findings += tally.findings.len() as u64;
            }
            findings
        }
        "memory" => {
            let tally = crash::memory::run(count.unwrap_or(1_000_000));
            println!("{tally}");
            u64::from(tally.growth() > 16 << 20)
        }
        other => return Err(format!("{other} is none of the promises; {USAGE}")),
    })
}

/// Tests of the library, with their count in the environment.
fn library(tests: &str, variable: &str, count: u64) -> Result<u64, String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["test", "--release", "--lib", tests, "--", "--nocapture", "--test-threads=1"]);
    let status = command.env(variable, count.to_string()).status().map_err(|error| format!("cargo test: {error}"))?;
    Ok(u64::from(!status.success()))
}

fn calls(count: u64) -> Result<u64, String> {
    if let Some(reason) = crash::failing_calls::missing() {
        return Err(format!("skipped: {reason}"));
    }
    let mut violations = 0;
    for (call, error) in [("fdatasync", "EIO"), ("fsync", "EIO"), ("pwrite64", "ENOSPC")] {
        let tally = crash::failing_calls::run(call, error, 1..=count);
        println!("{call}, {error}: {tally}");
        violations += tally.lost + tally.signals;
    }
    Ok(violations)
}

fn disk_full(count: u64) -> u64 {
    use crash::disk_full::{Kind, missing, run};
    let mut violations = 0;
    for kind in [Kind::Tmpfs, Kind::Ext4] {
        if let Some(reason) = missing(kind) {
            println!("skipped: {reason}");
            continue;
        }
        let tally = run(kind, count);
        println!("{kind:?}: {tally}");
        violations += tally.unanswered + tally.late + tally.restarts;
    }
    violations
}
