//! `lumpd tasks`: what the stream was cut into, and changes of it by hand.

use std::io::{self, Write};

use clap::Args;
use hyper::Method;
use serde_json::json;

use super::api::{ApiArguments, with_parameters};
use super::client::{Client, ClientError, ask};
use super::table::{Side, Table, or_dash, print_pairs, time};
use crate::daemon::answers::TaskStatus;
use crate::serve::TaskList;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lumpd tasks
  lumpd tasks 3
  lumpd tasks 3 --name 'night shift'
  lumpd tasks --merge 3,5            task 5 has been task 3 all along
  lumpd tasks --mark --name gears    the next frame is the first of a new task")]
pub struct Arguments {
    /// One task in full; all of them where not given
    id: Option<u32>,

    /// End the open task: the next frame is the first of a new one
    #[arg(long, conflicts_with_all = ["id", "merge"])]
    mark: bool,

    /// With --mark: the source whose task ends; needed where every source has tasks of its own
    #[arg(long, value_name = "NAME", requires = "mark")]
    source: Option<String>,

    /// The name of the task, or with --mark of the new one
    #[arg(long, value_name = "TEXT", conflicts_with = "merge")]
    name: Option<String>,

    /// Make two tasks one; the lower number stays
    #[arg(long, value_name = "ID,ID", value_parser = pair, conflicts_with = "id")]
    merge: Option<Pair>,

    #[command(flatten)]
    api: ApiArguments,
}

/// Two tasks.
#[derive(Debug, Clone, Copy)]
struct Pair(u32, u32);

fn pair(text: &str) -> Result<Pair, String> {
    let two = text.split_once(',').and_then(|(a, b)| Some(Pair(a.trim().parse().ok()?, b.trim().parse().ok()?)));
    two.ok_or_else(|| "give two task numbers with a comma between them, such as 3,5".into())
}

pub fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let client = arguments.api.client()?;
    if let Some(changed) = arguments.change(&client)? {
        return arguments.api.print(&changed, out, print_task);
    }
    match arguments.id {
        Some(id) => {
            let task: TaskStatus = ask(client.get(&format!("/v1/tasks/{id}")))?;
            arguments.api.print(&task, out, print_task)
        }
        None => {
            let list = ask(every_page(&client))?;
            arguments.api.print(&list, out, print_list)
        }
    }
}

impl Arguments {
    /// Does what is to be done by hand, if anything is.
    fn change(&self, client: &Client) -> anyhow::Result<Option<TaskStatus>> {
        let change = match (self.mark, self.merge, self.id, &self.name) {
            (true, ..) => ("/v1/tasks".into(), Method::POST, json!({ "source": self.source, "name": self.name })),
            (_, Some(Pair(a, b)), ..) => ("/v1/tasks/merge".into(), Method::POST, json!({ "tasks": [a, b] })),
            (_, _, Some(id), Some(name)) => (format!("/v1/tasks/{id}"), Method::PATCH, json!({ "name": name })),
            (_, _, None, Some(_)) => {
                return Err(anyhow::anyhow!("say which task gets the name, or --mark").context(super::Exit::Usage));
            }
            _ => return Ok(None),
        };
        let (path, method, body) = change;
        ask(client.send_json(method, &path, &body)).map(Some)
    }
}

async fn every_page(client: &Client) -> Result<TaskList, ClientError> {
    let mut list = TaskList { tasks: Vec::new(), next: Some(0) };
    while let Some(after) = list.next {
        let path = with_parameters("/v1/tasks", &[("limit", "1000".into()), ("after", after.to_string())]);
        let page: TaskList = client.get(&path).await?;
        list.tasks.extend(page.tasks);
        list.next = page.next;
    }
    Ok(list)
}

fn print_list(list: &TaskList, out: &mut dyn Write) -> io::Result<()> {
    if list.tasks.is_empty() {
        return writeln!(out, "no task yet");
    }
    let mut table = Table::new(&[
        ("ID", Side::Right),
        ("NAME", Side::Left),
        ("FRAMES", Side::Right),
        ("FIRST", Side::Right),
        ("LAST", Side::Right),
        ("VISITS", Side::Right),
        ("PROBES", Side::Right),
        ("STARTED", Side::Left),
        ("", Side::Left),
    ]);
    for task in &list.tasks {
        table.row([
            task.id.to_string(),
            task.name.clone(),
            task.frames.to_string(),
            task.first_frame.to_string(),
            or_dash((task.frames > 0).then_some(task.last_frame)),
            task.spans.len().to_string(),
            task.probes.to_string(),
            or_dash(task.spans.first().and_then(|span| span.started_at).map(time)),
            remark(task),
        ]);
    }
    table.print(out)
}

/// A task that was begun by hand has none before the next frame.
fn frames(task: &TaskStatus) -> String {
    match task.frames {
        0 => format!("none yet, from {} on", task.first_frame),
        frames => format!("{frames}, from {} to {}", task.first_frame, task.last_frame),
    }
}

fn remark(task: &TaskStatus) -> String {
    match (task.current, task.returns) {
        (true, 0) => "current".into(),
        (true, times) => format!("current, came back {times} times"),
        (false, 0) => String::new(),
        (false, times) => format!("came back {times} times"),
    }
}

fn print_task(task: &TaskStatus, out: &mut dyn Write) -> io::Result<()> {
    let list = |ids: &[u64]| match ids {
        [] => "-".to_owned(),
        ids => ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    let pairs = [
        ("task", format!("{} {}", task.id, task.name)),
        ("frames", frames(task)),
        ("current", if task.current { "yes" } else { "no" }.into()),
        ("came back", format!("{} times", task.returns)),
        ("probes", task.probes.to_string()),
        ("exemplars", list(&task.exemplars)),
        ("varied", list(&task.varied_exemplars)),
        ("after", or_dash(task.parent)),
    ];
    print_pairs(&pairs, out)?;
    writeln!(out)?;
    let mut table = Table::new(&[
        ("FIRST", Side::Right),
        ("OFF BY", Side::Right),
        ("LAST", Side::Right),
        ("STARTED", Side::Left),
        ("ENDED", Side::Left),
    ]);
    for span in &task.spans {
        let ended = span.ended_at.map(time);
        table.row([
            span.first_frame.to_string(),
            span.uncertainty_frames.to_string(),
            or_dash(span.last_frame),
            or_dash(span.started_at.map(time)),
            or_dash(ended),
        ]);
    }
    table.print(out)
}
