//! Tasks, training, removal, exports, pages of everything, batches, and the stream of events.

use serde_json::json;

use super::*;

#[tokio::test]
async fn tasks_are_begun_named_and_merged_by_hand() {
    let daemon = Daemon::start().await;
    let new = daemon.post_json("/v1/tasks", r#"{"source": "odd", "name": "night"}"#).await;
    assert_eq!((new.status, &new.json()["id"], &new.json()["current"]), (201, &json!(3), &json!(true)));
    let named = daemon.ask("PATCH", "/v1/tasks/1", "application/json", br#"{"name": "day"}"#).await.json();
    assert_eq!((&named["id"], &named["name"]), (&json!(1), &json!("day")));
    assert_eq!(daemon.post_json("/v1/tasks/merge", r#"{"tasks": [1, 2]}"#).await.json()["id"], 1);
    for (method, target, body, status, code, field) in [
        ("POST", "/v1/tasks", r#"{"source": "none"}"#, 404, "unknown-source", None),
        ("POST", "/v1/tasks", r#"{"sauce": "odd"}"#, 400, "unknown-field", Some("sauce")),
        ("PATCH", "/v1/tasks/77", r#"{"name": "x"}"#, 404, "unknown-task", None),
        ("PATCH", "/v1/tasks/1", r#"{"name": ""}"#, 400, "invalid-parameter", Some("name")),
        ("PATCH", "/v1/tasks/1", "{}", 400, "missing-field", Some("name")),
        ("POST", "/v1/tasks/merge", r#"{"tasks": [1, 1]}"#, 400, "invalid-parameter", Some("tasks")),
        ("POST", "/v1/tasks/merge", r#"{"tasks": [1]}"#, 400, "invalid-parameter", Some("tasks")),
        ("POST", "/v1/tasks/merge", r#"{"tasks": [1, 2, 3]}"#, 400, "invalid-parameter", Some("tasks")),
        ("POST", "/v1/tasks/merge", r#"{"tasks": [1, 77]}"#, 404, "unknown-task", None),
    ] {
        let problem = daemon.ask(method, target, "application/json", body.as_bytes()).await.problem(status);
        assert_eq!(problem, (code.into(), field.map(String::from)), "{method} {target} {body}");
    }
}

#[tokio::test]
async fn training_rests_and_goes_on_and_a_checkpoint_is_written() {
    let daemon = Daemon::start().await;
    let paused = daemon.ask("POST", "/v1/training/pause", "", b"").await.json();
    assert_eq!(paused, json!({"paused_since": "1970-01-01T00:00:00Z", "frozen": null, "steps": 130}));
    assert_eq!(daemon.get("/v1/status").await.json()["learn"]["paused_since"], "1970-01-01T00:00:00Z");
    assert_eq!(daemon.ask("POST", "/v1/training/resume", "", b"").await.json()["paused_since"], Value::Null);
    assert_eq!(daemon.ask("POST", "/v1/checkpoints", "", b"").await.json()["step"], 130);
}

#[tokio::test]
async fn images_are_removed_for_good() {
    let daemon = Daemon::start().await;
    assert_eq!(daemon.ask("DELETE", "/v1/images/1", "", b"").await.json(), json!({"forgotten": 1, "unknown": []}));
    assert_eq!(daemon.get("/v1/images/1").await.problem(404).0, "unknown-image");
    assert_eq!(daemon.ask("DELETE", "/v1/images/1", "", b"").await.problem(404).0, "unknown-image");
    let several = daemon.ask("DELETE", "/v1/images?ids=2,3,99", "", b"").await.json();
    assert_eq!(several, json!({"forgotten": 2, "unknown": [99]}));
    let many = (1..=101).map(|id| id.to_string()).collect::<Vec<_>>().join(",");
    let problem = daemon.ask("DELETE", &format!("/v1/images?ids={many}"), "", b"").await.problem(400);
    assert_eq!(problem.1.as_deref(), Some("ids"));
    assert_eq!(daemon.ask("DELETE", "/v1/images", "", b"").await.problem(400).0, "missing-field");
}

#[tokio::test]
async fn images_are_listed_in_both_orders_page_by_page() {
    let daemon = Daemon::start().await;
    let ids = |page: &Value| {
        let images = page["images"].as_array().unwrap();
        images.iter().map(|image| image["id"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let page = daemon.get("/v1/images?limit=4").await.json();
    assert_eq!((ids(&page), &page["next"]), (vec![1, 2, 3, 4], &json!(4)));
    let rest = daemon.get("/v1/images?limit=4&after=4").await.json();
    assert_eq!((ids(&rest), &rest["next"]), (vec![5, 6], &Value::Null));
    let newest = daemon.get("/v1/images?order=newest&limit=2").await.json();
    assert_eq!((ids(&newest), &newest["next"]), (vec![6, 5], &json!(5)));
    assert_eq!(ids(&daemon.get("/v1/images?order=newest&after=5&limit=2").await.json()), [4, 3]);
    assert_eq!(ids(&daemon.get("/v1/images?task=2").await.json()), [4, 5, 6]);
    assert_eq!(ids(&daemon.get("/v1/images?since=1970-01-01T00:00:00.000000005Z").await.json()), [5, 6]);
    assert_eq!(daemon.get("/v1/images?order=best").await.problem(400).1.as_deref(), Some("order"));
    assert_eq!(daemon.get("/v1/images?since=yesterday").await.problem(400).1.as_deref(), Some("since"));
}

#[tokio::test]
async fn neighbours_come_in_pages_and_by_vector() {
    let daemon = Daemon::start().await;
    let first = daemon.post_image("/v1/query?k=4", "image:c").await.json();
    let second = daemon.post_image("/v1/query?k=4&offset=4", "image:c").await.json();
    assert_eq!((first["neighbours"].as_array().unwrap().len(), &first["next"]), (4, &json!(4)));
    assert_eq!((second["neighbours"].as_array().unwrap().len(), &second["next"]), (2, &Value::Null));
    assert_ne!(first["neighbours"][0]["id"], second["neighbours"][0]["id"]);
    let vector = daemon.post_image("/v1/embed", "image:c").await.json()["vector"].clone();
    let question = json!({"vector": vector, "encoder": "0123abcd", "k": 4});
    let by_vector = daemon.post_json("/v1/query", &question.to_string()).await.json();
    assert_eq!(by_vector["neighbours"][0]["id"], first["neighbours"][0]["id"]);
    for (question, status, code, field) in [
        (json!({"vector": [1.0], "k": 1}), 400, "invalid-parameter", Some("vector")),
        (json!({"vector": "1,0"}), 400, "invalid-parameter", Some("vector")),
        (json!({"vector": [1.0, "x"]}), 400, "invalid-parameter", Some("vector")),
        (json!({"vector": [1.0, 0.0], "id": 1}), 400, "invalid-parameter", Some("vector")),
        (json!({"id": 1, "encoder": "0123abcd"}), 400, "invalid-parameter", Some("encoder")),
        (json!({"vector": [1.0, 0.0], "encoder": "ffff"}), 409, "other-encoder", None),
    ] {
        let problem = daemon.post_json("/v1/query", &question.to_string()).await.problem(status);
        assert_eq!(problem, (code.into(), field.map(String::from)), "{question}");
    }
}

#[tokio::test]
async fn a_batch_answers_each_and_names_the_one_in_error() {
    let daemon = Daemon::start().await;
    let image = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, "image:c");
    let subjects = json!([{"id": 1}, {"image": image}, {"vector": [1.0, 0.0]}]);
    let answer = daemon.post_json("/v1/query/batch", &json!({"subjects": subjects, "k": 3}).to_string()).await.json();
    let lengths: Vec<usize> =
        answer["results"].as_array().unwrap().iter().map(|r| r.as_array().unwrap().len()).collect();
    assert_eq!((lengths, &answer["encoder_version"]), (vec![3, 3, 3], &json!(3)));
    let embedded = daemon.post_json("/v1/embed/batch", &json!({"subjects": [{"id": 1}, {"id": 2}]}).to_string()).await;
    assert_eq!(embedded.json()["vectors"].as_array().unwrap().len(), 2);
    for (subjects, status, code) in [
        (json!([{"id": 1}, {"id": 99}]), 404, "unknown-image"),
        (json!([]), 400, "invalid-parameter"),
        (json!([{"id": 1, "vector": [1.0, 0.0]}]), 400, "invalid-parameter"),
        (json!([{}]), 400, "invalid-parameter"),
        (json!([7]), 400, "invalid-parameter"),
        (json!([{"image": "!!"}]), 400, "invalid-parameter"),
        (json!(vec![json!({"id": 1}); 65]), 400, "invalid-parameter"),
    ] {
        let problem =
            daemon.post_json("/v1/query/batch", &json!({"subjects": subjects}).to_string()).await.problem(status);
        assert_eq!(problem, (code.into(), Some("subjects".into())), "{subjects}");
    }
}

#[tokio::test]
async fn embeddings_come_as_numbers_with_their_encoder_in_the_headers() {
    let daemon = Daemon::start().await;
    let host = format!("Host: {}\r\nAccept: application/octet-stream\r\n", daemon.bound.tcp);
    let one = ask(daemon.tcp().await, "POST", "/v1/embed", &host, "image/png", b"image:c").await;
    for header in ["lumpd-encoder: 0123abcd", "lumpd-encoder-version: 3", "lumpd-shape: 2", "application/octet-stream"]
    {
        assert!(one.head.contains(header), "{header}: {}", one.head);
    }
    let numbers: Vec<f32> = one.body.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    assert_eq!(numbers, [0.99f64.cos() as f32, 0.99f64.sin() as f32]);
    let page = ask(daemon.tcp().await, "GET", "/v1/embeddings?limit=2&after=2", &host, "", b"").await;
    assert!(page.head.contains("lumpd-ids: 3,4") && page.head.contains("lumpd-shape: 2,2"), "{}", page.head);
    assert_eq!(page.body.len(), 16);
    let json = daemon.get("/v1/embeddings?limit=2").await.json();
    assert_eq!((&json["rows"][0]["id"], &json["next"], &json["width"]), (&json!(1), &json!(2), &json!(2)));
}

#[tokio::test]
async fn files_are_downloads_that_name_their_encoder() {
    let daemon = Daemon::start().await;
    for what in ["bank", "encoder"] {
        let file = daemon.get(&format!("/v1/export/{what}")).await;
        assert_eq!(file.body, what.as_bytes());
        assert!(file.head.contains(&format!("filename=\"lumpd-{what}-v3.safetensors\"")), "{}", file.head);
        assert!(file.head.contains("lumpd-encoder: 0123abcd"), "{}", file.head);
    }
    let map = daemon.get("/v1/map?limit=10").await.json();
    assert_eq!((&map["points"][0]["id"], &map["explained"]), (&json!(1), &json!([0.5, 0.25])));
    assert_eq!(daemon.get("/v1/map?limit=0").await.problem(400).1.as_deref(), Some("limit"));
    assert_eq!(daemon.get("/v1/history").await.json(), json!({"interval_seconds": 2.0, "samples": []}));
}

/// Reads until so many blocks of a stream of events have come, or it ends.
async fn blocks(stream: &mut TcpStream, count: usize) -> String {
    let mut text = String::new();
    let mut bytes = [0; 4096];
    let read = async {
        while text.matches("\ndata:").count() < count {
            match stream.read(&mut bytes).await.unwrap() {
                0 => break,
                length => text.push_str(&String::from_utf8_lossy(&bytes[..length])),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), read).await.expect("the events come");
    text
}

#[tokio::test]
async fn events_stream_from_where_a_reader_left_off_and_end_with_the_daemon() {
    let daemon = Daemon::start().await;
    let mut stream = daemon.tcp().await;
    let head = |more: &str| {
        format!("GET /v1/events HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n{more}\r\n", daemon.bound.tcp)
    };
    stream.write_all(head("Last-Event-ID: 3\r\n").as_bytes()).await.unwrap();
    let missed = blocks(&mut stream, 2).await;
    assert!(missed.contains("content-type: text/event-stream") && !missed.contains("id: 3\n"), "{missed}");
    assert!(missed.contains("id: 4\n") && missed.contains("event: task-opened\n"), "{missed}");
    let mut live = daemon.tcp().await;
    live.write_all(head("").as_bytes()).await.unwrap();
    daemon.fake.happen();
    assert!(blocks(&mut stream, 1).await.contains("id: 6\n"));
    daemon.fake.stopping();
    let end = blocks(&mut stream, usize::MAX).await;
    assert!(end.contains("id: 7\n"), "it ends after what was still to be said: {end}");
    let last = blocks(&mut live, usize::MAX).await;
    assert!(last.contains("id: 7\n"), "{last}");
}
