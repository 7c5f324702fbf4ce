use super::*;
use crate::evaluate::AccuracyMatrix;
use crate::experiment::RunSettings;
use crate::experiment::result::{
    Averages, CurvePoint, DataRecord, FORMAT, OodRecord, TaskRecord, ViewsRecord, averages,
};
use crate::segment::TaskId;

fn result(seed: u64, settings: RunSettings, last: [f64; 2]) -> RunResult {
    let mut matrix = AccuracyMatrix::default();
    matrix.push(Some(TaskId(1)), [(TaskId(1), 0.9)].into());
    matrix.push(Some(TaskId(2)), [(TaskId(1), last[0]), (TaskId(2), last[1])].into());
    let summary = averages(&matrix, false);
    RunResult {
        format: FORMAT,
        settings: RunSettings { seed, ..settings },
        version: "0.1.0".into(),
        device: "cpu:0".into(),
        command: "lumpd experiment run".into(),
        given: None,
        data: DataRecord {
            name: "cifar10".into(),
            blake3: "0123456789abcdef0123".into(),
            train: 10,
            test: 10,
            classes: 10,
            notes: vec![],
        },
        tasks: vec![TaskRecord { classes: vec!["cat".into()], train: 5, test: 5 }; 2],
        paper: matrix.clone(),
        strict: matrix,
        averages: Averages { paper: summary.clone(), strict: summary },
        linear_probe: Some(0.5),
        linear: AccuracyMatrix::default(),
        steady: AccuracyMatrix::default(),
        precision: AccuracyMatrix::default(),
        label_free: vec![],
        curve: vec![CurvePoint { images: 0, accuracy: 0.3 }, CurvePoint { images: 10, accuracy: 0.4 }],
        losses: vec![1.0, 0.5],
        boundaries: vec![5],
        encoders: vec![],
        ood: vec![OodRecord { dataset: "svhn".into(), blake3: String::new(), frozen: Some(0.46), fine_tuned: None }],
        views: Some(ViewsRecord::default()),
    }
}

fn three_seeds() -> Report {
    let settings = RunSettings { ood: vec!["svhn".into()], ..RunSettings::default() };
    let few = RunSettings { limit_per_task: Some(100), epochs: 5, ..settings.clone() };
    let more = RunSettings { limit_per_task: Some(500), ..few.clone() };
    Report::of(vec![
        result(0, settings.clone(), [0.8, 0.9]),
        result(1, settings.clone(), [0.85, 0.95]),
        result(2, settings, [0.9, 1.0]),
        result(0, few, [0.6, 0.7]),
        result(0, more, [0.7, 0.8]),
    ])
}

#[test]
fn a_row_is_the_mean_over_its_seeds_beside_what_was_published() {
    let report = three_seeds();
    assert_eq!(report.lines.iter().map(|line| line.seeds).collect::<Vec<_>>(), [3, 1, 1]);
    let line = &report.lines[0];
    let accuracy = line.paper.accuracy.unwrap();
    assert!((accuracy.mean - 90.0).abs() < 1e-9 && (accuracy.std.unwrap() - 5.0).abs() < 1e-9, "{accuracy:?}");
    assert!((line.difference.unwrap() - (90.0 - 91.0)).abs() < 1e-9);
    assert!((line.paper.forgetting.unwrap().mean - 5.0).abs() < 1e-9);
    assert!((line.forgetting_difference.unwrap() - (5.0 - 2.92)).abs() < 1e-9);
    assert_eq!((line.reduced.is_none(), report.lines[1].reduced.is_some()), (true, true));
    assert_eq!(line.ood[0].published, Some(45.18));
    assert_eq!(Spread::of([2.0]).unwrap().std, None);
    assert_eq!(Spread::of([]), None);
}

#[test]
fn a_report_has_tables_for_people_and_machines_and_every_picture_it_names() {
    let folder = tempfile::tempdir().unwrap();
    let files = three_seeds().write(folder.path()).unwrap();
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let text = read("report.md");
    assert!(text.contains("| 90.00 (5.00) | 5.00 (5.00) | 91.00 (0.40) / 2.92 (0.53) | -1.00 / +2.08 |"), "{text}");
    assert!(text.contains("| svhn | 46.00 (0.00) | 45.18 | +0.82 | - |"), "{text}");
    for picture in files.iter().filter(|name| name.ends_with(".svg")) {
        assert!(text.contains(&format!("({picture})")), "{picture}");
        assert!(read(picture).starts_with("<svg"));
    }
    for name in ["curves.svg", "few-images.svg"] {
        assert!(files.iter().any(|file| file == name), "{files:?}");
    }
    let rows = read("report.csv");
    let columns = |line: &str| line.split(',').count();
    assert_eq!(rows.lines().count(), 1 + 2 * 3);
    assert_eq!(columns(rows.lines().nth(1).unwrap()), columns(rows.lines().next().unwrap()));
    let json: serde_json::Value = serde_json::from_str(&read("report.json")).unwrap();
    assert_eq!(json["lines"][0]["strategy"], "lump");
}

#[test]
fn a_folder_without_a_result_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = Report::gather(&[folder.path().into()]).unwrap_err();
    assert_eq!(error.code(), "no-result");
}
