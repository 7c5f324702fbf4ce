//! The tables of a report.

use std::fmt::Write;

use super::{Against, Evidence, Figure, Line, Measures, Report, Spread};

/// The report for people.
pub fn markdown(report: &Report, pictures: &[Figure]) -> String {
    let mut text = String::from("# Continual learning: what came out\n\n");
    let _ = text.write_str(
        "Percent, mean over the seeds with the standard deviation in brackets. `paper`: bank of the same task, k = min(200, tasks \
         seen), forgetting against the value when learned. `strict`: bank of every class seen, k = 200, forgetting against the \
         best value. Published: Madaan et al. 2022; the difference is ours less theirs, in points.\n\n",
    );
    accuracies(report, &mut text);
    out_of_distribution(report, &mut text);
    evidence(report, &mut text);
    protocol(report, &mut text);
    if !pictures.is_empty() {
        text.push_str("## Pictures\n\n");
    }
    for Figure { file, caption, .. } in pictures {
        let _ = writeln!(text, "{caption}\n\n![{caption}]({file})\n");
    }
    text
}

fn accuracies(report: &Report, text: &mut String) {
    text.push_str(
        "| run | seeds | accuracy (paper) | forgetting (paper) | published | difference | accuracy (strict) | forgetting (strict) \
         | backward transfer | forward transfer | linear probe |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for line in &report.lines {
        let Measures { accuracy, forgetting, backward_transfer, forward_transfer } = &line.paper;
        let published = line.published.map_or("-".to_owned(), |published| {
            let (accuracy, spread) = published.accuracy;
            let forgetting = published.forgetting.map_or("-".into(), |(mean, std)| format!("{mean:.2} ({std:.2})"));
            format!("{accuracy:.2} ({spread:.2}) / {forgetting}")
        });
        let signed = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:+.2}"));
        let difference = match line.published {
            Some(_) => format!("{} / {}", signed(line.difference), signed(line.forgetting_difference)),
            None => "-".into(),
        };
        let reduced = if line.reduced.is_some() { " *" } else { "" };
        let cells = [
            format!("{}{reduced}", line.label),
            line.seeds.to_string(),
            cell(*accuracy),
            cell(*forgetting),
            published,
            difference,
            cell(line.strict.accuracy),
            cell(line.strict.forgetting),
            cell(*backward_transfer),
            cell(*forward_transfer),
            cell(line.linear_probe),
        ];
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text.push('\n');
}

fn out_of_distribution(report: &Report, text: &mut String) {
    let rows: Vec<(&Line, usize)> =
        report.lines.iter().flat_map(|line| (0..line.ood.len()).map(move |at| (line, at))).collect();
    if rows.is_empty() {
        return;
    }
    text.push_str(
        "## Out of distribution\n\n| run | tried on | frozen | published | difference | after fine-tuning |\n|---|---|---|---|---|---|\n",
    );
    for (line, at) in rows {
        let ood = &line.ood[at];
        let difference =
            ood.frozen.zip(ood.published).map_or("-".into(), |(ours, theirs)| format!("{:+.2}", ours.mean - theirs));
        let published = ood.published.map_or("-".into(), |published| format!("{published:.2}"));
        let _ = writeln!(
            text,
            "| {} | {} | {} | {published} | {difference} | {} |",
            line.label,
            ood.dataset,
            cell(ood.frozen),
            cell(ood.fine_tuned)
        );
    }
    text.push('\n');
}

fn evidence(report: &Report, text: &mut String) {
    if report.evidence.is_empty() {
        return;
    }
    text.push_str(
        "## What measures without labels are worth\n\nA case is a past task after a later one. The truth is what retrieval from a bank of the same task has \
         lost since its end: the share of right ones among the 10 nearest (precision@10), and the accuracy of a vote of 20. The loss change is in units of the loss then; AUROC tells drops over 3 points from others. \
         What else labels give is the ceiling.\n\n",
    );
    report.evidence.iter().for_each(|against| one_truth(against, text));
}

fn one_truth(against: &Against, text: &mut String) {
    let _ = writeln!(text, "Against the {}:\n", against.truth);
    text.push_str(
        "| measure | cases | Spearman, all | Spearman, means of the runs | Spearman, runs that forgot 3 points or more | AUROC | \
         after the last task: Spearman | AUROC |\n|---|---|---|---|---|---|---|---|\n",
    );
    let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.3}"));
    for found in &against.evidence {
        let spearman = [found.spearman, found.spearman_of_runs, found.spearman_where_forgotten];
        let rest = [found.auroc, found.spearman_at_end, found.auroc_at_end];
        let numbers: Vec<String> = spearman.into_iter().chain(rest).map(number).collect();
        let _ = writeln!(text, "| {} | {} | {} |", found.measure, found.cases, numbers.join(" | "));
    }
    let names: Vec<&str> = against.evidence.iter().map(|found| found.measure).collect();
    let _ = writeln!(text, "\nOf one dataset and objective, Spearman and AUROC:\n");
    let _ =
        writeln!(text, "| dataset | objective | cases | {} |\n|{}", names.join(" | "), "---|".repeat(3 + names.len()));
    for stream in &against.streams {
        let both = |found: &Evidence| format!("{}, {}", number(found.spearman), number(found.auroc));
        let measures: Vec<String> = stream.evidence.iter().map(both).collect();
        let cases = stream.evidence.first().map_or(0, |found| found.cases);
        let _ = writeln!(text, "| {} | {} | {cases} | {} |", stream.dataset, stream.objective, measures.join(" | "));
    }
    let _ = writeln!(text, "\n| dataset | objective | strategy | cases | drop, points | {} |", names.join(" | "));
    let _ = writeln!(text, "|{}", "---|".repeat(5 + names.len()));
    for row in &against.ordering {
        let measures: Vec<String> = row.measures.iter().map(|value| number(*value)).collect();
        let named = [&row.dataset, &row.objective, &row.strategy].map(String::as_str).join(" | ");
        let _ = writeln!(text, "| {named} | {} | {:.2} | {} |", row.cases, 100.0 * row.drop, measures.join(" | "));
    }
    text.push('\n');
}

fn protocol(report: &Report, text: &mut String) {
    let reduced: Vec<&Line> = report.lines.iter().filter(|line| line.reduced.is_some()).collect();
    if !reduced.is_empty() {
        text.push_str("\\* Not the published protocol, so that the difference says little:\n\n");
    }
    for line in reduced {
        let _ = writeln!(text, "- {}: {}", line.label, line.reduced.as_deref().unwrap_or_default());
    }
    text.push('\n');
    for (line, results) in report.groups() {
        let first = &results[0];
        let seeds: Vec<String> = results.iter().map(|result| result.settings.seed.to_string()).collect();
        let _ = writeln!(
            text,
            "- {}: lumpd {}, {}, seeds {}, data {} ({} training and {} test images, blake3 {}){}; `{}`",
            line.label,
            first.version,
            first.device,
            seeds.join(", "),
            first.data.name,
            first.data.train,
            first.data.test,
            first.data.blake3.get(..16).unwrap_or_default(),
            first.data.notes.iter().map(|note| format!("; {note}")).collect::<String>(),
            first.command
        );
    }
    text.push('\n');
}

fn cell(spread: Option<Spread>) -> String {
    match spread {
        None => "-".into(),
        Some(Spread { mean, std: None, .. }) => format!("{mean:.2}"),
        Some(Spread { mean, std: Some(std), .. }) => format!("{mean:.2} ({std:.2})"),
    }
}

/// The rows for machines: a line a row, empty where nothing is defined.
pub fn csv(report: &Report) -> String {
    let mut text = String::from(
        "run,dataset,objective,strategy,seeds,limit_per_task,mode,accuracy,accuracy_std,forgetting,forgetting_std,backward_transfer,\
         forward_transfer,linear_probe,published_accuracy,published_forgetting,difference,forgetting_difference,reduced\n",
    );
    let number = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.4}"));
    for line in &report.lines {
        for (mode, measures) in [("paper", &line.paper), ("strict", &line.strict)] {
            let mean = |spread: Option<Spread>| number(spread.map(|spread| spread.mean));
            let std = |spread: Option<Spread>| number(spread.and_then(|spread| spread.std));
            let cells = [
                line.label.clone(),
                line.dataset.clone(),
                line.objective.clone(),
                line.strategy.clone(),
                line.seeds.to_string(),
                line.limit_per_task.map_or(String::new(), |limit| limit.to_string()),
                mode.to_owned(),
                mean(measures.accuracy),
                std(measures.accuracy),
                mean(measures.forgetting),
                std(measures.forgetting),
                mean(measures.backward_transfer),
                mean(measures.forward_transfer),
                mean(line.linear_probe),
                number(line.published.map(|published| published.accuracy.0)),
                number(line.published.and_then(|published| Some(published.forgetting?.0))),
                number(line.difference),
                number(line.forgetting_difference),
                format!("\"{}\"", line.reduced.as_deref().unwrap_or_default()),
            ];
            let _ = writeln!(text, "{}", cells.join(","));
        }
    }
    text
}
