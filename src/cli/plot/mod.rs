//! `lumpd plot`: what the daemon knows as a picture, an SVG file that any browser and editor shows.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::api::{ApiArguments, with_parameters};
use super::client::{Client, ClientError, ask};
use crate::daemon::answers::{EmbeddingMap, TaskStatus};
use crate::serve::TaskList;

mod draw;
mod pictures;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lumpd plot timeline -o timeline.svg      when each task was
  lumpd plot forgetting -o forgetting.svg  what is still there of each, over the encoder's versions
  lumpd plot accuracy -o accuracy.svg      the same from labels
  lumpd plot embedding > embedding.svg     the stored images on two principal components")]
pub(super) struct Arguments {
    what: What,

    /// The file; standard output where not given
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    Timeline,
    Accuracy,
    Forgetting,
    Embedding,
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let client = arguments.api.client()?;
    let (picture, data) = ask(picture(arguments.what, &client))?;
    let Some(path) = &arguments.output else {
        return Ok(out.write_all(picture.as_bytes())?);
    };
    std::fs::write(path, &picture).with_context(|| format!("cannot write {}", path.display()))?;
    let written = json!({ "file": path, "of": data });
    arguments.api.print(&written, out, |_, out| writeln!(out, "{} written", path.display()))
}

/// The picture and what it was drawn from.
async fn picture(what: What, client: &Client) -> Result<(String, Value), ClientError> {
    let tasks = tasks(client).await?;
    Ok(match what {
        What::Timeline => (pictures::timeline(&tasks), json!(tasks)),
        What::Accuracy => {
            let accuracy: Value = client.get("/v1/accuracy").await?;
            (pictures::accuracy(&accuracy, &tasks), accuracy)
        }
        What::Forgetting => {
            let history: Value = client.get("/v1/forgetting/history").await?;
            (pictures::forgetting(&history, &tasks), history)
        }
        What::Embedding => {
            let map: EmbeddingMap = client.get("/v1/map?limit=5000").await?;
            (pictures::embedding(&map, &tasks), json!(map))
        }
    })
}

async fn tasks(client: &Client) -> Result<Vec<TaskStatus>, ClientError> {
    let mut list = TaskList { tasks: Vec::new(), next: Some(0) };
    while let Some(after) = list.next {
        let path = with_parameters("/v1/tasks", &[("limit", "1000".into()), ("after", after.to_string())]);
        let page: TaskList = client.get(&path).await?;
        list.tasks.extend(page.tasks);
        list.next = page.next;
    }
    Ok(list.tasks)
}
