//! `lumpd forgetting`: what each task has lost since it ended.
//!
//! The report is the evaluation's, and grows with it. It is laid out by its form: single values first, then each list of
//! objects as a table and each list of lists as a matrix.

use std::io::{self, Write};

use clap::Args;
use serde_json::{Map, Value};

use super::api::ApiArguments;
use super::client::ask;
use super::table::{Side, Table, print_pairs, printable};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lumpd forgetting\n  lumpd forgetting --json")]
pub struct Arguments {
    #[command(flatten)]
    api: ApiArguments,
}

pub fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let client = arguments.api.client()?;
    let report: Value = ask(client.get("/v1/forgetting"))?;
    arguments.api.print(&report, out, print)
}

fn print(report: &Value, out: &mut dyn Write) -> io::Result<()> {
    let Value::Object(report) = report else { return writeln!(out, "{}", cell(report)) };
    let (lists, single): (Vec<_>, Vec<_>) = report.iter().partition(|(_, value)| is_list(value));
    let names: Vec<(String, String)> = single.iter().map(|(name, value)| (words(name), cell(value))).collect();
    let pairs: Vec<(&str, String)> = names.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    print_pairs(&pairs, out)?;
    for (name, list) in lists {
        writeln!(out, "\n{}", words(name))?;
        print_list(list.as_array().map_or(&[], Vec::as_slice), out)?;
    }
    Ok(())
}

/// A list of more than single values.
fn is_list(value: &Value) -> bool {
    value.as_array().is_some_and(|values| values.iter().any(|value| value.is_object() || value.is_array()))
}

fn print_list(list: &[Value], out: &mut dyn Write) -> io::Result<()> {
    let objects: Vec<&Map<String, Value>> = list.iter().filter_map(Value::as_object).collect();
    if objects.len() == list.len() { print_objects(&objects, out) } else { print_matrix(list, out) }
}

fn print_objects(objects: &[&Map<String, Value>], out: &mut dyn Write) -> io::Result<()> {
    let mut names: Vec<&String> = Vec::new();
    for name in objects.iter().flat_map(|object| object.keys()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let headings: Vec<String> = names.iter().map(|name| words(name).to_uppercase()).collect();
    let columns: Vec<(&str, Side)> = headings.iter().map(|heading| (heading.as_str(), Side::Right)).collect();
    let mut table = Table::new(&columns);
    for object in objects {
        table.row(names.iter().map(|name| object.get(*name).map_or_else(|| "-".into(), cell)));
    }
    table.print(out)
}

fn print_matrix(rows: &[Value], out: &mut dyn Write) -> io::Result<()> {
    let cells = |row: &Value| row.as_array().map_or_else(|| vec![cell(row)], |row| row.iter().map(cell).collect());
    let rows: Vec<Vec<String>> = rows.iter().map(cells).collect();
    let numbers: Vec<String> = (1..=rows.iter().map(Vec::len).max().unwrap_or(0)).map(|n| n.to_string()).collect();
    let columns: Vec<(&str, Side)> = numbers.iter().map(|number| (number.as_str(), Side::Right)).collect();
    let mut table = Table::new(&columns);
    rows.into_iter().for_each(|row| table.row(row));
    table.print(out)
}

/// `average_forgetting` as `average forgetting`.
fn words(name: &str) -> String {
    printable(&name.replace('_', " "))
}

/// One value in short: three decimals, a dash for what is undefined, a count for what has no room.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.into(),
        Value::Number(number) if number.is_f64() => format!("{:.3}", number.as_f64().unwrap_or(f64::NAN)),
        Value::Number(number) => number.to_string(),
        Value::String(text) => printable(text),
        Value::Array(values) if values.iter().any(|value| value.is_object() || value.is_array()) => {
            format!("({})", values.len())
        }
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(", "),
        Value::Object(object) => {
            object.iter().map(|(name, value)| format!("{} {}", words(name), cell(value))).collect::<Vec<_>>().join(", ")
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_report_is_laid_out_by_its_form_and_what_is_undefined_is_a_dash() {
        let report = json!({
            "average_forgetting": null,
            "encoder_version": 3,
            "tasks": [{"task": 1, "cka": 0.91234}, {"task": 2, "cka": null, "kept": true}],
            "matrix": [[0.5, null], [0.25, 1.0]],
        });
        let mut text = Vec::new();
        print(&report, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        for part in [
            "average forgetting  -\nencoder version     3\n",
            "\nmatrix\n    1      2\n0.500      -\n0.250  1.000\n",
            "\ntasks\n  CKA  TASK  KEPT\n0.912     1     -\n    -     2   yes\n",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
