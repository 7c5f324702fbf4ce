//! `lumpd forgetting`: what each task has lost since it ended.

use std::io::{self, Write};

use clap::Args;
use serde_json::Value;

use super::api::ApiArguments;
use super::client::ask;
use super::table::{Side, Table, or_dash, print_pairs, printable, short};

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
    print_tasks(report["tasks"].as_array().map_or(&[], Vec::as_slice), out)?;
    let version = &report["version"];
    let measured = match version["encoder"].as_str() {
        Some(encoder) => format!("version {} of step {}", printable(short(encoder)), version["step"]),
        None => "nothing yet".into(),
    };
    let (representation, accuracy) = (&report["representation"], &report["accuracy"]);
    let pairs = [
        ("still there, mean of the tasks", percent(&report["mean_retained"])),
        ("spread of the features (1 over the sphere, 0 collapsed)", number(&representation["feature_std"])),
        ("directions in use (RankMe)", number(&representation["rank_me"])),
        ("average accuracy, from labels", percent(&accuracy["average_accuracy"])),
        ("average forgetting, from labels", percent(&accuracy["forgetting_max"])),
        ("measured", measured),
    ];
    print_pairs(&pairs, out)
}

fn print_tasks(tasks: &[Value], out: &mut dyn Write) -> io::Result<()> {
    if tasks.is_empty() {
        return writeln!(out, "no task yet\n");
    }
    let mut table = Table::new(&[
        ("TASK", Side::Right),
        ("STILL THERE", Side::Right),
        ("LOSS CHANGE", Side::Right),
        ("ACCURACY", Side::Right),
        ("IN WORDS", Side::Left),
    ]);
    for task in tasks {
        table.row([
            or_dash(task["task"].as_u64()),
            percent(&task["retained"]),
            number(&task["latest"]["loss_change"]),
            percent(&task["latest"]["knn_accuracy"]),
            printable(task["summary"].as_str().unwrap_or_default()),
        ]);
    }
    table.print(out)?;
    writeln!(out)
}

/// A ratio in percent; a dash for what is undefined.
fn percent(value: &Value) -> String {
    or_dash(value.as_f64().map(|ratio| format!("{:.0} %", 100.0 * ratio)))
}

/// Three decimals; a dash for what is undefined.
fn number(value: &Value) -> String {
    or_dash(value.as_f64().map(|number| format!("{number:.3}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(report: &Value) -> String {
        let mut text = Vec::new();
        print(report, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_task_has_a_line_and_what_is_undefined_is_a_dash() {
        let report = json!({
            "version": {"encoder": "00ff00ff00ff00ff", "step": 40},
            "mean_retained": 0.5,
            "tasks": [
                {"task": 1, "retained": 0.5, "summary": "half of it", "latest": {"loss_change": 0.25, "knn_accuracy": null}},
                {"task": 2, "retained": null, "summary": "not defined: the task is still going on", "latest": null},
            ],
        });
        let text = text(&report);
        assert!(text.contains("   1         50 %        0.250         -  half of it\n"), "{text}");
        assert!(text.contains("   2            -            -         -  not defined: the task"), "{text}");
        assert!(text.contains("of step 40\n"), "{text}");
    }

    #[test]
    fn a_report_of_nothing_is_no_fault() {
        assert!(text(&Value::Null).starts_with("no task yet\n"));
    }
}
