//! `lumpd selftest`: whether this machine computes what it should.

use std::io::Write;

use anyhow::{anyhow, bail};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::Exit;
use super::bench::named;
use super::table::{Side, Table};
use crate::config::{DeviceKind, DeviceSettings, Precision};
use crate::device::{self, Check, DeviceError};
use crate::learn;

const EXAMPLES: &str = "\
Examples:
  lumpd selftest                  the device that `auto` takes
  lumpd selftest --device cuda    after a new driver, or on a new box
  lumpd selftest --device cuda --precision f32    whole steps without rounding to bf16, to tighter bounds

Every kernel and whole training steps of both encoder forms run on random inputs and are compared with plain tensors on
the CPU in 64-bit floats. An error is the root of the mean squared difference over that of the expected values.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Which device is tested
    #[arg(long, value_enum, default_value = "auto")]
    device: Kind,
    /// Which of several devices of that kind
    #[arg(long, default_value_t = 0)]
    ordinal: usize,
    /// As learn.precision: auto, f32, tf32 or bf16
    #[arg(long, default_value = "auto", value_parser = named::<Precision>)]
    precision: Precision,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Auto,
    Cpu,
    Cuda,
    Metal,
}

impl From<Kind> for DeviceKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Auto => Self::Auto,
            Kind::Cpu => Self::Cpu,
            Kind::Cuda => Self::Cuda,
            Kind::Metal => Self::Metal,
        }
    }
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let settings = DeviceSettings { kind: arguments.device.into(), ordinal: arguments.ordinal };
    let chosen = device::choose(&settings).map_err(|error| {
        let exit = if matches!(error, DeviceError::Unusable { .. }) { Exit::Temporary } else { Exit::Configuration };
        anyhow!(error).context(exit)
    })?;
    let mut checks = Vec::new();
    device::check_kernels(&chosen.device, arguments.precision, &mut |check| checks.push(check))?;
    learn::check_steps(&chosen.device, arguments.precision, &mut |check| checks.push(check))?;
    let failed = checks.iter().filter(|check| !check.passed()).count();
    if arguments.json {
        let all: Vec<_> = checks.iter().map(|check| json!({ "check": check, "passed": check.passed() })).collect();
        let object = json!({ "device": chosen.info, "reason": chosen.reason, "checks": all, "failed": failed, "passed": failed == 0 });
        writeln!(out, "{}", serde_json::to_string_pretty(&object)?)?;
    } else {
        writeln!(out, "{} ({})\n", chosen.info, chosen.reason)?;
        table(&checks).print(out)?;
        writeln!(out, "\n{} checks, {failed} failed", checks.len())?;
    }
    if failed > 0 {
        bail!("{failed} of {} checks failed: do not train on {} with this build and driver", checks.len(), chosen.info);
    }
    Ok(())
}

fn table(checks: &[Check]) -> Table {
    let columns = [
        ("CHECK", Side::Left),
        ("ERROR", Side::Right),
        ("AT MOST", Side::Right),
        ("", Side::Left),
        ("CASE", Side::Left),
    ];
    let mut table = Table::new(&columns);
    for check in checks {
        let verdict = if check.passed() { "ok" } else { "FAILED" };
        let (error, most) = (format!("{:.1e}", check.error), format!("{:.0e}", check.tolerance));
        table.row([check.what.clone(), error, most, verdict.into(), check.case.clone()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_check_stands_out() {
        let check = Check::of("features", "somewhere", &[1.0], &[2.0], 1e-4);
        let mut text = Vec::new();
        table(&[check]).print(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("5.0e-1") && text.contains("1e-4") && text.contains("FAILED"), "{text}");
    }

    #[test]
    fn a_device_that_is_not_there_is_no_success() {
        let arguments = Arguments { device: Kind::Cpu, ordinal: 1, precision: Precision::Auto, json: false };
        assert_eq!(crate::cli::code(&run(&arguments, &mut Vec::new()).unwrap_err()), 78);
    }
}
