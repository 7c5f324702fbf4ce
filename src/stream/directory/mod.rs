//! Images from a folder: those that are there first, in the order of their names, then new ones as they are finished.
//!
//! A file is taken when its writer closes it or when it is moved into place; the only contract that is safe whatever happens to
//! the writer is to write elsewhere (or under a hidden name, `*.tmp`, `*.part`) and to rename. A file that a scan finds younger
//! than `poll_seconds` is looked at again after that time and taken once size and modification time stand still. Where there is
//! no notification (network file systems, watches used up, other systems than Linux) the folder is scanned every
//! `poll_seconds` and that rule holds for every file.
//!
//! The folder is scanned again every five minutes, whenever events were lost, and when it comes back after having disappeared.
//! Hidden files and folders, `*.tmp` and `*.part` are never looked at. Files are never changed; they are moved or deleted where
//! [`After`] says so, once their image is committed and the ledger has it.
//!
//! Memory: at most 32,768 names of each folder on the way down, 16,384 paths from the watch, 16,384 unsettled files, 4,096
//! files offered and not written down; the bytes of frames are bounded by the queue.

mod dispose;
mod feed;
mod file;
mod settle;
mod walk;
mod watch;

use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

pub use self::dispose::After;
use self::dispose::Disposal;
use self::feed::{Considered, Feeder};
use self::settle::Unsettled;
use self::walk::{Found, Walk, is_ignored};
use self::watch::{Rescan, Watch};
use super::frame::codes;
use super::source::{RunFuture, Source};
use super::{Inlet, Ledger, SourceId, StreamError};
use crate::config::WatchKind;

/// A whole scan in any case after this time: for events that never came.
const RESCAN_INTERVAL: Duration = Duration::from_secs(300);
/// Files considered at once: one commit of marks.
const GROUP: usize = 64;
/// New folders that wait to be scanned; beyond it everything is.
const WAITING_FOLDERS: usize = 1024;

/// A watched folder, its keys resolved.
#[derive(Debug, Clone)]
pub struct DirectorySettings {
    pub root: PathBuf,
    /// Folders within it, too.
    pub recursive: bool,
    pub watch: WatchKind,
    /// Between two scans where it is polled; also how long a file must stand still.
    pub poll: Duration,
    /// Largest file taken.
    pub max_bytes: usize,
    /// What becomes of files that were taken.
    pub after: After,
}

/// A folder as a source.
#[derive(Debug)]
pub struct Directory {
    settings: DirectorySettings,
    disposal: Disposal,
    ledger: Ledger,
    source: SourceId,
}

impl Directory {
    /// # Errors
    /// A folder that does not exist or cannot be read.
    pub fn open(settings: DirectorySettings, ledger: Ledger, source: SourceId) -> Result<Self, StreamError> {
        let folder = |error| StreamError::Folder { path: settings.root.clone(), error };
        let root = std::path::absolute(&settings.root).map_err(folder)?;
        if !std::fs::metadata(&root).map_err(folder)?.is_dir() {
            return Err(StreamError::NotAFolder { path: root });
        }
        std::fs::read_dir(&root).map_err(folder)?;
        let disposal = Disposal::open(&root, settings.after.clone())?;
        Ok(Self { settings: DirectorySettings { root, ..settings }, disposal, ledger, source })
    }
}

impl Source for Directory {
    fn describe(&self) -> String {
        format!("folder {}", self.settings.root.display())
    }

    fn run(self: Box<Self>, inlet: Inlet, stop: CancellationToken) -> RunFuture {
        Box::pin(async move {
            let Self { settings, disposal, ledger, source } = *self;
            let feeder = Feeder::start(
                settings.root.clone(),
                settings.max_bytes,
                disposal,
                ledger.clone(),
                inlet.clone(),
                stop.clone(),
            );
            let mut observer = Observer::new(settings, ledger, source, inlet);
            let ended = observer.run(&feeder, &stop).await;
            feeder.finish().await;
            ended
        })
    }
}

/// Decides what to look at next.
struct Observer {
    settings: DirectorySettings,
    ledger: Ledger,
    source: SourceId,
    inlet: Inlet,
    rescan: Arc<Rescan>,
    watch: Option<Watch>,
    scan: Option<Scan>,
    folders: VecDeque<PathBuf>,
    unsettled: Unsettled,
    next_scan: Instant,
    next_prune: Instant,
    /// Device and inode of the root while it is there.
    identity: Option<(u64, u64)>,
}

/// A walk under way in a thread of its own.
struct Scan {
    found: mpsc::Receiver<Vec<Found>>,
    /// Of the whole folder, not of a new one within.
    whole: bool,
    files: u64,
}

enum Step {
    Scanned(Option<Vec<Found>>),
    Path(PathBuf),
    LookAgain,
    Stop,
}

impl Observer {
    fn new(settings: DirectorySettings, ledger: Ledger, source: SourceId, inlet: Inlet) -> Self {
        Self {
            settings,
            ledger,
            source,
            inlet,
            rescan: Arc::default(),
            watch: None,
            scan: None,
            folders: VecDeque::new(),
            unsettled: Unsettled::default(),
            next_scan: Instant::now(),
            next_prune: Instant::now(),
            identity: None,
        }
    }

    async fn run(&mut self, feeder: &Feeder, stop: &CancellationToken) -> Result<(), StreamError> {
        self.identity = identity(&self.settings.root);
        match self.identity {
            Some(_) => self.observe().await?,
            None => self.report_gone(),
        }
        self.rescan.request();
        let mut tick =
            tokio::time::interval(self.settings.poll.clamp(Duration::from_millis(10), Duration::from_secs(1)));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.start_scan();
            match self.step(&mut tick, stop).await {
                Step::Scanned(Some(found)) => self.take_scanned(found, feeder).await?,
                Step::Scanned(None) => self.end_scan().await?,
                Step::Path(path) => self.take_events(path, feeder).await?,
                Step::LookAgain => {
                    self.look_at_root().await;
                    self.look_again(feeder).await?;
                }
                Step::Stop => return Ok(()),
            }
        }
    }

    async fn step(&mut self, tick: &mut tokio::time::Interval, stop: &CancellationToken) -> Step {
        let Self { scan, watch, rescan, .. } = self;
        let scanning = scan.is_some();
        tokio::select! {
            biased;
            () = stop.cancelled() => Step::Stop,
            found = next_found(scan), if scanning => Step::Scanned(found),
            _ = tick.tick() => Step::LookAgain,
            // What is there comes before what is new.
            path = next_path(watch), if !scanning => Step::Path(path),
            () = rescan.requested() => Step::LookAgain,
        }
    }

    /// Starts to watch, or makes do with polling.
    async fn observe(&mut self) -> Result<(), StreamError> {
        let Self { settings, rescan, .. } = &*self;
        if settings.watch == WatchKind::Poll {
            return Ok(());
        }
        let remote = watch::is_remote(&settings.root);
        if remote && settings.watch == WatchKind::Auto {
            tracing::info!(folder = %settings.root.display(), "polled: other machines may write to this file system");
            return Ok(());
        }
        let (root, recursive, rescan) = (settings.root.clone(), settings.recursive, Arc::clone(rescan));
        let started = spawn_blocking(move || Watch::start(&root, recursive, rescan))
            .await
            .map_err(|error| StreamError::Worker { reason: error.to_string() })?;
        match started {
            Ok(watch) => self.watch = Some(watch),
            Err(error) if self.settings.watch == WatchKind::Notify => return Err(error),
            Err(error) => tracing::warn!(%error, "the folder is polled instead"),
        }
        Ok(())
    }

    /// Starts the next scan that is due, if none is under way.
    fn start_scan(&mut self) {
        if self.scan.is_some() || self.identity.is_none() {
            return;
        }
        let whole = self.rescan.take() || self.next_scan <= Instant::now();
        let start = if whole {
            self.folders.clear();
            PathBuf::new()
        } else {
            let Some(folder) = self.folders.pop_front() else { return };
            folder
        };
        let walk = Walk::new(self.settings.root.clone(), start, self.settings.recursive);
        let (sender, found) = mpsc::channel(4);
        spawn_blocking(move || send_groups(walk, &sender));
        self.scan = Some(Scan { found, whole, files: 0 });
    }

    async fn take_scanned(&mut self, found: Vec<Found>, feeder: &Feeder) -> Result<(), StreamError> {
        let mut paths = Vec::with_capacity(found.len());
        for found in found {
            match found {
                Found::File(path) => paths.push(path),
                Found::Unreadable(folder, error) => {
                    self.inlet.count_refusal(codes::UNREADABLE);
                    tracing::warn!(folder = %self.settings.root.join(folder).display(), %error, "folder skipped");
                }
            }
        }
        if let Some(scan) = &mut self.scan {
            scan.files += paths.len() as u64;
        }
        let (polled, stand) = (self.watch.is_none(), self.settings.poll);
        let now = wall_time();
        // Where writing cannot be seen to end, every file is looked at twice.
        let settled = move |_: &Path, found: &super::ledger::Fingerprint| !polled && is_old(found.mtime_ns, now, stand);
        let considered = feeder.consider(paths, settled).await?;
        self.remember(considered);
        Ok(())
    }

    async fn end_scan(&mut self) -> Result<(), StreamError> {
        let Some(scan) = self.scan.take() else { return Ok(()) };
        if !scan.whole {
            return Ok(());
        }
        let interval = if self.watch.is_some() { RESCAN_INTERVAL } else { self.settings.poll.min(RESCAN_INTERVAL) };
        self.next_scan = Instant::now() + interval;
        // An empty folder may be a mount point without its disk: then nothing is forgotten.
        if scan.files == 0 || self.next_prune > Instant::now() {
            return Ok(());
        }
        self.next_prune = Instant::now() + RESCAN_INTERVAL;
        let (ledger, source, root) = (self.ledger.clone(), self.source, self.settings.root.clone());
        let gone = move |path: &Path| {
            std::fs::symlink_metadata(root.join(path)).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
        };
        match spawn_blocking(move || ledger.prune(source, gone)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => {
                tracing::warn!(%error, "going on without");
                Ok(())
            }
            Err(error) => Err(StreamError::Worker { reason: error.to_string() }),
        }
    }

    /// A finished file, and those that finished with it.
    async fn take_events(&mut self, first: PathBuf, feeder: &Feeder) -> Result<(), StreamError> {
        let mut paths = vec![first];
        while paths.len() < GROUP
            && let Some(path) = self.watch.as_mut().and_then(|watch| watch.paths.try_recv().ok())
        {
            paths.push(path);
        }
        let within = paths.iter().filter_map(|path| path.strip_prefix(&self.settings.root).ok());
        let ours = within.filter(|path| !is_ignored(path)).map(Path::to_owned).collect();
        let considered = feeder.consider(ours, |_, _| true).await?;
        self.remember(considered);
        Ok(())
    }

    async fn look_again(&mut self, feeder: &Feeder) -> Result<(), StreamError> {
        for group in self.unsettled.due(&self.settings.root, self.settings.poll, GROUP) {
            let (paths, known): (Vec<_>, Vec<_>) = group.into_iter().map(|entry| (entry.0.clone(), entry)).unzip();
            let considered = feeder.consider(paths, move |path, found| {
                known.iter().any(|(known_path, known)| known_path == path && known == found)
            });
            let considered = considered.await?;
            self.remember(considered);
        }
        Ok(())
    }

    fn remember(&mut self, considered: Considered) {
        for entry in considered.unsettled {
            if !self.unsettled.insert(entry) && self.watch.is_some() {
                self.rescan.request();
            }
        }
        for folder in considered.folders {
            if self.folders.len() < WAITING_FOLDERS {
                self.folders.push_back(folder);
            } else {
                self.rescan.request();
            }
        }
        if !self.settings.recursive {
            self.folders.clear();
        }
    }

    /// Notices that the root disappeared, came back, or is another one than before.
    async fn look_at_root(&mut self) {
        let now = identity(&self.settings.root);
        if now == self.identity {
            return;
        }
        self.identity = now;
        self.watch = None;
        if now.is_none() {
            return self.report_gone();
        }
        tracing::info!(folder = %self.settings.root.display(), "the folder is back");
        self.inlet.set_condition(None);
        if let Err(error) = self.observe().await {
            tracing::warn!(%error, "the folder is polled instead");
        }
        self.rescan.request();
    }

    fn report_gone(&self) {
        let condition = format!("folder {} has disappeared; create or mount it again", self.settings.root.display());
        tracing::warn!("{condition}");
        self.inlet.count_refusal("folder-disappeared");
        self.inlet.set_condition(Some(condition));
    }
}

async fn next_found(scan: &mut Option<Scan>) -> Option<Vec<Found>> {
    match scan {
        Some(scan) => scan.found.recv().await,
        None => std::future::pending().await,
    }
}

async fn next_path(watch: &mut Option<Watch>) -> PathBuf {
    match watch {
        Some(watch) => match watch.paths.recv().await {
            Some(path) => path,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

/// Sends what a walk finds in groups, as fast as they are taken.
fn send_groups(walk: Walk, sender: &mpsc::Sender<Vec<Found>>) {
    let mut group = Vec::with_capacity(GROUP);
    for found in walk {
        group.push(found);
        if group.len() == GROUP && sender.blocking_send(std::mem::take(&mut group)).is_err() {
            return;
        }
    }
    if !group.is_empty() {
        // Refused only where the source has stopped.
        let _ = sender.blocking_send(group);
    }
}

fn identity(root: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(root).ok().filter(std::fs::Metadata::is_dir).map(|found| (found.dev(), found.ino()))
}

fn wall_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Last written at least `stand` before `now`; a time in the future is not old.
fn is_old(mtime_ns: i64, now: Duration, stand: Duration) -> bool {
    let age = i128::try_from(now.as_nanos()).unwrap_or(i128::MAX) - i128::from(mtime_ns);
    age >= i128::try_from(stand.as_nanos()).unwrap_or(i128::MAX)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
