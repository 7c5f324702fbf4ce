//! What comes out: queries, tasks, embeddings, labels, forgetting, pictures, and problems for questions that make no sense.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use crate::pictures::{folder_of, png, put};
use crate::process::{Answer, Daemon, lumpd, stderr, stdout};

/// Pictures that the daemon of these tests has taken in.
const STORED: u64 = 24;

/// A daemon with pictures 1 to [`STORED`] in its buffer, under these ids.
fn daemon() -> (TempDir, Daemon) {
    let dir = tempdir().unwrap();
    let (frames, folder) = (dir.path().join("frames.sock"), dir.path().join("in"));
    folder_of(&folder, 1..=STORED);
    let arguments = ["--unix", text(&frames), "--set", "evaluate.holdout_ratio=0"];
    let mut daemon = Daemon::start(&dir.path().join("state"), &arguments);
    let fed = lumpd().args(["feed", text(&folder), "--to", text(&frames)]).output().unwrap();
    assert!(fed.status.success(), "{}", stderr(&fed));
    daemon.wait("all pictures in the bank", |daemon| {
        let answer = daemon.post_image("/v1/query?k=1000", &png(1)).json();
        answer["neighbours"].as_array().is_some_and(|all| all.len() as u64 == STORED)
    });
    (dir, daemon)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary folder has a plain name")
}

#[test]
fn a_stored_image_is_its_own_nearest_neighbour_with_score_1() {
    let (dir, daemon) = daemon();
    for number in [1, 7, STORED] {
        let image = put(dir.path(), "query.png", &png(number));
        let answer = daemon.ask(&["query", text(&image), "-k", "5"]);
        let neighbours = answer["neighbours"].as_array().unwrap();
        assert_eq!(neighbours.len(), 5, "{answer}");
        assert_eq!(neighbours[0]["id"], number, "{answer}");
        assert!((neighbours[0]["score"].as_f64().unwrap() - 1.0).abs() < 1e-3, "{answer}");
        assert_eq!((&neighbours[0]["source"], &neighbours[0]["task"]), (&json!("unix-1"), &json!(1)), "{answer}");
        let scores: Vec<f64> = neighbours.iter().map(|n| n["score"].as_f64().unwrap()).collect();
        assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
        assert!(answer["encoder_version"].as_u64().unwrap() >= 1, "{answer}");
    }
}

#[test]
fn a_query_by_id_leaves_the_image_itself_out_and_filters_hold() {
    let (_dir, daemon) = daemon();
    let answer = daemon.ask(&["query", "--id", "3", "-k", "1000"]);
    let ids: Vec<u64> = answer["neighbours"].as_array().unwrap().iter().map(|n| n["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len() as u64, STORED - 1, "{ids:?}");
    assert!(!ids.contains(&3));
    let labelled = daemon.send_json("PUT", "/v1/labels", &json!({"label": "stop sign", "ids": [4, 5]}));
    assert_eq!(labelled.json(), json!({"label": "stop sign", "changed": 2}));
    let answer = daemon.ask(&["query", "--id", "3", "--label", "stop sign"]);
    let mut ids: Vec<u64> =
        answer["neighbours"].as_array().unwrap().iter().map(|n| n["id"].as_u64().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, [4, 5]);
}

#[test]
fn an_embedding_has_unit_length_and_names_its_encoder() {
    let (_dir, daemon) = daemon();
    let answer = daemon.post_image("/v1/embed", &png(2)).json();
    let vector: Vec<f64> = answer["vector"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
    let length = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
    assert_eq!(vector.len(), 128, "the width of resnet18-w16");
    assert!((length - 1.0).abs() < 1e-4, "{length}");
    assert!(answer["encoder_version"].as_u64().is_some_and(|version| version >= 1));
    assert!(answer["encoder"].as_str().is_some_and(|id| !id.is_empty()));
}

#[test]
fn labels_are_given_listed_voted_with_and_taken_away() {
    let (dir, daemon) = daemon();
    let image = put(dir.path(), "query.png", &png(6));
    let unlabelled = daemon.ask(&["classify", text(&image)]);
    assert_eq!(unlabelled["label"], Value::Null, "nothing is labelled yet: {unlabelled}");
    daemon.ask(&["label", "gear", "6", "7"]);
    daemon.ask(&["label", "can", "8"]);
    let expected = json!([{"label": "can", "images": 1}, {"label": "gear", "images": 2}]);
    assert_eq!(daemon.ask(&["label"])["labels"], expected);
    let voted = daemon.ask(&["classify", text(&image), "-k", "3"]);
    assert_eq!(voted["label"], "gear", "{voted}");
    let sum: f64 = voted["probabilities"].as_array().unwrap().iter().map(|p| p["probability"].as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-6, "{voted}");
    daemon.ask(&["label", "--remove", "6", "7"]);
    assert_eq!(daemon.ask(&["label"])["labels"], json!([{"label": "can", "images": 1}]));
    let unknown = daemon.client(&["label", "gear", "999"]);
    assert!(!unknown.status.success() && stderr(&unknown).contains("999"), "{}", stderr(&unknown));
}

#[test]
fn what_is_not_known_about_forgetting_is_null_and_says_why() {
    let (_dir, daemon) = daemon();
    let report = daemon.get("/v1/forgetting").json();
    assert_eq!(report["mean_retained"], Value::Null, "{report}");
    for task in report["tasks"].as_array().unwrap() {
        assert_eq!(task["retained"], Value::Null, "{report}");
        assert!(task["summary"].as_str().is_some_and(|why| !why.is_empty()), "{report}");
    }
    for measure in ["average_accuracy", "forgetting_max", "backward_transfer", "forward_transfer"] {
        assert_eq!(report["accuracy"].get(measure), Some(&Value::Null), "{measure}: {report}");
    }
    let said = daemon.client(&["forgetting"]);
    assert!(said.status.success(), "{}", stderr(&said));
}

#[test]
fn tasks_and_status_are_told_to_people_and_to_programs() {
    let (_dir, daemon) = daemon();
    let tasks = daemon.ask(&["tasks"]);
    let first = &tasks["tasks"][0];
    assert_eq!(
        (&first["id"], &first["current"], &first["first_frame"]),
        (&json!(1), &json!(true), &json!(1)),
        "{tasks}"
    );
    assert_eq!(daemon.ask(&["tasks", "1"])["id"], 1);
    let status = daemon.status();
    assert_eq!((&status["device"]["asked"], &status["state"]), (&json!("cpu"), &json!("running")), "{status}");
    for verb in ["status", "sources", "tasks"] {
        let said = daemon.client(&[verb]);
        assert!(said.status.success() && !stdout(&said).is_empty(), "{verb}: {}", stderr(&said));
    }
}

#[test]
fn a_thumbnail_is_a_png_of_the_encoders_side() {
    let (dir, daemon) = daemon();
    let answer = daemon.get("/v1/images/5/thumbnail");
    assert!(answer.head.to_lowercase().contains("content-type: image/png"), "{}", answer.head);
    let picture = image::load_from_memory_with_format(&answer.body, image::ImageFormat::Png).unwrap();
    assert_eq!((picture.width(), picture.height()), (32, 32));
    let folder = dir.path().join("thumbnails");
    daemon.ask(&["query", "--id", "5", "-k", "3", "--thumbnails", text(&folder)]);
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 3);
}

fn assert_problem(answer: &Answer, status: u16, code: &str, field: Option<&str>) {
    let what = answer.text();
    assert_eq!(answer.status, status, "{what}");
    assert!(answer.head.to_lowercase().contains("content-type: application/problem+json"), "{}", answer.head);
    let problem = answer.json();
    assert_eq!(problem["code"], code, "{what}");
    assert_eq!(problem["type"], format!("urn:lumpd:problem:{code}"), "{what}");
    assert_eq!(problem["field"].as_str(), field, "{what}");
    let remedy = problem["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty());
    assert!(remedy || problem["detail"].as_str().is_some_and(|detail| detail.contains(" must ")), "what to do: {what}");
}

#[test]
fn a_question_that_makes_no_sense_is_a_problem_that_names_the_fault() {
    let (_dir, daemon) = daemon();
    assert_problem(&daemon.get("/v1/images/999"), 404, "unknown-image", None);
    assert_problem(&daemon.get("/v1/images/999/thumbnail"), 404, "unknown-image", None);
    assert_problem(&daemon.get("/v1/tasks/77"), 404, "unknown-task", None);
    assert_problem(&daemon.get("/v1/nothing"), 404, "unknown-resource", None);
    assert_problem(&daemon.request("DELETE", "/v1/status", "text/plain", &[]), 405, "method-not-allowed", None);
    let field = daemon.send_json("POST", "/v1/query", &json!({"id": 1, "neighbors": 5}));
    assert_problem(&field, 400, "unknown-field", Some("neighbors"));
    assert_problem(&daemon.post_image("/v1/query?k=0", &png(1)), 400, "invalid-parameter", Some("k"));
    assert_problem(&daemon.post_image("/v1/query?task=77", &png(1)), 404, "unknown-task", None);
    assert_problem(&daemon.request("POST", "/v1/query", "application/json", b"{"), 400, "invalid-json", None);
}

#[test]
fn a_web_page_of_elsewhere_may_not_ask() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start::<&str>(&dir.path().join("state"), &[]);
    let own = format!("Host: {}\r\n", daemon.address());
    assert_eq!(daemon.request_over_tcp(&own).status, 200);
    for headers in ["Host: evil.example\r\n", "Host: 0.0.0.0\r\n", &format!("{own}Origin: http://evil.example\r\n")] {
        let answer = daemon.request_over_tcp(headers);
        assert_eq!(answer.status, 403, "{headers}: {}", answer.text());
        assert!(answer.json()["remedy"].is_string(), "{}", answer.text());
    }
}
