//! Every parser of bytes from outside, as a plain function of bytes that must not panic, and a mutator that drives it.
//!
//! The targets take any bytes, so that a coverage-guided fuzzer can drive them as well: a `fuzz_target!(|bytes: &[u8]|
//! TARGETS[0].run(bytes))` of cargo-fuzz is all it takes. Here a seeded mutator of valid samples does, which knows how the
//! samples are put together: it repairs the checksums that it breaks, most of the time, so that what lies behind them is
//! reached. The same seed gives the same bytes. `LUMPD_FUZZ_EXECUTIONS` sets how many; `cargo bench --bench promises -- fuzz`
//! is the long run.

mod mutate;
mod targets;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use lumpd::config::Seed;

pub use targets::{TARGETS, Target};

/// No input may take longer.
const SLOWEST: Duration = Duration::from_secs(5);

/// What a run of one target came to.
#[derive(Debug)]
pub struct Tally {
    pub target: &'static str,
    pub executions: u64,
    /// Inputs that were taken as valid: the mutator reaches beyond the first check.
    pub accepted: u64,
    pub findings: Vec<String>,
    pub slowest: f64,
    pub seconds: f64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, executions, accepted, findings, slowest, seconds } = self;
        let slowest = slowest * 1e3;
        write!(
            f,
            "{target}: {executions} executions, {accepted} taken as valid, {} findings, slowest {slowest:.1} ms, {seconds:.0} s",
            findings.len()
        )
    }
}

/// Runs one target on so many mutated inputs.
pub fn run(target: &Target, executions: u64, seed: u64) -> Tally {
    let start = Instant::now();
    let samples = (target.samples)();
    let mut parse = (target.new)();
    let (mut accepted, mut findings, mut slowest) = (0, Vec::new(), 0.0_f64);
    for execution in 0..executions {
        let mut random = Seed(seed).random(target.name, execution);
        let bytes = mutate::mutated(&samples, target.repair, &mut random);
        let began = Instant::now();
        match catch_unwind(AssertUnwindSafe(|| parse(&bytes))) {
            Ok(Ok(valid)) => accepted += u64::from(valid),
            Ok(Err(finding)) => findings.push(format!("execution {execution}: {finding}")),
            Err(_) => findings.push(format!("execution {execution}: a panic")),
        }
        slowest = slowest.max(began.elapsed().as_secs_f64());
        if began.elapsed() > SLOWEST {
            findings.push(format!("execution {execution}: {:.1} s", began.elapsed().as_secs_f64()));
        }
    }
    Tally { target: target.name, executions, accepted, findings, slowest, seconds: start.elapsed().as_secs_f64() }
}

#[test]
fn no_parser_panics_on_mutated_bytes() {
    let wanted = std::env::var("LUMPD_FUZZ_EXECUTIONS").ok().and_then(|count| count.parse().ok());
    for target in TARGETS {
        let tally = run(target, wanted.unwrap_or(target.executions_in_tests), 1);
        println!("{tally}");
        assert!(tally.findings.is_empty(), "{}: {:#?}", target.name, tally.findings);
        assert!(tally.accepted > 0, "{}: the mutator never gets past the first check", target.name);
        assert!(tally.accepted < tally.executions, "{}: nothing is ever refused", target.name);
    }
}
