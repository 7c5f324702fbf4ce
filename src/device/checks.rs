//! Holding a device's kernels against their definitions, on the machine where they shall be trusted.

use candle_core::{Device, Result, bail};
use serde::Serialize;

use super::{cuda, kernels};
use crate::config::Precision;

/// One comparison: how far a fast computation is from its definition in f64.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// What was computed, such as `convolution forward`.
    pub what: String,
    /// On what: instruction set, shape, number of images.
    pub case: String,
    /// Root of the mean squared difference over that of the expected values.
    pub error: f64,
    /// The most that `error` may be.
    pub tolerance: f64,
}

impl Check {
    /// Compares values with those of the definition.
    pub fn of(what: &str, case: &str, found: &[f64], expected: &[f64], tolerance: f64) -> Self {
        let error = if found.len() == expected.len() { relative_error(found, expected) } else { f64::INFINITY };
        Self { what: what.into(), case: case.into(), error, tolerance }
    }

    /// An error that is not a number has not passed.
    pub fn passed(&self) -> bool {
        self.error <= self.tolerance
    }
}

/// Root of the mean squared difference over that of the expected values; where all of those are 0, the former alone.
fn relative_error(found: &[f64], expected: &[f64]) -> f64 {
    let root = |squares: f64| squares.sqrt();
    let difference = root(found.iter().zip(expected).map(|(found, expected)| (found - expected).powi(2)).sum());
    match root(expected.iter().map(|expected| expected * expected).sum()) {
        0.0 => difference,
        size => difference / size,
    }
}

/// Checks every kernel of the device on random inputs, and reports each comparison as it is made. A device that has no
/// kernels of its own has nothing to report: a new one adds its list here. `precision` is that of a GPU's; a processor's are
/// checked in all that it has.
///
/// # Errors
/// Where the device fails, or has no such precision.
pub fn check_kernels(device: &Device, precision: Precision, report: &mut dyn FnMut(Check)) -> Result<()> {
    if device.is_cpu() {
        kernels::checks::run(report);
    }
    if let Some(machine) = cuda::machine(device) {
        let machine = machine?;
        let Some(precision) = cuda::precision(machine.as_ref(), precision) else {
            bail!("this GPU has no tensor cores for {}", precision.name());
        };
        for check in cuda::checks(precision) {
            let error = check.run(machine.as_ref())?;
            let case = "random shapes".to_owned();
            report(Check { what: check.name, case, error, tolerance: check.tolerance });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_number_or_of_another_length_has_not_passed() {
        let check = |found: &[f64], expected: &[f64]| Check::of("sum", "", found, expected, 0.1);
        assert!(check(&[1.0, 2.0], &[1.0, 2.1]).passed());
        assert!(!check(&[1.0, 2.0], &[1.0, 3.0]).passed());
        assert!(!check(&[f64::NAN], &[1.0]).passed());
        assert!(!check(&[1.0], &[1.0, 0.0]).passed());
        assert!(check(&[0.0], &[0.0]).passed() && !check(&[0.2], &[0.0]).passed());
    }

    #[test]
    fn every_kernel_of_the_cpu_is_checked_on_every_instruction_set_and_passes() {
        let mut checks = Vec::new();
        check_kernels(&Device::Cpu, Precision::Auto, &mut |check| checks.push(check)).unwrap();
        let failed: Vec<&Check> = checks.iter().filter(|check| !check.passed()).collect();
        assert!(failed.is_empty(), "{failed:?}");
        for isa in kernels::Isa::available() {
            for kernel in ["convolution", "batch norm", "max-pool", "average pool", "relu"] {
                let found = checks.iter().any(|check| check.what.contains(kernel) && check.case.contains(isa.name()));
                assert!(found, "{kernel} on {}", isa.name());
            }
        }
    }
}
