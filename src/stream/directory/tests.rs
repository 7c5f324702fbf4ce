use std::fs;
use std::io::Write;

use crate::config::durable::Database;

use super::*;
use crate::stream::ledger::Company;
use crate::stream::{FrameId, Intake, IntakeHandle, Next, Origin, QueueLimits, Verdict};

/// Far beyond what anything here takes: only a test that fails waits so long.
const PATIENCE: Duration = Duration::from_secs(60);

struct Rig {
    settings: DirectorySettings,
    ledger: Ledger,
}

/// A folder being watched, its frames in the hands of the test.
struct Running {
    intake: Intake,
    handle: IntakeHandle,
    stop: CancellationToken,
    source: tokio::task::JoinHandle<Result<(), StreamError>>,
}

impl Rig {
    fn new(folder: &Path, watch: WatchKind) -> Self {
        let root = folder.join("in");
        fs::create_dir_all(&root).unwrap();
        let ledger = Ledger::new(Arc::new(Database::create(&folder.join("state.redb")).unwrap())).unwrap();
        let poll = Duration::from_millis(20);
        Self {
            settings: DirectorySettings { root, recursive: true, watch, poll, max_bytes: 1000, after: After::Keep },
            ledger,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.settings.root.join(name)
    }

    fn start(&self) -> Running {
        let (intake, handle) = Intake::new();
        let id = self.ledger.source_id("in").unwrap();
        let inlet = handle.register(id, "in", QueueLimits::default());
        let stop = CancellationToken::new();
        let directory = Directory::open(self.settings.clone(), self.ledger.clone(), id).unwrap();
        let source = tokio::spawn(Box::new(directory).run(inlet, stop.clone()));
        Running { intake, handle, stop, source }
    }
}

impl Running {
    /// The next frames, accepted: name and content.
    fn take(&mut self, count: usize) -> Vec<(String, Vec<u8>)> {
        let mut taken = Vec::new();
        while taken.len() < count {
            let Next::Frames(frames) = self.intake.next_batch(count - taken.len(), PATIENCE) else {
                panic!("{} of {count} frames came: {taken:?}; {:?}", taken.len(), self.handle.reports());
            };
            for frame in frames {
                let Origin::File(path) = &frame.origin else { panic!("{} is no file", frame.origin) };
                taken.push((path.display().to_string(), frame.bytes.to_vec()));
                frame.settle(Verdict::Accepted { id: FrameId(taken.len() as u64), task: None });
            }
        }
        taken
    }

    fn names(&mut self, count: usize) -> Vec<String> {
        self.take(count).into_iter().map(|(name, _)| name).collect()
    }

    async fn refused(&self, code: &str, count: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.handle.reports()[0].refused_frames.get(code).copied().unwrap_or(0) < count {
            assert!(Instant::now() < deadline, "{count} x {code} in {:?}", self.handle.reports());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.source.await.unwrap().unwrap();
    }
}

fn move_in(rig: &Rig, name: &str, content: &str) {
    let hidden = rig.path(&format!(".{}", name.replace('/', "-")));
    fs::write(&hidden, content).unwrap();
    fs::rename(hidden, rig.path(name)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_comes_first_in_order_then_what_is_new() {
    for watch in [WatchKind::Notify, WatchKind::Poll] {
        let folder = tempfile::tempdir().unwrap();
        let rig = Rig::new(folder.path(), watch);
        let expected: Vec<_> = (0..300).map(|at| format!("{at:03}.jpg")).collect();
        for name in expected.iter().rev() {
            fs::write(rig.path(name), name).unwrap();
        }
        tokio::time::sleep(Duration::from_millis(40)).await;
        let mut running = rig.start();
        assert_eq!(running.names(300), expected, "{watch:?}");
        move_in(&rig, "new.jpg", "renamed");
        assert_eq!(running.take(1), [("new.jpg".to_owned(), b"renamed".to_vec())]);
        fs::create_dir_all(rig.path("deep/er")).unwrap();
        fs::write(rig.path("deep/er/x.jpg"), "written").unwrap();
        assert_eq!(running.take(1), [("deep/er/x.jpg".to_owned(), b"written".to_vec())]);
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_not_offered_while_it_is_being_written() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::new(folder.path(), WatchKind::Notify);
    fs::write(rig.path("0"), "first").unwrap();
    let mut running = rig.start();
    running.names(1);
    let mut half = fs::File::create(rig.path("a")).unwrap();
    half.write_all(b"half").unwrap();
    move_in(&rig, "b", "whole");
    assert_eq!(running.names(1), ["b"]);
    half.write_all(b" and half").unwrap();
    drop(half);
    assert_eq!(running.take(1), [("a".to_owned(), b"half and half".to_vec())]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_offers_what_is_new_or_changed_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::new(folder.path(), WatchKind::Notify);
    for name in ["a", "b", "c"] {
        fs::write(rig.path(name), name).unwrap();
    }
    let mut running = rig.start();
    running.names(3);
    running.stop().await;
    fs::write(rig.path("b"), "changed").unwrap();
    fs::write(rig.path("d"), "d").unwrap();
    fs::remove_file(rig.path("c")).unwrap();
    let mut running = rig.start();
    let mut names = running.names(2);
    names.sort();
    assert_eq!(names, ["b", "d"]);
    assert_eq!(running.handle.reports()[0].received_frames, 2);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_image_file_is_refused_and_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::new(folder.path(), WatchKind::Notify);
    fs::write(rig.path("large"), [0; 1001]).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", rig.path("link")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, rig.path("pipe"), rustix::fs::Mode::RWXU).unwrap();
    let running = rig.start();
    running.refused(codes::NOT_A_FILE, 2).await;
    running.refused(codes::TOO_MANY_BYTES, 1).await;
    assert_eq!(running.handle.reports()[0].received_frames, 0);
    running.stop().await;
    // Nothing is refused again after a restart: a new file comes through, the old counts stay at nothing.
    fs::write(rig.path("z"), "last").unwrap();
    let mut running = rig.start();
    assert_eq!(running.names(1), ["z"]);
    assert!(running.handle.reports()[0].refused_frames.is_empty(), "{:?}", running.handle.reports());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_killed_the_process_twice_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::new(folder.path(), WatchKind::Notify);
    let id = rig.ledger.source_id("in").unwrap();
    for name in ["killer", "lonely", "suspect", "unlucky"] {
        fs::write(rig.path(name), name).unwrap();
        let entry = (PathBuf::from(name), file::fingerprint(&fs::metadata(rig.path(name)).unwrap()));
        // As processes that died leave it.
        let deaths: &[Company] = match name {
            "killer" => &[Company::Others, Company::Alone, Company::Alone],
            "lonely" => &[Company::Alone, Company::Alone],
            "suspect" => &[Company::Others],
            _ => &[Company::Others, Company::Alone],
        };
        for &company in deaths {
            rig.ledger.mark(id, std::slice::from_ref(&entry), company).unwrap();
        }
    }
    let mut running = rig.start();
    assert_eq!(running.names(2), ["suspect", "unlucky"]);
    running.refused(codes::CRASHED_TWICE, 2).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_leave_the_folder_once_they_are_written_down_also_after_a_crash_in_between() {
    for delete in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let mut rig = Rig::new(folder.path(), WatchKind::Notify);
        let done = folder.path().join("done");
        rig.settings.after = if delete { After::Delete } else { After::Move(done.clone()) };
        for name in ["a", "b/c", "z"] {
            fs::create_dir_all(rig.path(name).parent().unwrap()).unwrap();
            fs::write(rig.path(name), name).unwrap();
        }
        // As a process leaves it that dies between the ledger and the file.
        let entry = (PathBuf::from("z"), file::fingerprint(&fs::metadata(rig.path("z")).unwrap()));
        let taken = crate::stream::ledger::Outcome::Taken(FrameId(7));
        rig.ledger.record(rig.ledger.source_id("in").unwrap(), &[(entry, taken)]).unwrap();
        let mut running = rig.start();
        assert_eq!(running.names(2), ["a", "b/c"]);
        let start = Instant::now();
        while ["a", "b/c", "z"].iter().any(|name| rig.path(name).exists()) {
            assert!(start.elapsed() < PATIENCE, "they are still there: {:?}", running.handle.reports());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        running.stop().await;
        for name in ["a", "b/c", "z"] {
            assert_eq!(fs::read(done.join(name)).ok(), (!delete).then(|| name.as_bytes().to_vec()), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_not_decided_at_a_stop_are_offered_again() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::new(folder.path(), WatchKind::Notify);
    fs::write(rig.path("a"), "a").unwrap();
    let mut running = rig.start();
    let Next::Frames(frames) = running.intake.next_batch(1, PATIENCE) else { panic!("a frame") };
    drop(frames);
    running.stop().await;
    let entry = ("a".into(), file::fingerprint(&fs::metadata(rig.path("a")).unwrap()));
    let id = rig.ledger.source_id("in").unwrap();
    assert_eq!(rig.ledger.look_up(id, &[entry]).unwrap(), [crate::stream::ledger::FileState::Unknown]);
    let mut running = rig.start();
    assert_eq!(running.names(1), ["a"]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_comes_back_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::new(folder.path(), WatchKind::Notify);
    fs::write(rig.path("0"), "0").unwrap();
    let mut running = rig.start();
    running.names(1);
    fs::remove_dir_all(&rig.settings.root).unwrap();
    running.refused("folder-disappeared", 1).await;
    assert!(running.handle.reports()[0].condition.as_deref().is_some_and(|text| text.contains("disappeared")));
    fs::create_dir(&rig.settings.root).unwrap();
    fs::write(rig.path("a"), "a").unwrap();
    assert_eq!(running.names(1), ["a"]);
    assert_eq!(running.handle.reports()[0].condition, None);
    running.stop().await;
}

#[test]
fn a_folder_that_is_none_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::new(folder.path(), WatchKind::Auto);
    rig.settings.root = folder.path().join("missing");
    let open = |rig: &Rig| Directory::open(rig.settings.clone(), rig.ledger.clone(), SourceId(1)).unwrap_err().code();
    assert_eq!(open(&rig), "folder-unreadable");
    rig.settings.root = folder.path().join("state.redb");
    assert_eq!(open(&rig), "not-a-folder");
}

#[test]
fn a_file_changed_between_look_and_read_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), "one").unwrap();
    let (mut file, found) = file::open(folder.path(), Path::new("a"), 100).unwrap();
    fs::write(folder.path().join("a"), "three").unwrap();
    assert_eq!(file::read(&mut file, found), Err(file::Unread::Changed));
    let outside = file::open(folder.path(), Path::new("../passwd"), 100).unwrap_err();
    assert!(matches!(outside, file::Unread::Refused { code: codes::NOT_A_FILE | codes::VANISHED, .. }), "{outside:?}");
}
