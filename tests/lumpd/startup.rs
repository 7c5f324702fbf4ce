//! What keeps it from starting: each reason with its exit code, what is wrong, where, and what to do.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};

use tempfile::tempdir;

use crate::process::{Daemon, lumpd, run, stderr, stdout};

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary folder has a plain name")
}

/// It ended with this code and said all of these words.
#[track_caller]
fn assert_refused(output: &Output, code: i32, words: &[&str]) {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in:\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

/// `lumpd run` on a free port with further arguments, to its end: it must be one that does not start.
fn refused_start(state: &Path, arguments: &[&str]) -> Output {
    lumpd().args(["run", "--listen", "127.0.0.1:0", "--state-dir"]).arg(state).args(arguments).output().unwrap()
}

#[test]
fn an_unknown_key_is_shown_with_file_line_caret_and_the_nearest_key() {
    let dir = tempdir().unwrap();
    let file = dir.path().join("lumpd.toml");
    fs::write(&file, "[replay]\nslots = 256\n\n[learn]\nbath = 3\n").unwrap();
    for verb in ["run", "validate"] {
        let output = run(&[verb, "--config", text(&file)]);
        assert_refused(&output, 78, &[text(&file), "line 5", "bath = 3", "^^^^", "did you mean `batch`?"]);
    }
    assert_refused(&run(&["run", "--set", "learn.bath=3"]), 78, &["--set", "learn.bath", "did you mean `batch`?"]);
    let by_variable = lumpd().arg("validate").env("LUMPD__LEARN__BATH", "3").output().unwrap();
    assert_refused(&by_variable, 78, &["LUMPD__LEARN__BATH", "did you mean `batch`?"]);
}

#[test]
fn a_value_of_the_wrong_type_is_shown_with_its_place() {
    let dir = tempdir().unwrap();
    let file = dir.path().join("lumpd.toml");
    fs::write(&file, "[learn]\nbatch = \"many\"\n").unwrap();
    assert_refused(&run(&["run", "--config", text(&file)]), 78, &[text(&file), "line 2, column 9", "\"many\""]);
    assert_refused(
        &run(&["run", "--config", "/nowhere/lumpd.toml"]),
        78,
        &["/nowhere/lumpd.toml", "check that it exists"],
    );
}

#[test]
fn everything_wrong_is_told_at_once_with_the_place_where_it_was_set() {
    let dir = tempdir().unwrap();
    let file = dir.path().join("lumpd.toml");
    let source = "[[source]]\nname = \"a\"\nkind = \"tcp\"\nlisten = \"127.0.0.1:0\"\n";
    fs::write(&file, format!("{source}{source}[learn]\nbatch = 1\n")).unwrap();
    let output = run(&["run", "--config", text(&file), "--listen", "0.0.0.0:7717"]);
    let twice = ["name-taken", "source.1.name", "lumpd.toml:6", "give each source a name of its own"];
    assert_refused(&output, 78, &twice);
    assert_refused(&output, 78, &["out-of-range", "learn.batch", "lumpd.toml:10"]);
    assert_refused(&output, 78, &["not-loopback", "serve.listen", "set by --listen", "use 127.0.0.1"]);
}

#[test]
fn a_second_daemon_on_a_state_folder_is_told_which_process_has_it() {
    let dir = tempdir().unwrap();
    let state = dir.path().join("state");
    let first = Daemon::start::<&str>(&state, &[]);
    let pid = first.pid().to_string();
    assert_refused(&refused_start(&state, &[]), 75, &["another lumpd", &pid, text(&state), "daemon.state_dir"]);
    let elsewhere = dir.path().join("other.sock");
    let output = refused_start(&state, &["--socket", text(&elsewhere)]);
    assert_refused(&output, 75, &["another lumpd", &pid]);
    assert_eq!(first.get("/readyz").status, 200, "the first is not disturbed");
}

#[test]
fn the_state_folder_is_for_its_owner_alone() {
    let dir = tempdir().unwrap();
    let state = dir.path().join("deep/state");
    let _daemon = Daemon::start::<&str>(&state, &[]);
    assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(state.join("lumpd.sock")).unwrap().permissions().mode() & 0o777, 0o660);
}

#[test]
fn a_port_in_use_is_named() {
    let dir = tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let state = dir.path().join("state");
    assert_refused(&refused_start(&state, &["--listen", &address]), 2, &["--listen"]);
    let output = run(&["run", "--state-dir", text(&state), "--listen", &address]);
    assert_refused(&output, 78, &["port-in-use", &address, "another process listens here", "choose another port"]);
    let output = refused_start(&state, &["--tcp", &address]);
    assert_refused(&output, 78, &["port-in-use", &address, "set by --tcp"]);
    assert!(!state.exists(), "nothing was made");
}

#[test]
fn a_state_folder_that_cannot_be_one_is_refused() {
    let dir = tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert_refused(&refused_start(&file, &[]), 78, &[text(&file), "is not a folder", "daemon.state_dir"]);
    let output = refused_start(&dir.path().join("state"), &["--watch", "/nowhere/at/all"]);
    assert_refused(&output, 78, &["/nowhere/at/all", "there is no such folder"]);
    if !rustix::process::geteuid().is_root() {
        assert_refused(&refused_start(Path::new("/lumpd-state"), &[]), 78, &["may not write into"]);
    } else {
        println!("skipped: root may write everywhere");
    }
}

#[test]
fn a_buffer_beyond_the_disk_is_refused_before_anything_is_made() {
    let dir = tempdir().unwrap();
    let state = dir.path().join("state");
    let output = refused_start(&state, &["--set", "replay.slots=200000000"]);
    assert_refused(
        &output,
        78,
        &["disk-full", text(&state), "needs ", " more and has ", " free", "lower replay.slots"],
    );
    assert!(!state.exists(), "nothing was made");
}

#[test]
fn a_buffer_made_for_other_images_is_refused_and_left_as_it_is() {
    let dir = tempdir().unwrap();
    let state = dir.path().join("state");
    assert_eq!(Daemon::start::<&str>(&state, &[]).stop().0, Some(0));
    let before = fs::read(state.join("replay.buf")).unwrap();
    let output = refused_start(&state, &["--set", "replay.slots=256", "--set", "encoder.preset=resnet18-64px"]);
    assert_refused(&output, 78, &["replay.buf", "32 px", "64 px", "encoder.preset", "daemon.state_dir"]);
    let output = refused_start(&state, &["--set", "replay.slots=300"]);
    assert_refused(&output, 78, &["replay.buf", "256 slots", "300 slots"]);
    assert_eq!(fs::read(state.join("replay.buf")).unwrap(), before);
}

#[test]
fn a_device_asked_for_by_name_is_never_replaced_by_another() {
    if cfg!(feature = "cuda") {
        println!("skipped: this build has CUDA");
        return;
    }
    let dir = tempdir().unwrap();
    let output = refused_start(&dir.path().join("state"), &["--set", "device.kind=cuda"]);
    assert_refused(&output, 78, &["device \"cuda\" is not part of this build", "--features cuda"]);
    assert_refused(&run(&["run", "--set", "device.kind=gpu"]), 78, &["device.kind", "gpu"]);
}

#[test]
fn a_client_without_a_daemon_ends_with_69_and_says_how_to_start_one() {
    let dir = tempdir().unwrap();
    let state = dir.path().join("state");
    for verb in [&["status"][..], &["tasks"], &["sources"], &["forgetting"], &["query", "--id", "1"], &["label"]] {
        let output = lumpd().args(verb).arg("--state-dir").arg(&state).output().unwrap();
        assert_refused(&output, 69, &[text(&state), "no daemon answers", "lumpd run"]);
    }
    let socket = dir.path().join("nobody.sock");
    let output = run(&["feed", text(dir.path()), "--to", text(&socket)]);
    assert_refused(&output, 69, &["nobody.sock"]);
}

#[test]
fn validate_shows_plan_and_budget() {
    let dir = tempdir().unwrap();
    let state = dir.path().join("state");
    let output =
        run(&["validate", "--listen", "127.0.0.1:0", "--state-dir", text(&state), "--set", "replay.slots=300"]);
    let said = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    for word in
        ["replay buffer", "300 + 64 spare slots of 32x32", "checkpoints", "total", "replay.slots", "--set", "valid"]
    {
        assert!(said.contains(word), "{word:?} is not in:\n{said}");
    }
    assert!(!state.exists(), "nothing was made");
}

#[test]
fn devices_completions_and_man_work_without_a_daemon() {
    let devices = run(&["devices"]);
    assert!(devices.status.success() && stdout(&devices).contains("cpu:0"), "{}", stdout(&devices));
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]);
        assert!(script.status.success() && stdout(&script).contains("forgetting"), "{shell}");
    }
    let man = run(&["man"]);
    assert!(man.status.success() && stdout(&man).contains(".TH lumpd"), "{}", stdout(&man));
}

#[test]
fn a_closed_pipe_is_success() {
    let mut child = lumpd().args(["completions", "zsh"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // More than a pipe holds would have to be read; the reader goes away instead.
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""));
}
