//! `lumpd classify`: what an image's labelled neighbours say it is.

use std::io::{self, Write};

use clap::Args;
use hyper::Method;
use serde_json::json;

use super::api::{ApiArguments, Subject, SubjectArguments, encoder_line, with_parameters};
use super::client::ask;
use super::query::print_neighbours;
use super::table::printable;
use crate::daemon::answers::Classification;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lumpd classify image.jpg\n  lumpd classify --id 1234 -k 50 --temperature 0.1")]
pub struct Arguments {
    #[command(flatten)]
    subject: SubjectArguments,

    /// How many labelled neighbours vote, at most 1000; as configured (knn.k) where not given
    #[arg(short)]
    k: Option<usize>,

    /// A vote weighs exp(similarity / temperature); as configured (knn.temperature) where not given
    #[arg(long, value_name = "NUMBER")]
    temperature: Option<f64>,

    #[command(flatten)]
    api: ApiArguments,
}

pub fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let client = arguments.api.client()?;
    let (k, temperature) = (arguments.k, arguments.temperature);
    let answer = match arguments.subject.read()? {
        Subject::Image(image) => {
            let named =
                [("k", k.map(|k| k.to_string())), ("temperature", temperature.map(|number| number.to_string()))];
            let parameters: Vec<_> = named.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
            ask(client.post_image(&with_parameters("/v1/classify", &parameters), image))
        }
        Subject::Stored(id) => {
            let question = json!({ "id": id, "k": k, "temperature": temperature });
            ask(client.send_json(Method::POST, "/v1/classify", &question))
        }
    }?;
    arguments.api.print(&answer, out, print)
}

fn print(answer: &Classification, out: &mut dyn Write) -> io::Result<()> {
    if answer.label.is_none() {
        return writeln!(out, "no label: no stored image carries one; give some with `lumpd label LABEL ID...`");
    }
    for entry in &answer.probabilities {
        writeln!(out, "{:5.1} %  {}", entry.probability * 100.0, printable(&entry.label))?;
    }
    writeln!(out)?;
    print_neighbours(&answer.neighbours, out)?;
    writeln!(out, "\n{}", encoder_line(answer.encoder_version, &answer.encoder))
}
