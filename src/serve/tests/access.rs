//! Tokens and the description of the API: every route, with every kind of token, and nothing that is not described.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::serve::description;

const READ: &str = "read-0123456789abcdef0123456789abcdef";
const INGEST: &str = "ingest-0123456789abcdef0123456789abcdef";
const ADMIN: &str = "admin-0123456789abcdef0123456789abcdef";

async fn guarded() -> (Daemon, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, token: &str| {
        let path = folder.path().join(name);
        fs::write(&path, token).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        Some(path)
    };
    let settings = ServeSettings {
        read_token_file: file("read", READ),
        ingest_token_file: file("ingest", INGEST),
        admin_token_file: file("admin", ADMIN),
        ..settings()
    };
    (Daemon::with(Fake::new(), &limits(), Hooks::default(), &settings).await, folder)
}

/// Every route of the description with its method.
fn routes() -> Vec<(String, String)> {
    let json = serde_json::to_value(description()).unwrap();
    let paths = json["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, methods)| {
        let target = path.replace("{id}", "1").replace("{label}", "cat");
        methods.as_object().unwrap().keys().map(move |method| (method.to_uppercase(), target.clone()))
    });
    operations.collect()
}

#[tokio::test]
async fn every_route_refuses_a_missing_a_short_a_longer_and_another_token() {
    let (daemon, _folder) = guarded().await;
    let host = format!("Host: {}\r\n", daemon.bound.tcp);
    let status = async |method: &str, target: &str, token: Option<&str>| {
        let header = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        ask(daemon.tcp().await, method, target, &format!("{host}{header}"), "", b"").await
    };
    let longer = format!("{READ}0");
    for (method, target) in routes() {
        if ["/livez", "/readyz"].contains(&target.as_str()) {
            assert_eq!(status(&method, &target, None).await.status, 200, "{target}");
            continue;
        }
        for wrong in [None, Some("short"), Some(&READ[..READ.len() - 1]), Some(&longer), Some("")] {
            let reply = status(&method, &target, wrong).await;
            assert_eq!(reply.problem(401).0, "unauthorized", "{method} {target} {wrong:?}");
            assert!(reply.head.contains("www-authenticate: bearer"), "{}", reply.head);
        }
        let reading =
            method == "GET" || ["/v1/query", "/v1/embed", "/v1/classify"].iter().any(|p| target.starts_with(p));
        let ingesting = method == "POST" && target == "/v1/images";
        for (token, allowed) in [(READ, reading), (INGEST, ingesting)] {
            let reply = status(&method, &target, Some(token)).await;
            if allowed {
                assert!(![401, 403].contains(&reply.status), "{method} {target}");
            } else {
                assert_eq!(reply.problem(403).0, "insufficient-scope", "{method} {target}");
            }
        }
    }
    assert!(daemon.fake.image(1).is_ok(), "nothing was removed without the admin's token");
    let removed = status("DELETE", "/v1/images/1", Some(ADMIN)).await;
    assert_eq!(removed.status, 200);
}

#[tokio::test]
async fn the_refusal_comes_before_the_body_is_read() {
    let (daemon, _folder) = guarded().await;
    let mut stream = daemon.tcp().await;
    let head = format!(
        "POST /v1/images HTTP/1.1\r\nHost: {}\r\nContent-Type: image/png\r\nContent-Length: 9000\r\nConnection: close\r\n\r\n",
        daemon.bound.tcp
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(Reply::of(&answer).problem(401).0, "unauthorized");
}

#[tokio::test]
async fn the_unix_socket_needs_no_token_and_the_page_holds_nothing() {
    let (daemon, _folder) = guarded().await;
    let over_unix = ask(daemon.unix().await, "GET", "/v1/status", "Host: x\r\n", "", b"").await;
    assert_eq!(over_unix.status, 200);
    for target in ["/", "/docs", "/page/style.css"] {
        assert_eq!(daemon.get(target).await.status, 200, "{target}");
    }
    assert_eq!(daemon.get("/page/none.js").await.problem(404).0, "unknown-resource");
    assert_eq!(daemon.get("/page/..%2fmod.rs").await.problem(404).0, "unknown-resource");
}

#[tokio::test]
async fn more_requests_than_allowed_are_a_429_and_health_goes_on() {
    let settings = ServeSettings { requests_per_second: 5.0, ..settings() };
    let daemon = Daemon::with(Fake::new(), &limits(), Hooks::default(), &settings).await;
    let mut statuses = Vec::new();
    for _ in 0..60 {
        statuses.push(daemon.get("/v1/status").await.status);
    }
    assert_eq!(statuses[..5], [200; 5]);
    assert!(statuses.contains(&429), "{statuses:?}");
    assert_eq!(daemon.get("/livez").await.status, 200);
}

#[tokio::test]
async fn the_page_may_load_nothing_from_elsewhere() {
    let daemon = Daemon::start().await;
    for target in ["/", "/docs", "/page/dashboard.js"] {
        let head = daemon.get(target).await.head;
        for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'none'"] {
            assert!(head.contains(part), "{target} {part}: {head}");
        }
        assert!(!head.contains("-inline") && !head.contains("-eval"), "{head}");
    }
}

#[tokio::test]
async fn the_description_is_the_one_that_was_released() {
    let daemon = Daemon::start().await;
    let served = daemon.get("/openapi.json").await.json();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/openapi.json");
    let mut text = serde_json::to_string_pretty(&served).unwrap();
    text.push('\n');
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        fs::write(path, &text).unwrap();
    }
    let released = fs::read_to_string(path).unwrap();
    assert!(
        released == text,
        "the API has changed: look at it, and write it with UPDATE_SNAPSHOTS=1 cargo test released"
    );
}

#[tokio::test]
async fn every_described_route_is_there_and_every_operation_says_what_a_problem_is() {
    let daemon = Daemon::start().await;
    for (method, target) in routes() {
        let reply = daemon.ask(&method, &target, "", b"").await;
        assert_ne!(reply.status, 405, "{method} {target}");
        let unknown = reply.status == 404 && String::from_utf8_lossy(&reply.body).contains("unknown-resource");
        assert!(!unknown, "{method} {target} is described and not there");
    }
    let json = serde_json::to_value(description()).unwrap();
    for (path, methods) in json["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            assert!(operation["responses"]["default"].is_object(), "{method} {path}");
            assert!(operation["summary"].as_str().is_some_and(|summary| !summary.is_empty()), "{method} {path}");
        }
    }
}
