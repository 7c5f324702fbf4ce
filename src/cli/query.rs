//! `lumpd query`: which stored images look most like one.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use hyper::Method;
use serde_json::json;

use super::api::{ApiArguments, Subject, SubjectArguments, encoder_line, with_parameters};
use super::client::{Client, ask};
use super::table::{Side, Table, or_dash, time};
use crate::daemon::answers::{Neighbour, Neighbours, Timestamp};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lumpd query image.jpg
  lumpd query --id 1234 -k 20 --task 3 --thumbnails neighbours/
  lumpd query image.jpg --since 2026-01-31T12:00:00Z --until 2026-01-31T18:00:00+01:00
  lumpd query image.jpg -k 100 --offset 100 --json
  ffmpeg -i rtsp://camera -frames:v 1 -f image2pipe -c:v mjpeg - | lumpd query -")]
pub struct Arguments {
    #[command(flatten)]
    subject: SubjectArguments,

    /// How many neighbours, at most 1000; as configured (knn.k) where not given
    #[arg(short)]
    k: Option<usize>,

    /// Only neighbours of this task
    #[arg(long, value_name = "ID")]
    task: Option<u32>,

    /// Only neighbours from this source
    #[arg(long, value_name = "NAME")]
    source: Option<String>,

    /// Only neighbours with this label
    #[arg(long)]
    label: Option<String>,

    /// Only neighbours captured then or later, such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<Timestamp>,

    /// Only neighbours captured before then
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,

    /// How many nearer neighbours are left out: the next page
    #[arg(long, value_name = "COUNT")]
    offset: Option<usize>,

    /// Write the neighbours' pictures into this folder, each as RANK-ID.png
    #[arg(long, value_name = "DIR")]
    thumbnails: Option<PathBuf>,

    #[command(flatten)]
    api: ApiArguments,
}

pub fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let client = arguments.api.client()?;
    let answer = match arguments.subject.read()? {
        Subject::Image(image) => ask(client.post_image(&with_parameters("/v1/query", &arguments.parameters()), image)),
        Subject::Stored(id) => {
            let Arguments { k, task, source, label, since, until, offset, .. } = arguments;
            let question = json!({
                "id": id, "k": k, "task": task, "source": source, "label": label, "since": since, "until": until,
                "offset": offset,
            });
            ask(client.send_json(Method::POST, "/v1/query", &question))
        }
    }?;
    if let Some(folder) = &arguments.thumbnails {
        write_thumbnails(&client, &answer, folder)?;
    }
    arguments.api.print(&answer, out, print)
}

impl Arguments {
    fn parameters(&self) -> Vec<(&'static str, String)> {
        let named = [
            ("k", self.k.map(|k| k.to_string())),
            ("task", self.task.map(|task| task.to_string())),
            ("source", self.source.clone()),
            ("label", self.label.clone()),
            ("since", self.since.map(|time| time.to_string())),
            ("until", self.until.map(|time| time.to_string())),
            ("offset", self.offset.map(|offset| offset.to_string())),
        ];
        named.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

fn write_thumbnails(client: &Client, answer: &Neighbours, folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    for (rank, neighbour) in answer.neighbours.iter().enumerate() {
        let picture = ask(client.get_bytes(&neighbour.image.thumbnail))?;
        let path = folder.join(format!("{:04}-{}.png", rank + 1, neighbour.image.id));
        fs::write(&path, picture).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn print(answer: &Neighbours, out: &mut dyn Write) -> io::Result<()> {
    print_neighbours(&answer.neighbours, out)?;
    let more = answer.next.map_or_else(String::new, |next| format!("; --offset {next} shows more"));
    writeln!(out, "\n{}{more}", encoder_line(answer.encoder_version, &answer.encoder))
}

/// As a table, best first.
pub(super) fn print_neighbours(neighbours: &[Neighbour], out: &mut dyn Write) -> io::Result<()> {
    if neighbours.is_empty() {
        return writeln!(out, "no stored image fits");
    }
    let mut table = Table::new(&[
        ("SCORE", Side::Right),
        ("ID", Side::Right),
        ("TASK", Side::Right),
        ("LABEL", Side::Left),
        ("SOURCE", Side::Left),
        ("CAPTURED", Side::Left),
    ]);
    for Neighbour { image, score } in neighbours {
        table.row([
            format!("{score:.3}"),
            image.id.to_string(),
            or_dash(image.task),
            or_dash(image.label.as_ref()),
            image.source.clone(),
            time(image.captured_at),
        ]);
    }
    table.print(out)
}
