//! The log: to standard error, as text or as one JSON object a line.

use std::io::{IsTerminal, stderr};
use std::sync::OnceLock;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, registry, reload};

use crate::config::{LogFormat, LogSettings};

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    #[error(
        "log.filter = `{filter}` cannot be read ({reason}): use a level such as `info`, or `info,lumpd::stream=debug`"
    )]
    Filter { filter: String, reason: String },
    #[error("the log was started before: start it once a process")]
    Started,
}

impl LogError {
    /// Stable, for machines.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Filter { .. } => "log-filter-invalid",
            Self::Started => "log-started-twice",
        }
    }
}

/// The filter of this process's log, to be changed while it runs.
static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

fn parse(filter: &str) -> Result<Targets, LogError> {
    filter.parse().map_err(|error| LogError::Filter { filter: filter.into(), reason: format!("{error}") })
}

/// Sends all events of this process that pass `settings.filter` to standard error.
///
/// # Errors
/// A filter that cannot be read, or a log that was started before.
pub fn start_log(settings: &LogSettings) -> Result<(), LogError> {
    let (filter, handle) = reload::Layer::new(parse(&settings.filter)?);
    let lines = match settings.format {
        LogFormat::Text => fmt::layer().with_writer(stderr).with_ansi(stderr().is_terminal()).boxed(),
        LogFormat::Json => fmt::layer().with_writer(stderr).json().flatten_event(true).boxed(),
    };
    registry().with(lines.with_filter(filter)).try_init().map_err(|_| LogError::Started)?;
    // The first start has it: a second one has failed above.
    let _ = FILTER.set(handle);
    Ok(())
}

/// Lets other events pass from now on. Does nothing where no log was started.
///
/// # Errors
/// A filter that cannot be read.
pub fn change_log(filter: &str) -> Result<(), LogError> {
    let filter = parse(filter)?;
    if let Some(handle) = FILTER.get()
        && handle.reload(filter).is_err()
    {
        // The subscriber lives as long as the process: there is none that it could have lost.
        return Err(LogError::Started);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_in_error_is_named_and_a_second_log_is_refused() {
        let mut settings = LogSettings { filter: "lumpd=loud".into(), format: LogFormat::Json };
        let error = start_log(&settings).unwrap_err();
        assert_eq!(error.code(), "log-filter-invalid");
        assert!(error.to_string().contains("lumpd=loud"), "{error}");
        settings.filter = "error,lumpd::stream=debug".into();
        start_log(&settings).unwrap();
        assert_eq!(start_log(&settings).unwrap_err().code(), "log-started-twice");
    }
}
