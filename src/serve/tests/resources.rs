//! Every resource: what it answers, and how it says no.

use std::sync::Mutex;

use serde_json::json;

use super::*;
use crate::serve::Served;

#[tokio::test]
async fn the_status_is_one_object_and_what_is_undefined_is_null() {
    let daemon = Daemon::of(Fake::unready(), &limits(), Hooks::default()).await;
    let status = daemon.get("/v1/status").await.json();
    assert_eq!(status["state"], "starting");
    assert_eq!(status["device"]["taken"], "cpu (2 threads)");
    assert_eq!(status["buffer"]["used"], 6);
    assert!(status["encoder"].is_null() && status["learn"]["loss"].is_null() && status["checkpoint"].is_null());
}

#[tokio::test]
async fn sources_buffer_accuracy_and_forgetting_answer() {
    let daemon = Daemon::start().await;
    let sources = daemon.get("/v1/sources").await.json();
    assert_eq!(sources["sources"][0]["refused"]["not-an-image"], 2);
    assert_eq!(sources["sources"][0]["last_frame_at"], "1970-01-01T00:00:01Z");
    let buffer = daemon.get("/v1/buffer").await.json();
    assert_eq!((&buffer["slots"], &buffer["labelled"]), (&json!(16), &json!(2)));
    assert_eq!(buffer["composition"][1], json!({"task": null, "images": 3}));
    assert_eq!(daemon.get("/v1/forgetting").await.json(), daemon.fake.forgetting());
    assert_eq!(daemon.get("/v1/accuracy").await.json(), daemon.fake.accuracy());
}

#[tokio::test]
async fn tasks_come_in_pages_and_one_by_one() {
    let daemon = Daemon::start().await;
    let all = daemon.get("/v1/tasks").await.json();
    assert_eq!((all["tasks"].as_array().unwrap().len(), &all["next"]), (2, &Value::Null));
    let first = daemon.get("/v1/tasks?limit=1").await.json();
    assert_eq!((&first["tasks"][0]["id"], &first["next"]), (&json!(1), &json!(1)));
    let second = daemon.get("/v1/tasks?limit=1&after=1").await.json();
    assert_eq!((&second["tasks"][0]["id"], &second["next"]), (&json!(2), &Value::Null));
    assert_eq!(daemon.get("/v1/tasks/2").await.json()["current"], true);
    assert_eq!(daemon.get("/v1/tasks/9").await.problem(404).0, "unknown-task");
    assert_eq!(daemon.get("/v1/tasks/x").await.problem(400), ("invalid-id".into(), Some("id".into())));
    assert_eq!(daemon.get("/v1/tasks?limit=0").await.problem(400).1.unwrap(), "limit");
}

#[tokio::test]
async fn events_are_read_on_from_where_one_stopped() {
    let daemon = Daemon::start().await;
    let first = daemon.get("/v1/events?limit=2").await.json();
    assert_eq!((first["events"].as_array().unwrap().len(), &first["next"]), (2, &json!(2)));
    let rest = daemon.get("/v1/events?after=2").await.json();
    assert_eq!(rest["events"][0]["sequence"], 3);
}

#[tokio::test]
async fn a_stored_image_has_facts_and_a_picture() {
    let daemon = Daemon::start().await;
    let image = daemon.get("/v1/images/1").await.json();
    assert_eq!((&image["label"], &image["source"]), (&json!("cat"), &json!("odd")));
    let picture = daemon.get(image["thumbnail"].as_str().unwrap()).await;
    assert!(picture.head.contains("content-type: image/png"), "{}", picture.head);
    assert_eq!(picture.body, daemon.fake.thumbnail(1).unwrap());
    assert_eq!(daemon.get("/v1/images/99").await.problem(404).0, "unknown-image");
    assert_eq!(daemon.get("/v1/images/99/thumbnail").await.problem(404).0, "unknown-image");
    assert_eq!(daemon.get("/v1/images/%ff").await.problem(400).0, "invalid-path");
}

#[tokio::test]
async fn a_query_by_image_and_by_id_finds_neighbours_with_all_that_is_known_of_them() {
    let daemon = Daemon::start().await;
    let by_image = daemon.post_image("/v1/query?k=3", "image:c").await.json();
    assert_eq!((&by_image["encoder"], &by_image["encoder_version"]), (&json!("0123abcd"), &json!(3)));
    let nearest = &by_image["neighbours"][0];
    assert_eq!(
        (&nearest["id"], &nearest["score"], &nearest["task"], &nearest["source"]),
        (&json!(2), &json!(1.0), &json!(1), &json!("even"))
    );
    assert_eq!(nearest["thumbnail"], "/v1/images/2/thumbnail");
    assert_eq!(by_image["neighbours"].as_array().unwrap().len(), 3);
    let by_id = daemon.post_json("/v1/query", r#"{"id": 2, "k": 1, "source": "odd", "task": null}"#).await.json();
    assert_eq!(by_id["neighbours"].as_array().unwrap().len(), 1);
    assert_eq!(by_id["neighbours"][0]["source"], "odd");
    let labelled = daemon.post_image("/v1/query?label=cat&k=10", "image:c").await.json();
    assert_eq!(labelled["neighbours"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_query_that_cannot_be_answered_says_why() {
    let daemon = Daemon::start().await;
    for (image, status, code) in [
        ("text", 422, "not-an-image"),
        ("short:", 422, "truncated-image"),
        ("huge:", 413, "too-large"),
        ("full:", 429, "overloaded"),
        ("panic:", 500, "internal"),
    ] {
        for route in ["/v1/query", "/v1/embed", "/v1/classify", "/v1/images"] {
            assert_eq!(daemon.post_image(route, image).await.problem(status).0, code, "{route}");
        }
    }
    for (target, status, code, field) in [
        ("/v1/query?k=0", 400, "invalid-parameter", Some("k")),
        ("/v1/query?kk=1", 400, "unknown-parameter", Some("kk")),
        ("/v1/query?label=", 400, "invalid-label", Some("label")),
        ("/v1/query?task=77", 404, "unknown-task", None),
        ("/v1/query?source=x", 404, "unknown-source", None),
        ("/v1/embed?k=1", 400, "unknown-parameter", Some("k")),
        ("/v1/classify?temperature=0", 400, "invalid-parameter", Some("temperature")),
        ("/v1/images?sauce=x", 400, "unknown-parameter", Some("sauce")),
    ] {
        let problem = daemon.post_image(target, "image:c").await.problem(status);
        assert_eq!(problem, (code.into(), field.map(String::from)), "{target}");
    }
    for (json, status, code, field) in [
        ("{", 400, "invalid-json", None),
        ("{}", 400, "missing-field", Some("id")),
        (r#"{"id": "2"}"#, 400, "invalid-parameter", Some("id")),
        (r#"{"id": 2, "neighbours": 3}"#, 400, "unknown-field", Some("neighbours")),
        (r#"{"id": 99}"#, 404, "unknown-image", None),
    ] {
        let problem = daemon.post_json("/v1/query", json).await.problem(status);
        assert_eq!(problem, (code.into(), field.map(String::from)), "{json}");
    }
    assert_eq!(daemon.post_json("/v1/query?k=1", r#"{"id": 2}"#).await.problem(400).0, "unknown-parameter");
}

#[tokio::test]
async fn embedding_and_classification_answer() {
    let daemon = Daemon::start().await;
    assert_eq!(daemon.post_image("/v1/embed", "image:c").await.json()["vector"].as_array().unwrap().len(), 2);
    assert_eq!(daemon.post_json("/v1/embed", r#"{"id": 1}"#).await.status, 200);
    let classified = daemon.post_image("/v1/classify?k=5&temperature=0.2", "image:c").await.json();
    assert_eq!(
        (&classified["label"], &classified["k"], &classified["temperature"]),
        (&json!("cat"), &json!(5), &json!(0.2))
    );
    assert_eq!(classified["probabilities"][0], json!({"label": "cat", "probability": 1.0}));
    daemon.fake.remove_labels(&[1, 2]).unwrap();
    let unlabelled = daemon.post_image("/v1/classify", "image:c").await.json();
    assert_eq!((&unlabelled["label"], &unlabelled["probabilities"]), (&Value::Null, &json!([])));
}

#[tokio::test]
async fn before_the_first_encoder_queries_say_to_come_back() {
    let daemon = Daemon::of(Fake::unready(), &limits(), Hooks::default()).await;
    let reply = daemon.post_image("/v1/query", "image:c").await;
    assert_eq!(reply.problem(503).0, "no-encoder-yet");
    assert!(reply.head.contains("retry-after: 5"), "{}", reply.head);
    assert_eq!(daemon.get("/readyz").await.problem(503).0, "not-ready");
    assert_eq!(daemon.get("/healthz").await.status, 503);
    assert_eq!(daemon.get("/livez").await.json()["live"], true);
}

#[tokio::test]
async fn labels_are_given_listed_and_taken_away() {
    let daemon = Daemon::start().await;
    let put = daemon.ask("PUT", "/v1/labels", "application/json", br#"{"label": "dog", "ids": [2, 3]}"#).await;
    assert_eq!(put.json(), json!({"label": "dog", "changed": 2}));
    let first = daemon.get("/v1/labels?limit=1").await.json();
    assert_eq!(first, json!({"labels": [{"label": "cat", "images": 1}], "next": "cat"}));
    assert_eq!(daemon.get("/v1/labels?after=cat").await.json()["labels"][0]["label"], "dog");
    assert_eq!(daemon.get("/v1/labels/dog").await.json(), json!({"label": "dog", "ids": [2, 3], "next": null}));
    assert_eq!(daemon.get("/v1/labels/dog?limit=1").await.json()["next"], 2);
    assert_eq!(daemon.get("/v1/labels/none%20such").await.json()["ids"], json!([]));
    let removed = daemon.ask("DELETE", "/v1/labels?ids=1,2", "", b"").await.json();
    assert_eq!(removed, json!({"label": null, "changed": 2}));
}

#[tokio::test]
async fn a_label_that_cannot_be_given_is_given_to_none() {
    let daemon = Daemon::start().await;
    for (json, status, code, field) in [
        (r#"{"label": "dog", "ids": [3, 99]}"#, 404, "unknown-image", None),
        (r#"{"label": " dog", "ids": [3]}"#, 400, "invalid-label", Some("label")),
        (r#"{"label": "dog"}"#, 400, "missing-field", Some("ids")),
        (r#"{"ids": [3]}"#, 400, "missing-field", Some("label")),
        (r#"{"label": "dog", "ids": []}"#, 400, "invalid-parameter", Some("ids")),
        (r#"{"label": "dog", "ids": [3], "id": 4}"#, 400, "unknown-field", Some("id")),
    ] {
        let problem = daemon.ask("PUT", "/v1/labels", "application/json", json.as_bytes()).await.problem(status);
        assert_eq!(problem, (code.into(), field.map(String::from)), "{json}");
    }
    assert_eq!(daemon.ask("DELETE", "/v1/labels", "", b"").await.problem(400).0, "missing-field");
    assert_eq!(daemon.get("/v1/labels/dog").await.json()["ids"], json!([]));
}

#[tokio::test]
async fn a_posted_image_is_taken_in_once() {
    let daemon = Daemon::start().await;
    let new = daemon.post_image("/v1/images?source=phone&label=dog", "image:z").await;
    assert_eq!((new.status, new.json()), (201, json!({"outcome": "accepted", "id": 7})));
    let stored = daemon.get("/v1/images/7").await.json();
    assert_eq!((&stored["source"], &stored["label"]), (&json!("phone"), &json!("dog")));
    let again = daemon.post_image("/v1/images", "image:z").await;
    assert_eq!((again.status, again.json()), (200, json!({"outcome": "duplicate", "id": 7})));
}

#[tokio::test]
async fn bodies_have_a_type_and_are_not_compressed() {
    let daemon = Daemon::start().await;
    for kind in ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
        let problem = daemon.ask("POST", "/v1/query", kind, b"image:c").await.problem(415);
        assert_eq!(problem.1.unwrap(), "Content-Type", "{kind}");
    }
    assert_eq!(daemon.post_json("/v1/images", "{}").await.problem(415).0, "unsupported-content-type");
    assert_eq!(daemon.post_image("/v1/query", "").await.problem(400).0, "empty-body");
    let headers = format!("Host: {}\r\nContent-Encoding: gzip\r\n", daemon.bound.tcp);
    let packed = ask(daemon.tcp().await, "POST", "/v1/query", &headers, "image/png", b"x").await;
    assert_eq!(packed.problem(415).0, "unsupported-encoding");
}

#[tokio::test]
async fn what_does_not_exist_is_a_problem_too() {
    let daemon = Daemon::start().await;
    for target in ["/v1", "/v1/", "/v1/nothing", "/v2/status", "/v1/tasks/1/2", "/v1/../etc/passwd"] {
        assert_eq!(daemon.get(target).await.problem(404).0, "unknown-resource", "{target}");
    }
    for (method, target, allowed) in [
        ("POST", "/v1/status", "get,head"),
        ("DELETE", "/v1/tasks/1", "get,head,patch"),
        ("GET", "/v1/query", "post"),
        ("PATCH", "/v1/labels", "delete,get,head,put"),
    ] {
        let reply = daemon.ask(method, target, "", b"").await;
        assert_eq!(reply.problem(405).0, "method-not-allowed");
        let line = reply.head.lines().find_map(|line| line.strip_prefix("allow: ")).unwrap();
        let mut methods: Vec<&str> = line.split(',').map(str::trim).collect();
        methods.sort_unstable();
        assert_eq!(methods.join(","), allowed, "{target}");
    }
    for target in
        ["/v1/status", "/v1/sources", "/v1/buffer", "/v1/tasks/1", "/v1/images/1", "/metrics", "/livez", "/readyz"]
    {
        let problem = daemon.get(&format!("{target}?verbose=1")).await.problem(400);
        assert_eq!(problem, ("unknown-parameter".into(), Some("verbose".into())), "{target}");
    }
    let head = daemon.ask("HEAD", "/v1/status", "", b"").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[tokio::test]
async fn metrics_are_rendered_and_answers_counted_by_route() {
    let served = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&served);
    let hooks = Hooks {
        render_metrics: Box::new(|| "lumpd_task_current 2\n".into()),
        on_served: Box::new(move |answer: &Served| log.lock().unwrap().push((answer.route.clone(), answer.status))),
    };
    let daemon = Daemon::of(Fake::new(), &limits(), hooks).await;
    let metrics = daemon.get("/metrics").await;
    assert!(metrics.head.contains("content-type: text/plain; version=0.0.4"), "{}", metrics.head);
    assert_eq!(metrics.body, b"lumpd_task_current 2\n");
    daemon.get("/v1/tasks/1").await;
    daemon.get("/v1/tasks/77").await;
    daemon.get("/anything/else").await;
    let expected = [("/metrics", 200), ("/v1/tasks/{id}", 200), ("/v1/tasks/{id}", 404), ("other", 404)];
    assert_eq!(*served.lock().unwrap(), expected.map(|(route, status)| (route.to_string(), status)));
}
