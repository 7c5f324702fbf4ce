//! Which exit code an error means (the numbers of BSD's sysexits.h, as other services use them).

use std::fmt;
use std::io::{self, ErrorKind, Write};

/// A class of failure, attached to an error as context: `error.context(Exit::Unreachable)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The command line asks for something that makes no sense.
    Usage,
    /// No daemon answers.
    Unreachable,
    /// A file, a folder or a socket failed.
    Io,
    /// Another try may succeed: the device is busy, the state folder is in use.
    Temporary,
    /// A setting is wrong.
    Configuration,
}

impl Exit {
    fn code(self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::Unreachable => 69,
            Self::Io => 74,
            Self::Temporary => 75,
            Self::Configuration => 78,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Usage => "wrong usage",
            Self::Unreachable => "the daemon cannot be reached",
            Self::Io => "input or output failed",
            Self::Temporary => "not possible now",
            Self::Configuration => "the configuration is not valid",
        })
    }
}

/// The exit code of an error: that of its [`Exit`], else 74 where the cause is an input/output error, else 1. A closed pipe
/// is success: the reader has all it wanted.
pub fn code(error: &anyhow::Error) -> u8 {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>());
    if let Some(exit) = error.downcast_ref::<Exit>() {
        exit.code()
    } else if io.is_some_and(|io| io.kind() == ErrorKind::BrokenPipe) {
        0
    } else if io.is_some() {
        Exit::Io.code()
    } else {
        1
    }
}

/// Prints the chain of causes, outermost first, each that adds words on a line of its own.
pub fn report(error: &anyhow::Error, to: &mut dyn Write) {
    let mut said = String::new();
    for cause in error.chain().map(ToString::to_string) {
        // Many errors repeat their cause's words in their own.
        if said.contains(&cause) {
            continue;
        }
        let lead = if said.is_empty() { "lumpd: " } else { "  because: " };
        // Nothing can be told where standard error itself is closed.
        let _ = writeln!(to, "{lead}{cause}");
        said.push_str(&cause);
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn the_class_is_found_at_any_depth() {
        let io = || Err::<(), _>(io::Error::from(ErrorKind::ConnectionRefused));
        let deep = io().context("connect to 127.0.0.1:7717").context(Exit::Unreachable).context("status").unwrap_err();
        assert_eq!(code(&deep), 69);
        assert_eq!(code(&io().context("write truth.tsv").unwrap_err()), 74);
        assert_eq!(code(&anyhow::anyhow!("something else")), 1);
    }

    #[test]
    fn a_closed_pipe_is_success() {
        let closed: anyhow::Error = io::Error::from(ErrorKind::BrokenPipe).into();
        assert_eq!(code(&closed), 0);
    }

    #[test]
    fn a_report_names_every_cause_once() {
        let error = anyhow::anyhow!("no such file").context("read a.toml: no such file").context(Exit::Configuration);
        let mut text = Vec::new();
        report(&error, &mut text);
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "lumpd: the configuration is not valid\n  because: read a.toml: no such file\n"
        );
    }
}
