//! Descent over flat vectors; see kernels/optimiser.cu.

use candle_core::{Result, bail};

use super::machine::{Queue, Region};
use super::parameters::*;

/// Step size, momentum and weight decay, as `torch.optim.SGD` means them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SgdFactors {
    pub rate: f32,
    pub momentum: f32,
    pub decay: f32,
}

/// Ranges of the flat vector that learn at another rate than the rest: a table for [`sgd`].
pub struct RateRanges<'a> {
    /// In order; the last one ends at the vector's end. A factor of 0 freezes.
    pub ranges: &'a [RateRange],
    /// [`RateRange::table`], uploaded.
    pub table: &'a Region,
}

impl RateRange {
    /// The elements up to `end` learn at `factor` times the rate.
    pub fn new(end: usize, factor: f32) -> Self {
        Self { end: end as i64, factor, unused: 0 }
    }

    /// The bytes of a table of ranges.
    pub fn table(ranges: &[Self]) -> Vec<u8> {
        table(ranges)
    }
}

/// One step, in place: buffer = momentum * buffer + (gradient + decay * parameter); parameter -= rate * buffer. All f32 of
/// `count` values. Where the flag `not_finite` (4 bytes) is set, nothing changes.
///
/// # Errors
/// Where a region is too small, ranges do not cover the vector, or the machine fails.
pub fn sgd(
    queue: &dyn Queue,
    factors: SgdFactors,
    count: usize,
    [parameters, momentum, gradient]: [&Region; 3],
    ranges: Option<RateRanges>,
    not_finite: Option<&Region>,
) -> Result<()> {
    let mut regions = vec![parameters, momentum, gradient];
    let (mut table_at, mut range_count) = (0, 0);
    if let Some(RateRanges { ranges, table }) = ranges {
        let sorted = ranges.is_sorted_by(|a, b| a.end < b.end);
        if !sorted || ranges.last().is_none_or(|last| last.end != count as i64) {
            bail!("ranges of rates do not cover {count} parameters in order: {ranges:?}");
        }
        table_at = table.at("the table of rates", size_of_val(ranges))?;
        range_count = number(ranges.len())?;
        regions.push(table);
    }
    let argument = SgdStep {
        parameters: parameters.at("parameters", 4 * count)?,
        momentum: momentum.at("momentum", 4 * count)?,
        gradient: gradient.at("the gradient", 4 * count)?,
        ranges: table_at,
        not_finite: not_finite.map_or(Ok(0), |flag| flag.at("a flag", 4))?,
        count: count as i64,
        range_count,
        rate: factors.rate,
        momentum_factor: factors.momentum,
        decay: factors.decay,
    };
    regions.extend(not_finite);
    // SAFETY: the kernel stays within `count` values and the table, for which the regions were checked.
    unsafe { launch(queue, "sgd_step", grid_of(count), 0, &argument, &regions) }
}

/// Sets the flag (4 bytes) to 1 where one of `count` f32 values is infinite or not a number.
///
/// # Errors
/// Where a region is too small, or the machine fails.
pub fn check_finite(queue: &dyn Queue, count: usize, values: &Region, flag: &Region) -> Result<()> {
    let argument =
        FiniteCheck { values: values.at("values", 4 * count)?, not_finite: flag.at("a flag", 4)?, count: count as i64 };
    // SAFETY: the kernel stays within `count` values and the flag, for which the regions were checked.
    unsafe { launch(queue, "finite_check", grid_of(count), 0, &argument, &[values, flag]) }
}
