//! What a client may draw out, and what happens at the limits and at the end.

use std::time::Instant;

use super::*;

/// Reads to the end of the connection; returns what came and how long it took.
async fn until_closed(mut stream: impl AsyncRead + Unpin) -> (Vec<u8>, Duration) {
    let (start, mut bytes) = (Instant::now(), Vec::new());
    let read = stream.read_to_end(&mut bytes);
    // A reset closes, too.
    let _ = tokio::time::timeout(Duration::from_secs(5), read).await.expect("the daemon closes the connection");
    (bytes, start.elapsed())
}

#[tokio::test]
async fn silence_a_slow_head_and_an_idle_connection_are_closed() {
    let daemon = Daemon::start().await;
    let silent = daemon.tcp().await;
    let mut slow = daemon.unix().await;
    slow.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.unwrap();
    let mut idle = daemon.unix().await;
    idle.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let (silent, slow, idle) = tokio::join!(until_closed(silent), until_closed(slow), until_closed(idle));
    for (_, took) in [&silent, &slow, &idle] {
        assert!((Duration::from_millis(200)..Duration::from_secs(3)).contains(took), "{took:?}");
    }
    assert_eq!(Reply::of(&idle.0).status, 200, "the request before the silence was answered");
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_a_408() {
    let daemon = Daemon::start().await;
    let mut stream = daemon.unix().await;
    let head = b"POST /v1/query HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 100\r\n\r\nimage:";
    stream.write_all(head).await.unwrap();
    let (bytes, _) = until_closed(stream).await;
    assert_eq!(Reply::of(&bytes).problem(408).0, "body-too-slow");
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_a_413_declared_or_not() {
    let daemon = Daemon::start().await;
    let most = format!("image:{}", "x".repeat(10_000 - 6));
    assert_eq!(daemon.post_image("/v1/query", &most).await.status, 200);
    assert_eq!(daemon.post_image("/v1/query", &format!("{most}x")).await.problem(413).0, "body-too-large");
    let mut chunked =
        b"POST /v1/images HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\
        Connection: close\r\n\r\n"
            .to_vec();
    for _ in 0..20 {
        chunked.extend_from_slice(format!("3e8\r\n{}\r\n", "x".repeat(1000)).as_bytes());
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    let mut stream = daemon.unix().await;
    stream.write_all(&chunked).await.unwrap();
    let (bytes, _) = until_closed(stream).await;
    assert_eq!(Reply::of(&bytes).problem(413).0, "body-too-large");
}

#[tokio::test]
async fn connections_beyond_the_limit_are_told_so_and_places_come_free() {
    let limits = Limits { connections: 2, head_time: Duration::from_secs(5), ..limits() };
    let daemon = Daemon::of(Fake::new(), &limits, Hooks::default()).await;
    let (first, _second) = (daemon.tcp().await, daemon.tcp().await);
    let reply = daemon.get("/livez").await;
    assert_eq!(reply.problem(503).0, "too-many-connections");
    let over_unix = ask(daemon.unix().await, "GET", "/livez", "Host: x\r\n", "", b"").await;
    assert_eq!(over_unix.status, 200, "the limit of one listener does not close the other");
    drop(first);
    let free = async {
        while daemon.get("/livez").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), free).await.expect("a place comes free");
}

#[tokio::test]
async fn questions_beyond_the_line_are_a_429_and_light_ones_go_on() {
    let limits = Limits { compute_running: 1, compute_waiting: 0, ..limits() };
    let daemon = Daemon::of(Fake::new(), &limits, Hooks::default()).await;
    let mut slow = daemon.unix().await;
    let head = b"POST /v1/query HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 6\r\nConnection: close\r\n\r\nslow:a";
    slow.write_all(head).await.unwrap();
    let refused = async {
        loop {
            let reply = daemon.post_image("/v1/embed", "image:c").await;
            if reply.status == 429 {
                return reply;
            }
        }
    };
    let refused = tokio::time::timeout(Duration::from_secs(5), refused).await.expect("the line fills");
    assert_eq!(refused.problem(429).0, "overloaded");
    assert!(refused.head.contains("retry-after: 1"), "{}", refused.head);
    assert_eq!(daemon.get("/v1/status").await.status, 200);
    assert_eq!(daemon.get("/v1/images/1/thumbnail").await.status, 200);
    daemon.fake.release();
    let (bytes, _) = until_closed(slow).await;
    assert_eq!(Reply::of(&bytes).status, 200);
}

#[tokio::test]
async fn the_end_answers_what_is_under_way_and_removes_the_socket() {
    let mut daemon = Daemon::start().await;
    let mut slow = daemon.unix().await;
    let head = b"POST /v1/query HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 6\r\n\r\nslow:a";
    slow.write_all(head).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    daemon.stop.cancel();
    let refused = async {
        while TcpStream::connect(daemon.bound.tcp).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), refused).await.expect("nobody new is let in");
    daemon.fake.release();
    let (bytes, _) = until_closed(slow).await;
    assert_eq!(Reply::of(&bytes).status, 200);
    (&mut daemon.served).await.unwrap();
    assert!(!daemon.socket().exists());
}

#[tokio::test]
async fn the_drain_has_an_end() {
    let limits = Limits { drain_time: Duration::from_millis(100), head_time: Duration::from_secs(60), ..limits() };
    let mut daemon = Daemon::of(Fake::new(), &limits, Hooks::default()).await;
    let mut slow = daemon.unix().await;
    let head = b"POST /v1/query HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 6\r\n\r\nslow:a";
    slow.write_all(head).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    daemon.stop.cancel();
    tokio::time::timeout(Duration::from_secs(3), &mut daemon.served).await.expect("the drain ends").unwrap();
    daemon.fake.release();
}

#[tokio::test]
async fn a_connection_serves_one_request_after_another() {
    let daemon = Daemon::start().await;
    let mut stream = daemon.unix().await;
    for _ in 0..3 {
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 4096];
        let length = stream.read(&mut answer).await.unwrap();
        assert_eq!(Reply::of(&answer[..length]).status, 200);
    }
}

#[tokio::test]
async fn what_is_not_http_is_a_400_and_closed() {
    let daemon = Daemon::start().await;
    for garbage in ["\x16\x03\x01\x02\x00\x01\x00\x01", "GET\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut stream = daemon.tcp().await;
        stream.write_all(garbage.as_bytes()).await.unwrap();
        let (bytes, took) = until_closed(stream).await;
        assert!(bytes.is_empty() || bytes.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&bytes));
        assert!(took < Duration::from_secs(3));
    }
}
