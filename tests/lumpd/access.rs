//! Who may ask a daemon that others can reach.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::tempdir;

use crate::process::{Daemon, run, stderr};

const TOKEN: &str = "0123456789abcdef0123456789abcdef01234567";

fn token(folder: &Path, mode: u32) -> PathBuf {
    let path = folder.join("admin.token");
    fs::write(&path, format!("{TOKEN}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

#[test]
fn beyond_loopback_it_starts_with_a_token_only_and_answers_to_its_names_only() {
    let folder = tempdir().unwrap();
    let state = folder.path().join("state");
    let bare = run(&["run", "--state-dir", state.to_str().unwrap(), "--listen", "0.0.0.0:0"]);
    assert_eq!(bare.status.code(), Some(78), "{}", stderr(&bare));
    assert!(stderr(&bare).contains("no token says who may"), "{}", stderr(&bare));

    let setting = format!("serve.admin_token_file={:?}", token(folder.path(), 0o600).to_str().unwrap());
    let arguments = ["--listen", "0.0.0.0:0", "--set", &setting, "--set", "serve.hosts=[\"box.example\"]"];
    let daemon = Daemon::start(&state, &arguments);
    let port = daemon.address().rsplit(':').next().unwrap().to_owned();
    let ask = |host: &str, more: &str| {
        let headers = format!("Host: {host}\r\n{more}");
        daemon.request_over_tcp_at(&format!("127.0.0.1:{port}"), &headers).status
    };
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    assert_eq!(ask(&format!("box.example:{port}"), &bearer), 200);
    assert_eq!(ask(&format!("localhost:{port}"), &bearer), 200);
    assert_eq!(ask(&format!("localhost:{port}"), ""), 401);
    assert_eq!(ask(&format!("localhost:{port}"), &format!("Authorization: Bearer {}\r\n", &TOKEN[1..])), 401);
    for foreign in [format!("0.0.0.0:{port}"), format!("evil.example:{port}"), format!("a.box.example:{port}")] {
        assert_eq!(ask(&foreign, &bearer), 403, "{foreign}");
    }
    assert_eq!(daemon.get("/v1/status").status, 200, "the socket is guarded by its mode");
}

#[test]
fn a_token_that_everybody_may_read_is_refused() {
    let folder = tempdir().unwrap();
    let setting = format!("serve.admin_token_file={:?}", token(folder.path(), 0o644).to_str().unwrap());
    let state = folder.path().join("state");
    for verb in ["validate", "run"] {
        let output = run(&[verb, "--state-dir", state.to_str().unwrap(), "--listen", "127.0.0.1:0", "--set", &setting]);
        assert_eq!(output.status.code(), Some(78), "{verb}: {}", stderr(&output));
        assert!(stderr(&output).contains("chmod o-rwx"), "{verb}: {}", stderr(&output));
    }
}

#[test]
fn every_foreign_host_and_origin_is_refused_with_every_method() {
    let folder = tempdir().unwrap();
    let daemon = Daemon::start::<&str>(&folder.path().join("state"), &[]);
    let address = daemon.address();
    let port = address.rsplit(':').next().unwrap();
    let own = format!("localhost:{port}");
    let foreign = ["evil.example", "localhost.evil.example", "0.0.0.0", "127.0.0.2", "169.254.1.1", "box.local", "::1"];
    let mut tried = 0;
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        for target in
            ["/", "/v1/status", "/v1/images?ids=1", "/v1/training/pause", "/v1/tasks", "/metrics", "/livez", "/none"]
        {
            for host in foreign {
                let headers = format!("Host: {host}:{port}\r\n");
                assert_eq!(
                    daemon.request_at(&address, method, target, &headers).status,
                    403,
                    "{method} {target} {host}"
                );
                tried += 1;
            }
            for origin in ["null", "http://evil.example", "https://localhost", "http://localhost:1", "http://127.0.0.1"]
            {
                let headers = format!("Host: {own}\r\nOrigin: {origin}\r\n");
                assert_eq!(
                    daemon.request_at(&address, method, target, &headers).status,
                    403,
                    "{method} {target} {origin}"
                );
                tried += 1;
            }
        }
    }
    assert_eq!(tried, 6 * 8 * 12);
    assert_eq!(daemon.status()["learn"]["paused_since"], serde_json::Value::Null, "nothing was done");
}
