//! What is wrong with a setting, and what to do about it.

use std::fmt;

/// One thing that is wrong, or looks so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub severity: Severity,
    /// Stable, for machines.
    pub code: &'static str,
    /// Dotted, such as `replay.slots` or `source.0.path`.
    pub key: String,
    pub value: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// Whether the daemon can start all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Warning,
    Error,
}

impl Problem {
    pub(super) fn error(
        code: &'static str,
        key: impl Into<String>,
        value: impl fmt::Display,
        message: impl Into<String>,
    ) -> Self {
        let (key, value, message) = (key.into(), value.to_string(), message.into());
        Self { severity: Severity::Error, code, key, value, message }
    }

    pub(super) fn warning(
        code: &'static str,
        key: impl Into<String>,
        value: impl fmt::Display,
        message: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, key, value, message) }
    }

    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = if self.is_error() { "error" } else { "warning" };
        let Self { code, key, value, message, .. } = self;
        write!(f, "{severity}[{code}]: {key} = {value}: {message}")
    }
}
