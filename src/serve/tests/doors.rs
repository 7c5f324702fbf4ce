//! Who may ask, by which listener.

use super::*;
use crate::serve::ServeError;

#[tokio::test]
async fn host_and_origin_are_checked_on_every_route_of_tcp() {
    let daemon = Daemon::start().await;
    let port = daemon.bound.tcp.port();
    let hosts = [format!("localhost:{port}"), format!("127.0.0.1:{port}"), format!("[::1]:{port}")];
    for host in &hosts {
        for origin in [String::new(), format!("Origin: http://{host}\r\n")] {
            let reply =
                ask(daemon.tcp().await, "GET", "/v1/status", &format!("Host: {host}\r\n{origin}"), "", b"").await;
            assert_eq!(reply.status, 200, "{host} {origin}");
        }
    }
    let foreign_hosts = ["evil.example", "0.0.0.0", "localhost.evil.example", "127.0.0.2", "box.local"];
    for host in foreign_hosts.iter().map(|host| format!("{host}:{port}")).chain(["localhost".to_string()]) {
        for target in ["/v1/status", "/metrics", "/livez", "/nothing"] {
            let reply = ask(daemon.tcp().await, "GET", target, &format!("Host: {host}\r\n"), "", b"").await;
            assert_eq!(reply.problem(403).0, "foreign-host", "{host} {target}");
        }
    }
    for origin in ["null", "http://evil.example", "http://localhost:3000", "https://localhost"] {
        let headers = format!("Host: localhost:{port}\r\nOrigin: {origin}\r\n");
        let reply = ask(daemon.tcp().await, "POST", "/v1/images", &headers, "image/png", b"image:z").await;
        assert_eq!(reply.problem(403).0, "foreign-origin", "{origin}");
    }
    assert!(daemon.fake.image(7).is_err(), "nothing came in");
}

#[tokio::test]
async fn the_unix_socket_takes_any_host_and_no_foreign_origin() {
    let daemon = Daemon::start().await;
    for host in ["localhost", "lumpd", "evil.example"] {
        let reply = ask(daemon.unix().await, "GET", "/v1/status", &format!("Host: {host}\r\n"), "", b"").await;
        assert_eq!(reply.json()["state"], "running");
    }
    let reply =
        ask(daemon.unix().await, "GET", "/v1/status", "Host: x\r\nOrigin: http://evil.example\r\n", "", b"").await;
    assert_eq!(reply.problem(403).0, "foreign-origin");
}

#[tokio::test]
async fn no_answer_is_for_other_pages_or_caches() {
    let daemon = Daemon::start().await;
    let head = daemon.get("/v1/status").await.head;
    for header in
        ["x-content-type-options: nosniff", "cross-origin-resource-policy: same-origin", "cache-control: no-store"]
    {
        assert!(head.contains(header), "{head}");
    }
    assert!(!head.contains("access-control-"), "{head}");
}

#[tokio::test]
async fn an_address_beyond_loopback_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    for address in ["0.0.0.0:0", "[::]:0", "192.168.1.4:7717"] {
        let error =
            Server::bind(&ServeSettings { listen: address.parse().unwrap(), ..settings() }, &folder.path().join("s"))
                .await
                .unwrap_err();
        assert!(matches!(error, ServeError::NotLoopback { .. }));
        assert!(error.to_string().contains(address) && error.to_string().contains("127.0.0.1"), "{error}");
    }
}

#[tokio::test]
async fn a_port_in_use_is_named_with_what_to_do() {
    let daemon = Daemon::start().await;
    let folder = tempfile::tempdir().unwrap();
    let error = Server::bind(&ServeSettings { listen: daemon.bound.tcp, ..settings() }, &folder.path().join("s"))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "address-in-use");
    let message = error.to_string();
    assert!(
        message.contains(&daemon.bound.tcp.to_string()) && message.contains("set another [serve] listen"),
        "{message}"
    );
}
