//! Learns of new files: from the system's notification where it can be trusted, by scanning where not.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Notify, mpsc};

use crate::stream::StreamError;

#[cfg(target_os = "linux")]
/// Paths that wait while the source is busy; beyond it the folder is scanned again instead.
const WAITING_PATHS: usize = 16_384;

/// Says that events were lost and the folder must be scanned again. The handler of the events only ever sets it.
#[derive(Debug, Default)]
pub struct Rescan {
    due: AtomicBool,
    wake: Notify,
}

impl Rescan {
    pub fn request(&self) {
        self.due.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// True once for any number of requests.
    pub fn take(&self) -> bool {
        self.due.swap(false, Ordering::AcqRel)
    }

    pub async fn requested(&self) {
        self.wake.notified().await;
    }
}

/// A live watch; ends when dropped.
#[derive(Debug)]
pub struct Watch {
    #[cfg(target_os = "linux")]
    _watcher: notify::RecommendedWatcher,
    /// Absolute paths of files closed after writing or moved in, and of new folders.
    pub paths: mpsc::Receiver<PathBuf>,
}

impl Watch {
    /// Watches `root`. Blocks while it walks the folders.
    ///
    /// # Errors
    /// [`StreamError::WatchLimit`] with the setting to raise, [`StreamError::Watch`] for anything else.
    #[cfg(target_os = "linux")]
    pub fn start(root: &Path, recursive: bool, rescan: Arc<Rescan>) -> Result<Self, StreamError> {
        use notify::{Config, RecommendedWatcher, RecursiveMode, Watcher};
        let (sender, paths) = mpsc::channel(WAITING_PATHS);
        let handler = move |event| handle(event, &sender, &rescan);
        let config = Config::default().with_follow_symlinks(false);
        let mode = if recursive { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive };
        let mut watcher = RecommendedWatcher::new(handler, config).map_err(|error| failed(root, &error))?;
        watcher.watch(root, mode).map_err(|error| failed(root, &error))?;
        Ok(Self { _watcher: watcher, paths })
    }

    /// Elsewhere there is no event for the end of writing, and files are found by scanning.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(target_os = "linux"))]
    pub fn start(root: &Path, _recursive: bool, _rescan: Arc<Rescan>) -> Result<Self, StreamError> {
        let reason = "this system does not tell when writing ends".to_owned();
        Err(StreamError::Watch { path: root.to_owned(), reason })
    }
}

/// Runs in the watcher's thread and must never block it: what does not fit becomes a rescan.
#[cfg(target_os = "linux")]
fn handle(event: notify::Result<notify::Event>, sender: &mpsc::Sender<PathBuf>, rescan: &Rescan) {
    use notify::EventKind;
    use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode};
    let Ok(event) = event else { return rescan.request() };
    if event.need_rescan() {
        rescan.request();
    }
    let finished = matches!(
        event.kind,
        EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(RenameMode::To))
            | EventKind::Create(CreateKind::Folder)
    );
    if finished && event.paths.into_iter().any(|path| sender.try_send(path).is_err()) {
        rescan.request();
    }
}

#[cfg(target_os = "linux")]
fn failed(root: &Path, error: &notify::Error) -> StreamError {
    let path = root.to_owned();
    let out_of_instances =
        |error: &std::io::Error| error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error());
    match &error.kind {
        notify::ErrorKind::MaxFilesWatch => StreamError::WatchLimit {
            path,
            reason: "every inotify watch of this user is taken".into(),
            sysctl: "fs.inotify.max_user_watches",
        },
        notify::ErrorKind::Io(cause) if out_of_instances(cause) => StreamError::WatchLimit {
            path,
            reason: "every inotify instance of this user is taken".into(),
            sysctl: "fs.inotify.max_user_instances",
        },
        _ => StreamError::Watch { path, reason: error.to_string() },
    }
}

/// Whether other machines may write below `root` without this one's kernel knowing: network and user-space file systems.
/// Numbers from linux/magic.h and the statfs(2) manual.
#[cfg(target_os = "linux")]
pub fn is_remote(root: &Path) -> bool {
    const NFS: u32 = 0x6969;
    const SMB: u32 = 0x517b;
    const SMB2: u32 = 0xfe53_4d42;
    const CIFS: u32 = 0xff53_4d42;
    const FUSE: u32 = 0x6573_5546;
    const NINE_P: u32 = 0x0102_1997;
    const CEPH: u32 = 0x00c3_6400;
    const AFS: u32 = 0x5346_414f;
    // The low 32 bits: the field is signed and of different widths.
    rustix::fs::statfs(root)
        .is_ok_and(|found| [NFS, SMB, SMB2, CIFS, FUSE, NINE_P, CEPH, AFS].contains(&(found.f_type as u32)))
}

#[cfg(not(target_os = "linux"))]
pub fn is_remote(_root: &Path) -> bool {
    true
}
