//! The flags of every verb that asks a running daemon, and the forms an answer is printed in.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use serde::Serialize;

use super::client::{Address, Client};
use super::{Exit, json, table};
use crate::config::{Flags, default_file, load};

/// Most of a file that is sent; the daemon takes less and says how much.
const MAX_IMAGE_BYTES: u64 = 32 << 20;

/// `--api`, `--config`, `--state-dir` and `--json`.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Daemon")]
pub struct ApiArguments {
    /// Where the daemon answers: its socket's path or its address; by default the socket in the configured state folder
    #[arg(long, value_name = "PATH|ADDRESS", env = "LUMPD_API")]
    api: Option<Address>,

    /// The daemon's configuration file, in place of $XDG_CONFIG_HOME/lumpd/lumpd.toml or /etc/lumpd/lumpd.toml
    #[arg(long, short, value_name = "FILE", env = "LUMPD_CONFIG")]
    config: Option<PathBuf>,

    /// The daemon's state folder (daemon.state_dir)
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,

    /// File of the token, where the daemon asks for one: needed with an address, not with its socket
    #[arg(long, value_name = "FILE", env = "LUMPD_TOKEN_FILE")]
    token_file: Option<PathBuf>,

    /// Print the answer as JSON
    #[arg(long)]
    pub json: bool,
}

impl ApiArguments {
    /// A client of the daemon meant.
    ///
    /// # Errors
    /// A configuration that cannot be read.
    pub fn client(&self) -> anyhow::Result<Client> {
        if let Some(address) = &self.api {
            return Ok(Client::new(address.clone()).with_token(self.token()?));
        }
        let files: Vec<PathBuf> = self.config.clone().or_else(default_file).into_iter().collect();
        let loaded = load(&files, std::env::vars_os(), &Flags::default()).context(Exit::Configuration)?;
        let mut config = loaded.config;
        if let Some(folder) = &self.state_dir {
            config.daemon.state_dir.clone_from(folder);
        }
        Ok(Client::new(Address::Unix(config.api_socket())))
    }

    fn token(&self) -> anyhow::Result<Option<String>> {
        let Some(path) = &self.token_file else { return Ok(None) };
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read the token file {}", path.display()))?;
        Ok(Some(text.trim().to_owned()))
    }

    /// Prints an answer: as JSON where that is asked for, else as `for_people` has it.
    pub fn print<T: Serialize>(
        &self,
        answer: &T,
        out: &mut dyn Write,
        for_people: impl FnOnce(&T, &mut dyn Write) -> std::io::Result<()>,
    ) -> anyhow::Result<()> {
        if self.json {
            return json::print(answer, out);
        }
        Ok(for_people(answer, out)?)
    }
}

/// The image that a question is about.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub struct SubjectArguments {
    /// An image file; - reads standard input
    #[arg(value_name = "IMAGE")]
    image: Option<PathBuf>,

    /// An image that the daemon has stored
    #[arg(long, value_name = "ID")]
    id: Option<u64>,
}

/// What is sent in the body of a question.
pub(super) enum Subject {
    Image(Bytes),
    Stored(u64),
}

impl SubjectArguments {
    pub(super) fn read(&self) -> anyhow::Result<Subject> {
        match (&self.image, self.id) {
            (_, Some(id)) => Ok(Subject::Stored(id)),
            (Some(path), None) => read_image(path).map(Subject::Image),
            (None, None) => Err(anyhow::anyhow!("give an image file, or --id").context(Exit::Usage)),
        }
    }
}

fn read_image(path: &Path) -> anyhow::Result<Bytes> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(MAX_IMAGE_BYTES).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(MAX_IMAGE_BYTES).read_to_end(&mut bytes))
    };
    read.with_context(|| format!("cannot read the image {}", path.display()))?;
    Ok(bytes.into())
}

/// A path with these parameters as its query string, percent-encoded.
pub(super) fn with_parameters(path: &str, parameters: &[(&str, String)]) -> String {
    let pairs: Vec<String> = parameters.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
    if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) }
}

/// Percent-encodes everything but the unreserved characters (RFC 3986, section 2.3).
fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// The line that names the encoder behind an answer.
pub(super) fn encoder_line(version: u64, id: &str) -> String {
    format!("by version {version} of the encoder ({})", table::short(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_percent_encoded() {
        assert_eq!(with_parameters("/v1/query", &[]), "/v1/query");
        let parameters = [("k", "3".into()), ("label", "speed limit/50 &ä".into())];
        assert_eq!(with_parameters("/v1/query", &parameters), "/v1/query?k=3&label=speed%20limit%2F50%20%26%C3%A4");
    }
}
