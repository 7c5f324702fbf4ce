//! `lumpd label`: what people call stored images.

use std::io::{self, Write};

use anyhow::Context;
use clap::Args;
use hyper::Method;
use serde_json::json;

use super::Exit;
use super::api::{ApiArguments, with_parameters};
use super::client::{Client, ClientError, ask};
use super::table::{Side, Table, count, printable};
use crate::daemon::answers::LabelChange;
use crate::serve::LabelList;

/// Ids of one request; the daemon takes no more.
const IDS_AT_ONCE: usize = 1000;

#[derive(Debug, Args)]
#[command(
    override_usage = "lumpd label [OPTIONS] LABEL ID...\n       lumpd label [OPTIONS] --remove ID...\n       lumpd label [OPTIONS]"
)]
#[command(after_help = "Without a label and ids it lists the labels in use.

Examples:
  lumpd label \"speed limit 50\" 1234 1240 1302
  lumpd label --remove 1302
  lumpd label")]
pub struct Arguments {
    /// The label, then the ids of stored images (see `lumpd query`)
    #[arg(value_name = "LABEL ID")]
    words: Vec<String>,

    /// Take the labels of these images away
    #[arg(long)]
    remove: bool,

    #[command(flatten)]
    api: ApiArguments,
}

/// What the words ask for.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    Set(String, Vec<u64>),
    Remove(Vec<u64>),
}

pub fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let client = arguments.api.client()?;
    let Some(change) = read(&arguments.words, arguments.remove).context(Exit::Usage)? else {
        let list = ask(every_page(&client))?;
        return arguments.api.print(&list, out, print_list);
    };
    let change = ask(send(&client, &change))?;
    arguments.api.print(&change, out, |change, out| {
        let images = count(change.changed, "image");
        match &change.label {
            Some(label) => writeln!(out, "{images} newly labelled {}", printable(label)),
            None => writeln!(out, "{images} without label now"),
        }
    })
}

fn read(words: &[String], remove: bool) -> anyhow::Result<Option<Change>> {
    let ids = |words: &[String]| -> anyhow::Result<Vec<u64>> {
        anyhow::ensure!(!words.is_empty(), "name at least one image by its id");
        words.iter().map(|word| word.parse().with_context(|| format!("{word:?} is not the id of an image"))).collect()
    };
    match (remove, words) {
        (true, words) => ids(words).map(Change::Remove).map(Some),
        (false, []) => Ok(None),
        (false, [label, rest @ ..]) => Ok(Some(Change::Set(label.clone(), ids(rest)?))),
    }
}

async fn send(client: &Client, change: &Change) -> Result<LabelChange, ClientError> {
    let ids = match change {
        Change::Set(_, ids) | Change::Remove(ids) => ids,
    };
    let mut total = LabelChange { label: None, changed: 0 };
    for ids in ids.chunks(IDS_AT_ONCE) {
        let done: LabelChange = match change {
            Change::Set(label, _) => {
                client.send_json(Method::PUT, "/v1/labels", &json!({ "label": label, "ids": ids })).await?
            }
            Change::Remove(_) => {
                let list = ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
                client.delete(&with_parameters("/v1/labels", &[("ids", list)])).await?
            }
        };
        total = LabelChange { label: done.label, changed: total.changed + done.changed };
    }
    Ok(total)
}

async fn every_page(client: &Client) -> Result<LabelList, ClientError> {
    let mut list: LabelList = client.get("/v1/labels?limit=1000").await?;
    while let Some(after) = list.next.take() {
        let page: LabelList =
            client.get(&with_parameters("/v1/labels", &[("limit", "1000".into()), ("after", after)])).await?;
        list.labels.extend(page.labels);
        list.next = page.next;
    }
    Ok(list)
}

fn print_list(list: &LabelList, out: &mut dyn Write) -> io::Result<()> {
    if list.labels.is_empty() {
        return writeln!(out, "no stored image carries a label");
    }
    let mut table = Table::new(&[("IMAGES", Side::Right), ("LABEL", Side::Left)]);
    list.labels.iter().for_each(|entry| table.row([entry.images.to_string(), entry.label.clone()]));
    table.print(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(String::from).collect()
    }

    #[test]
    fn the_first_word_is_the_label_unless_labels_are_removed() {
        assert_eq!(read(&words("stop 1 2"), false).unwrap(), Some(Change::Set("stop".into(), vec![1, 2])));
        assert_eq!(read(&words("1 2"), true).unwrap(), Some(Change::Remove(vec![1, 2])));
        assert_eq!(read(&[], false).unwrap(), None);
    }

    #[test]
    fn what_is_no_id_is_named() {
        assert!(read(&words("stop sign 1"), false).unwrap_err().to_string().contains("\"sign\""));
        assert!(read(&words("stop"), false).is_err());
        assert!(read(&[], true).is_err());
    }
}
