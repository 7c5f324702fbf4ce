//! The pictures of a report.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Figure, Line, Report};
use crate::evaluate::AccuracyMatrix;
use crate::evaluate::pictures::{HeatMap, Picture, Point, Series, contact_sheet, heat_map, lines, scatter};
use crate::experiment::RunResult;
use crate::experiment::result::{Landscape, ViewsRecord};
use crate::segment::TaskId;

pub(super) fn all(report: &Report) -> Vec<Figure> {
    let mut figures = Vec::new();
    figures.extend(curves(report));
    figures.extend(few_images(report));
    for (line, results) in report.groups() {
        let Some(first) = results.first() else { continue };
        figures.extend(matrix(line, results));
        figures.extend(forgetting(line, first));
        if let Some(views) = &first.views {
            figures.extend(of_views(line, first, views));
        }
    }
    figures
}

fn figure(file: String, caption: String, svg: String) -> Figure {
    Figure { file, caption, svg }
}

/// The title within a picture: the caption without the run's name, which may be long.
fn title(caption: &str) -> &str {
    caption.split_once(": ").map_or(caption, |(_, title)| title)
}

fn curves(report: &Report) -> Option<Figure> {
    let series: Vec<Series> = report
        .lines
        .iter()
        .filter(|line| line.curve.len() > 1)
        .map(|line| Series {
            name: format!("{} {}", line.objective, line.strategy),
            points: line.curve.iter().map(|(images, accuracy)| (*images as f64, *accuracy)).collect(),
        })
        .collect();
    let caption = "KNN accuracy over all classes while images are seen, from the untrained encoder on";
    let svg = lines(caption, ("images presented", "accuracy, percent"), &series);
    (!series.is_empty()).then(|| figure("curves.svg".into(), caption.into(), svg))
}

/// Accuracy over the training images of a task, where a method was run with several numbers of them.
fn few_images(report: &Report) -> Option<Figure> {
    let mut methods: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for line in &report.lines {
        if let (Some(limit), Some(accuracy)) = (line.limit_per_task, line.paper.accuracy) {
            let method = format!("{} {}", line.objective, line.strategy);
            methods.entry(method).or_default().push((limit as f64, accuracy.mean));
        }
    }
    methods.retain(|_, points| {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points.dedup_by(|a, b| a.0 == b.0);
        points.len() > 1
    });
    let series: Vec<Series> = methods.into_iter().map(|(name, points)| Series { name, points }).collect();
    let caption = "Average accuracy (paper) over training images of a task";
    let svg = lines(caption, ("training images of a task", "accuracy, percent"), &series);
    (!series.is_empty()).then(|| figure("few-images.svg".into(), caption.into(), svg))
}

/// Mean over the seeds.
fn matrix(line: &Line, results: &[RunResult]) -> Option<Figure> {
    let rows = results[0].paper.rows();
    let tasks = results[0].tasks.len();
    let value = |stage: usize, task: usize| {
        let of = |result: &RunResult| {
            result.paper.rows().get(stage)?.accuracies.get(&TaskId(task as u32 + 1)).map(|accuracy| 100.0 * accuracy)
        };
        super::Spread::of(results.iter().filter_map(of)).map(|spread| spread.mean)
    };
    let caption = format!("{}: accuracy on each task (across) after each (down), paper, percent", line.label);
    let name = |trained: Option<TaskId>| trained.map_or("all tasks".into(), |task| format!("after task {task}"));
    let map = HeatMap {
        title: title(&caption).into(),
        rows: rows.iter().map(|row| name(row.trained)).collect(),
        columns: (1..=tasks).map(|task| task.to_string()).collect(),
        values: (0..rows.len()).map(|stage| (0..tasks).map(|task| value(stage, task)).collect()).collect(),
        range: None,
    };
    (!rows.is_empty()).then(|| figure(format!("{}-accuracy.svg", line.label), caption, heat_map(&map)))
}

fn forgetting(line: &Line, result: &RunResult) -> Option<Figure> {
    let of = |matrix: &AccuracyMatrix, task: usize| -> Vec<(f64, f64)> {
        let id = TaskId(task as u32 + 1);
        let learnt = matrix.rows().iter().position(|row| row.trained == Some(id)).unwrap_or(usize::MAX);
        let rows = matrix.rows().iter().enumerate().skip(learnt);
        rows.filter_map(|(stage, row)| Some((stage as f64 + 1.0, 100.0 * row.accuracies.get(&id)?))).collect()
    };
    if result.paper.rows().len() < 2 {
        return None;
    }
    let series: Vec<Series> = (0..result.tasks.len())
        .map(|task| Series { name: format!("task {}", task + 1), points: of(&result.paper, task) })
        .collect();
    let caption = format!("{}: accuracy on each task from its end on, seed {}", line.label, result.settings.seed);
    let svg = lines(title(&caption), ("tasks learnt", "accuracy (paper), percent"), &series);
    Some(figure(format!("{}-forgetting.svg", line.label), caption, svg))
}

fn of_views(line: &Line, result: &RunResult, views: &ViewsRecord) -> Vec<Figure> {
    let mut figures = Vec::new();
    let stages = |count: usize| (1..=count).map(|stage| stage.to_string()).collect::<Vec<_>>();
    if views.cka.len() > 1 {
        let caption = format!(
            "{}: CKA of each block (down) with that after the first task, after each task (across)",
            line.label
        );
        let map = HeatMap {
            title: title(&caption).into(),
            rows: views.blocks.clone(),
            columns: stages(views.cka.len()),
            values: (0..views.blocks.len())
                .map(|block| views.cka.iter().map(|stage| stage.get(block).copied().flatten()).collect())
                .collect(),
            range: Some((0.0, 1.0)),
        };
        figures.push(figure(format!("{}-cka.svg", line.label), caption, heat_map(&map)));
    }
    figures.extend(feature_maps(line, views));
    if !views.embedding.is_empty() {
        figures.extend(embedding(line, result, views));
    }
    if let Some(landscape) = &views.landscape {
        figures.push(landscape_of(line, landscape));
    }
    figures
}

fn feature_maps(line: &Line, views: &ViewsRecord) -> Option<Figure> {
    let stages = views.feature_maps.first()?.maps.len();
    let columns: Vec<String> =
        std::iter::once("image".to_owned()).chain((1..=stages).map(|stage| format!("after {stage}"))).collect();
    let decoded = |text: &str| STANDARD.decode(text).unwrap_or_default();
    let rows: Vec<(String, Vec<Picture>)> = views
        .feature_maps
        .iter()
        .map(|image| {
            let own = Picture::Rgb { side: image.side, pixels: decoded(&image.image) };
            let maps = image.maps.iter().map(|map| Picture::Values { side: image.map_side, values: decoded(map) });
            (format!("task {}: {}", image.task + 1, image.class), std::iter::once(own).chain(maps).collect())
        })
        .collect();
    let caption = format!("{}: the second block's mean map after each task", line.label);
    let svg = contact_sheet(title(&caption), &columns, &rows);
    Some(figure(format!("{}-maps.svg", line.label), caption, svg))
}

fn embedding(line: &Line, result: &RunResult, views: &ViewsRecord) -> [Figure; 2] {
    let points = |group: &dyn Fn(usize) -> usize| -> Vec<Point> {
        views
            .embedding
            .iter()
            .enumerate()
            .map(|(at, point)| Point { x: point.x, y: point.y, group: group(at) })
            .collect()
    };
    let mut classes: Vec<u32> = views.embedding.iter().map(|point| point.class).collect();
    classes.sort_unstable();
    classes.dedup();
    let class_of = |at: usize| classes.iter().position(|class| *class == views.embedding[at].class).unwrap_or(0);
    let by_number: BTreeMap<u32, &String> = views
        .embedding
        .iter()
        .filter_map(|point| Some((point.class, names_of(result).get(point.class as usize).copied()?)))
        .collect();
    let class_names: Vec<String> =
        classes.iter().map(|class| by_number.get(class).map_or(class.to_string(), |name| (*name).clone())).collect();
    let tasks: Vec<String> = (1..=result.tasks.len()).map(|task| format!("task {task}")).collect();
    let by_class = format!("{}: the embedding in the plane of its two greatest variances, by class", line.label);
    let by_task = format!("{}: the embedding, by task", line.label);
    [
        figure(
            format!("{}-embedding-classes.svg", line.label),
            by_class.clone(),
            scatter(title(&by_class), &class_names, &points(&class_of)),
        ),
        figure(
            format!("{}-embedding-tasks.svg", line.label),
            by_task.clone(),
            scatter(title(&by_task), &tasks, &points(&|at| views.embedding[at].task)),
        ),
    ]
}

/// Names of the classes, where the tasks have them in the order of their numbers.
fn names_of(result: &RunResult) -> Vec<&String> {
    match result.settings.class_order {
        None => result.tasks.iter().flat_map(|task| &task.classes).collect(),
        Some(_) => Vec::new(),
    }
}

fn landscape_of(line: &Line, landscape: &Landscape) -> Figure {
    let caption = format!("{}: loss of the first task's images around the weights at its end", line.label);
    let names: Vec<String> = landscape.steps.iter().map(|step| format!("{step:.1}")).collect();
    let map = HeatMap {
        title: title(&caption).into(),
        rows: names.clone(),
        columns: names,
        values: landscape.losses.clone(),
        range: None,
    };
    figure(format!("{}-landscape.svg", line.label), caption, heat_map(&map))
}
