//! `lumpd feed`: images from files or standard input to the frame socket of a running daemon.

use std::io::{IsTerminal, Write, stderr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::{Interval, MissedTickBehavior};

use super::configuration::ConfigurationArguments;
use super::{Exit, json};
use crate::config::{Config, SourceKind};
use crate::stream::client::{Address, Client, ClientError};
use crate::stream::mjpeg::Splitter;
use inputs::Inputs;
use tally::Tally;

mod inputs;
mod tally;

const EXAMPLES: &str = "\
Examples:
  lumpd feed holiday/ --to /run/lumpd/frames.sock
  lumpd feed a.jpg b.png --to tcp:127.0.0.1:7718
  lumpd feed cifar/train --labels-from-folders --rate 100 --config lumpd.toml
  ffmpeg -loglevel error -i rtsp://camera -f image2pipe -c:v mjpeg - | lumpd feed -";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Folders and files, in this order; or - for concatenated JPEG pictures from standard input
    #[arg(required = true, value_name = "DIR|FILE|-")]
    inputs: Vec<PathBuf>,
    /// Where the daemon takes frames: the path of a unix socket, or tcp:127.0.0.1:PORT. The first such source of the settings
    /// where not given
    #[arg(long, value_name = "ADDRESS")]
    to: Option<Address>,
    /// Send at most so many frames a second
    #[arg(long, value_name = "FRAMES", value_parser = rate)]
    rate: Option<f64>,
    /// Send the name of a file's folder as its label: for evaluation, never for training
    #[arg(long)]
    labels_from_folders: bool,
    /// One JSON object instead of lines for people
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    configuration: ConfigurationArguments,
}

/// A frame a day to a million a second: what a timer can do.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    let allowed = 1e-5..=1e6;
    let rate = text.parse().map_err(|_| "not a number".to_string())?;
    if allowed.contains(&rate) { Ok(rate) } else { Err("must be above 0 and at most a million".into()) }
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let config = arguments.configuration.load()?.config;
    let address = address(arguments.to.as_ref(), &config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the client")?;
    let (tally, outcome) = runtime.block_on(feed(arguments, &address, config.decode.max_bytes));
    // What was sent before a failure was sent all the same.
    match arguments.json {
        true => json::print(&tally, out)?,
        false => write!(out, "{tally}")?,
    }
    outcome?;
    match tally.refused() {
        0 => Ok(()),
        refused => bail!("{refused} frames were refused: see above"),
    }
}

fn address(given: Option<&Address>, config: &Config) -> anyhow::Result<Address> {
    let configured = config.source.iter().find_map(|source| match source.kind {
        SourceKind::Unix => source.path.clone().map(Address::Unix),
        SourceKind::Tcp => source.listen.map(Address::Tcp),
        SourceKind::Directory => None,
    });
    given.cloned().or(configured).ok_or_else(|| {
        let message = "the settings have no unix or tcp source to send to: say where with --to, or name the daemon's file with --config";
        anyhow::anyhow!(message).context(Exit::Usage)
    })
}

/// Sends everything; the tally holds what was answered, whether or not it came to an end.
async fn feed(arguments: &Arguments, address: &Address, max_bytes: usize) -> (Tally, anyhow::Result<()>) {
    let mut tally = Tally::default();
    let outcome = async {
        let client = Client::connect(address).await.map_err(exit_of)?;
        let mut feeder = Feeder { client, pace: arguments.rate.map(pace), tally: &mut tally };
        match arguments.inputs.as_slice() {
            [only] if only == Path::new("-") => feeder.standard_input(max_bytes).await?,
            paths => feeder.files(&Inputs::find(paths)?, arguments.labels_from_folders).await?,
        }
        feeder.finish().await
    }
    .await;
    (tally, outcome)
}

fn exit_of(error: ClientError) -> anyhow::Error {
    let exit = match &error {
        ClientError::Connect { .. } => Exit::Unreachable,
        ClientError::Address(_) => Exit::Usage,
        _ => Exit::Io,
    };
    anyhow::Error::from(error).context(exit)
}

/// A timer that does not make up for time lost: a burst would not be the rate asked for.
pub(super) fn pace(rate: f64) -> Interval {
    let mut interval = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

struct Feeder<'a> {
    client: Client,
    pace: Option<Interval>,
    tally: &'a mut Tally,
}

impl Feeder<'_> {
    async fn files(&mut self, inputs: &Inputs, label: bool) -> anyhow::Result<()> {
        let progress = bar(Some(inputs.paths().len() as u64));
        for path in inputs.paths() {
            let name = path.display().to_string();
            match tokio::fs::read(path).await {
                Ok(bytes) => self.send(name, bytes.into(), label.then(|| inputs::folder_name(path)).flatten()).await?,
                Err(error) => self.tally.unreadable(&name, &error),
            }
            progress.inc(1);
        }
        progress.finish_and_clear();
        Ok(())
    }

    async fn standard_input(&mut self, max_bytes: usize) -> anyhow::Result<()> {
        let progress = bar(None);
        let mut pictures = Splitter::new(tokio::io::stdin(), max_bytes);
        let mut number = 0_u64;
        while let Some(picture) = pictures.next_picture().await.context("read standard input")? {
            number += 1;
            self.send(format!("picture {number} of standard input"), picture, None).await?;
            progress.inc(1);
        }
        self.tally.damaged_input(pictures.damaged());
        progress.finish_and_clear();
        Ok(())
    }

    async fn send(&mut self, name: String, image: Bytes, label: Option<String>) -> anyhow::Result<()> {
        if let Some(pace) = &mut self.pace {
            pace.tick().await;
        }
        let sent = self.client.send(image, label, None).await.map_err(exit_of)?;
        self.tally.sent(sent.sequence, name);
        self.tally.answered(sent.replies);
        Ok(())
    }

    async fn finish(self) -> anyhow::Result<()> {
        let replies = self.client.finish().await.map_err(exit_of)?;
        self.tally.answered(replies);
        Ok(())
    }
}

/// On standard error, where that is a terminal. Without a length it counts.
fn bar(length: Option<u64>) -> ProgressBar {
    let template = match length {
        Some(_) => "{bar:40} {pos}/{len} frames, {per_sec}, {eta} left",
        None => "{spinner} {pos} frames, {per_sec}",
    };
    let target = if stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(length, target).with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_go_where_the_flag_says_else_to_the_first_socket_of_the_settings() {
        let text = "[[source]]\nname = \"a\"\nkind = \"directory\"\npath = \"d\"\n[[source]]\nname = \"b\"\nkind = \"unix\"\npath = \"s\"\n";
        let config: Config = toml::from_str(text).unwrap();
        assert_eq!(address(None, &config).unwrap(), Address::Unix("s".into()));
        let given: Address = "tcp:127.0.0.1:9".parse().unwrap();
        assert_eq!(address(Some(&given), &config).unwrap(), given);
        assert_eq!(crate::cli::code(&address(None, &Config::default()).unwrap_err()), 2);
    }

    #[test]
    fn without_a_daemon_it_fails_with_69() {
        let dir = tempfile::tempdir().unwrap();
        let arguments = Arguments {
            inputs: vec![dir.path().into()],
            to: Some(Address::Unix(dir.path().join("nobody.sock"))),
            rate: None,
            labels_from_folders: false,
            json: false,
            configuration: ConfigurationArguments::default(),
        };
        let error = run(&arguments, &mut Vec::new()).unwrap_err();
        assert_eq!(crate::cli::code(&error), 69);
        assert!(format!("{error:#}").contains("nobody.sock"), "{error:#}");
    }

    #[test]
    fn a_rate_that_no_timer_can_keep_is_refused() {
        for text in ["0", "-1", "nan", "inf", "1e9", "fast"] {
            assert!(rate(text).is_err(), "{text}");
        }
        assert_eq!(rate("12.5"), Ok(12.5));
    }
}
