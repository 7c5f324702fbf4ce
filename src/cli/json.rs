//! Answers for programs.

use std::io::{self, Write};

use serde::Serialize;

/// One JSON value, indented, and the end of its line.
pub(super) fn print<T: Serialize>(answer: &T, out: &mut dyn Write) -> anyhow::Result<()> {
    // A reader that has gone must stay recognisable as a broken pipe.
    serde_json::to_writer_pretty(&mut *out, answer).map_err(io::Error::from)?;
    Ok(writeln!(out)?)
}
