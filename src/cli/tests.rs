//! The verbs that ask a daemon, against the API on its real listeners.

use std::io::{self, ErrorKind, Write};
use std::path::Path;

use clap::Parser;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::{CommandLine, code, report};
use crate::daemon::answers::Answers;
use crate::daemon::answers::fake::Fake;
use crate::serve::Hooks;
use crate::serve::tests::{Daemon, limits};

/// A daemon with threads of its own, as the verbs block theirs.
struct Running {
    daemon: Daemon,
    _runtime: Runtime,
}

impl Running {
    fn start() -> Self {
        Self::of(Fake::new())
    }

    fn of(fake: Fake) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let daemon = runtime.block_on(Daemon::of(fake, &limits(), Hooks::default()));
        Self { daemon, _runtime: runtime }
    }

    fn socket(&self) -> &str {
        self.daemon.bound.unix.to_str().unwrap()
    }

    /// What a line prints, asking over the unix socket.
    fn says(&self, line: &[&str]) -> String {
        say(line, self.socket()).unwrap()
    }

    fn json(&self, line: &[&str]) -> Value {
        serde_json::from_str(&self.says(&[line, &["--json"]].concat())).unwrap()
    }

    /// The exit code and the message of a line that fails.
    fn fails(&self, line: &[&str]) -> (u8, String) {
        fail(line, self.socket())
    }
}

fn say(line: &[&str], api: &str) -> anyhow::Result<String> {
    let mut out = Vec::new();
    let line = [&["lumpd"], line, &["--api", api]].concat();
    CommandLine::try_parse_from(line)?.run(&mut out)?;
    Ok(String::from_utf8(out)?)
}

fn fail(line: &[&str], api: &str) -> (u8, String) {
    let error = say(line, api).unwrap_err();
    let mut message = Vec::new();
    report(&error, &mut message);
    (code(&error), String::from_utf8(message).unwrap())
}

fn image(folder: &Path, words: &str) -> String {
    let path = folder.join("image.jpg");
    std::fs::write(&path, words).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Every part occurs in the text.
#[track_caller]
fn assert_has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn the_status_is_a_page_for_people_and_json_for_programs() {
    let running = Running::start();
    assert_has(
        &running.says(&["status"]),
        &[
            "lumpd 0.1.0, running, up 1 min 1 s\n",
            "device      cpu (2 threads) (no GPU)\n",
            "encoder     resnet18-w16, version 3 (0123abcd), step 120, published 1970-01-01 00:00:00Z\n",
            "learning    simclr with lump, 130 steps, loss 4.250, 12.5 images a second, stream idle\n",
            "task        2; stable, statistic 1.50 of -; about one false boundary in 50000 distinct frames\n",
            "buffer      6 of 16 images, 6 seen, 64 KiB\n",
            "checkpoint  none yet\n",
            "camera  directory  failed",
            "camera: the folder is gone\n",
            "camera: refused 2 not-an-image\n",
        ],
    );
    assert_eq!(running.json(&["status"])["learn"]["loss"], 4.25);
    assert_eq!(running.json(&["sources"])["sources"][0]["name"], "camera");
}

#[test]
fn what_is_not_there_yet_is_said_so() {
    let running = Running::of(Fake::unready());
    assert_has(&running.says(&["status"]), &["starting", "no version published yet", "loss -"]);
    let (code, message) = running.fails(&["query", "--id", "1"]);
    assert_eq!(code, 75);
    assert_has(&message, &["no version of the encoder has been published yet; try again"]);
}

#[test]
fn a_query_prints_neighbours_and_writes_their_pictures() {
    let (running, folder) = (Running::start(), tempfile::tempdir().unwrap());
    let (image, pictures) = (image(folder.path(), "image:c"), folder.path().join("pictures"));
    let line = ["query", &image, "-k", "1", "--thumbnails", pictures.to_str().unwrap()];
    let expected = "SCORE  ID  TASK  LABEL  SOURCE  CAPTURED\n\
                    1.000   2     1  cat    even    1970-01-01 00:00:00Z\n\n\
                    by version 3 of the encoder (0123abcd); --offset 1 shows more\n";
    assert_eq!(running.says(&line), expected);
    assert_eq!(std::fs::read(pictures.join("0001-2.png")).unwrap(), running.daemon.fake.thumbnail(2).unwrap());
    let filtered = running.json(&["query", "--id", "2", "-k", "9", "--task", "1", "--source", "odd", "--label", "cat"]);
    assert_eq!(filtered["neighbours"].as_array().unwrap().len(), 1);
    assert_eq!(
        running.json(&["query", &image, "--label", "cat", "-k", "9"])["neighbours"].as_array().unwrap().len(),
        2
    );
    assert_has(&running.says(&["query", &image, "--label", "no such"]), &["no stored image fits"]);
    let ids = |line: &[&str]| {
        let answer = running.json(&[&["query"], line].concat());
        answer["neighbours"].as_array().unwrap().iter().map(|near| near["id"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    for subject in [&[image.as_str()][..], &["--id", "2"]] {
        let all = ids(&[subject, &["-k", "9"]].concat());
        assert_eq!(ids(&[subject, &["-k", "9", "--offset", "1"]].concat()), all[1..]);
        let (past, to_come) = ("1970-01-01T00:00:00.000000002Z", "2100-01-01T00:00:00Z");
        let (late, early) =
            (ids(&[subject, &["--since", past]].concat()), ids(&[subject, &["--until", past]].concat()));
        assert!(
            !late.is_empty() && !early.is_empty() && late.iter().all(|id| !early.contains(id)),
            "{late:?} {early:?}"
        );
        assert!(ids(&[subject, &["--since", to_come]].concat()).is_empty());
    }
    assert_has(&running.says(&["query", &image, "-k", "1", "--offset", "1"]), &["; --offset 2 shows more\n"]);
}

#[test]
fn tasks_are_listed_and_shown() {
    let running = Running::start();
    assert_has(
        &running.says(&["tasks"]),
        &["ID  NAME", " 2  task-2       3      4     6       1       1", "current\n"],
    );
    assert_has(
        &running.says(&["tasks", "1"]),
        &["task       1 task-1\n", "exemplars  1\n", "varied     2\n", "after      -\n", "1970-01-01 00:00:05Z\n"],
    );
    assert_eq!(running.json(&["tasks"])["tasks"][1]["id"], 2);
    let (code, message) = running.fails(&["tasks", "9"]);
    assert_eq!((code, message.as_str()), (1, "lumpd: there is no task 9; take an id from the list of tasks\n"));
}

#[test]
fn a_task_without_frames_says_so() {
    let running = Running::start();
    let said = running.says(&["tasks", "--mark", "--name", "gears"]);
    assert_has(&said, &["gears\n", "frames     none yet, from 7 on\n"]);
}

#[test]
fn a_checkpoint_is_written_when_asked_for() {
    let running = Running::start();
    assert_has(&running.says(&["checkpoint", "now"]), &["checkpoint of step 130 written"]);
    assert_eq!(running.json(&["checkpoint", "now"])["step"], 130);
}

#[test]
fn labels_are_given_listed_used_and_taken_away() {
    let (running, folder) = (Running::start(), tempfile::tempdir().unwrap());
    assert_eq!(running.says(&["label", "speed limit", "3", "4"]), "2 images newly labelled speed limit\n");
    assert_eq!(running.says(&["label"]), "IMAGES  LABEL\n     2  cat\n     2  speed limit\n");
    let image = image(folder.path(), "image:c");
    assert_has(&running.says(&["classify", &image, "-k", "3", "--temperature", "0.2"]), &["100.0 %  cat\n", "SCORE"]);
    assert_eq!(running.json(&["classify", "--id", "2"])["label"], "cat");
    assert_eq!(running.says(&["label", "--remove", "1", "2", "3"]), "3 images without label now\n");
    running.says(&["label", "--remove", "4"]);
    assert_has(&running.says(&["classify", &image]), &["no label: no stored image carries one"]);
}

#[test]
fn the_forgetting_report_is_a_line_a_task() {
    let running = Running::start();
    assert_has(&running.says(&["forgetting"]), &["   1         90 %", "mean of the tasks"]);
    assert_eq!(running.json(&["forgetting"]), running.daemon.fake.forgetting());
}

#[test]
fn a_daemon_is_asked_over_tcp_too() {
    let running = Running::start();
    let address = running.daemon.bound.tcp.to_string();
    for api in [address.clone(), format!("http://{address}/"), format!("localhost:{}", running.daemon.bound.tcp.port())]
    {
        assert_has(&say(&["status"], &api).unwrap(), &["running"]);
    }
}

#[test]
fn without_a_daemon_the_code_is_69_and_the_message_says_how_to_start_one() {
    let folder = tempfile::tempdir().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for api in [folder.path().join("lumpd.sock").to_str().unwrap(), &free] {
        for line in [&["status"][..], &["tasks"], &["forgetting"], &["label"], &["query", "--id", "1"]] {
            let (code, message) = fail(line, api);
            assert_eq!(code, 69, "{message}");
            assert_has(&message, &["the daemon cannot be reached", api, "is lumpd running? start it with `lumpd run`"]);
        }
    }
}

#[test]
fn a_program_that_is_not_lumpd_is_not_taken_for_it() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let other = std::thread::spawn(move || {
        for answer in ["HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", "220 mail.example ESMTP\r\n"] {
            let (mut stream, _) = listener.accept().unwrap();
            io::Read::read(&mut stream, &mut [0; 1024]).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    assert_has(&fail(&["status"], &address).1, &["is not lumpd's", "check that --api names lumpd"]);
    let (code, message) = fail(&["status"], &address);
    assert_eq!(code, 74, "{message}");
    other.join().unwrap();
}

#[test]
fn what_the_daemon_refuses_is_one_message_with_its_exit_code() {
    let (running, folder) = (Running::start(), tempfile::tempdir().unwrap());
    let text = image(folder.path(), "text");
    let (code, message) = running.fails(&["classify", &text]);
    assert_eq!(code, 1);
    assert_has(
        &message,
        &["lumpd: the bytes are no JPEG, PNG, WebP, BMP or PNM image; send a JPEG, PNG, WebP, BMP or PNM file\n"],
    );
    assert_eq!(running.fails(&["query", &image(folder.path(), "full:")]).0, 75);
    assert_eq!(running.fails(&["query", "--id", "1", "-k", "0"]).0, 2);
    assert_eq!(running.fails(&["label", "dog", "x"]).0, 2);
    let (code, message) = running.fails(&["query", "/no/such/image.jpg"]);
    assert_eq!(code, 74);
    assert_has(&message, &["cannot read the image /no/such/image.jpg"]);
}

#[test]
fn a_closed_standard_output_is_success() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let running = Running::start();
    for line in [&["status"][..], &["status", "--json"], &["tasks"], &["query", "--id", "1"]] {
        let line = [&["lumpd"], line, &["--api", running.socket()]].concat();
        let error = CommandLine::try_parse_from(line).unwrap().run(&mut Closed).unwrap_err();
        assert_eq!(code(&error), 0, "{error:#}");
    }
}

#[test]
fn a_question_without_a_subject_or_with_two_is_wrong_usage() {
    for line in [
        &["lumpd", "query"][..],
        &["lumpd", "query", "a.jpg", "--id", "1"],
        &["lumpd", "query", "--id", "1", "--since", "yesterday"],
        &["lumpd", "status", "--api", "example.org:1"],
    ] {
        assert_eq!(CommandLine::try_parse_from(line).unwrap_err().exit_code(), 2, "{line:?}");
    }
}
