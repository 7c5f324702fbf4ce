//! From a path to a verdict in the ledger: looks the file up, marks it, reads it, offers it, and writes down what became of it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::dispose::Disposal;
use super::file::{self, Unread};
use crate::stream::frame::codes;
use crate::stream::ledger::{Company, Entry, FileState, Fingerprint, KILLER, Outcome};
use crate::stream::{Draft, Inlet, Ledger, Origin, Receipt, StreamError, Verdict};

/// Files offered and not written down yet; the queue's bytes are usually the narrower bound.
const UNRECORDED_FILES: usize = 4096;
/// Verdicts written down in one commit.
const RECORDED_AT_ONCE: usize = 256;
/// Between two tries while the ledger fails.
const LEDGER_PAUSE: Duration = Duration::from_millis(500);
/// How long a stop waits for the verdicts of files in flight.
const DRAIN: Duration = Duration::from_secs(10);

/// What became of paths that were considered.
#[derive(Debug, Default)]
pub struct Considered {
    /// Not new, not decided: unchanged files that want a second look, with what they were at the first.
    pub unsettled: Vec<Entry>,
    /// They are folders, or contain files that the watch may have missed.
    pub folders: Vec<PathBuf>,
}

/// Offers files and keeps the ledger.
pub struct Feeder {
    root: PathBuf,
    max_bytes: usize,
    disposal: Disposal,
    ledger: Ledger,
    inlet: Inlet,
    stop: CancellationToken,
    in_flight: InFlight,
    entries: mpsc::Sender<ToRecord>,
    recorder: JoinHandle<()>,
}

/// Files offered and not written down: found again meanwhile, they are passed over.
#[derive(Debug, Clone, Default)]
struct InFlight(Arc<Mutex<HashMap<PathBuf, Fingerprint>>>);

impl InFlight {
    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Fingerprint>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A new file, and its marks from processes that died with it.
struct Candidate {
    entry: Entry,
    marks: u8,
}

enum ToRecord {
    Decided(Entry, Outcome),
    Offered(Entry, Receipt),
    /// Answered when all before it are written down.
    Barrier(oneshot::Sender<()>),
}

impl Feeder {
    pub fn start(
        root: PathBuf,
        max_bytes: usize,
        disposal: Disposal,
        ledger: Ledger,
        inlet: Inlet,
        stop: CancellationToken,
    ) -> Self {
        let (entries, queue) = mpsc::channel(UNRECORDED_FILES);
        let in_flight = InFlight::default();
        let recorder = Recorder {
            ledger: ledger.clone(),
            disposal: disposal.clone(),
            inlet: inlet.clone(),
            stop: stop.clone(),
            in_flight: in_flight.clone(),
        };
        let recorder = tokio::spawn(recorder.run(queue));
        Self { root, max_bytes, disposal, ledger, inlet, stop, in_flight, entries, recorder }
    }

    /// Waits, within a bound, until everything in flight is decided and written down.
    pub async fn finish(self) {
        drop(self.entries);
        if tokio::time::timeout(DRAIN, self.recorder).await.is_err() {
            tracing::warn!(
                "files in flight were not decided in time; they will be looked at again after the next start"
            );
        }
    }

    /// Offers those of `paths` that are new. Files for which `is_settled` is false are handed back for a second look.
    ///
    /// # Errors
    /// Only where a worker thread died.
    pub async fn consider(
        &self,
        paths: Vec<PathBuf>,
        is_settled: impl Fn(&Path, &Fingerprint) -> bool + Send + Sync + 'static,
    ) -> Result<Considered, StreamError> {
        let (root, ledger, inlet, in_flight) =
            (self.root.clone(), self.ledger.clone(), self.inlet.clone(), self.in_flight.clone());
        let survey = move || survey(&root, &ledger, &inlet, &in_flight, &paths, &is_settled);
        let Some(Survey { mut considered, mut candidates, decided }) = self.patiently(survey).await? else {
            return Ok(Considered::default());
        };
        if self.disposal.acts() && !decided.is_empty() {
            // Decided before, and found all the same: the process ended between the ledger and the file.
            let (disposal, inlet) = (self.disposal.clone(), self.inlet.clone());
            spawn_blocking(move || dispose(&disposal, &inlet, &decided)).await.map_err(died)?;
        }
        let suspects = candidates.extract_if(.., |candidate| candidate.marks > 0).collect::<Vec<_>>();
        let alone = candidates.len() == 1 && self.in_flight.lock().is_empty();
        let company = if alone { Company::Alone } else { Company::Others };
        self.mark(candidates.iter().map(|candidate| candidate.entry.clone()).collect(), company).await?;
        for candidate in candidates {
            considered.unsettled.extend(self.offer(candidate.entry).await?);
        }
        for suspect in suspects {
            considered.unsettled.extend(self.try_alone(suspect).await?);
        }
        Ok(considered)
    }

    /// Does what needs the ledger, again and again while it fails: without it nobody knows which files were taken. The
    /// source stands still meanwhile, and says so; none where it is to stop.
    async fn patiently<T: Send + 'static>(
        &self,
        work: impl Fn() -> Result<T, StreamError> + Send + Sync + 'static,
    ) -> Result<Option<T>, StreamError> {
        let work = Arc::new(work);
        let mut waiting = false;
        loop {
            let attempt = Arc::clone(&work);
            match spawn_blocking(move || attempt()).await.map_err(died)? {
                Ok(done) => {
                    if waiting {
                        self.inlet.set_condition(None);
                    }
                    return Ok(Some(done));
                }
                Err(error) if !waiting => {
                    waiting = true;
                    ledger_failed(&self.inlet, &error);
                    self.inlet.set_condition(Some(error.to_string()));
                }
                Err(_) => {}
            }
            tokio::select! {
                () = tokio::time::sleep(LEDGER_PAUSE) => {}
                () = self.stop.cancelled() => return Ok(None),
            }
        }
    }

    /// A file that may have killed the process: alone, so that a second death is no doubt its own.
    async fn try_alone(&self, Candidate { entry, marks }: Candidate) -> Result<Option<Entry>, StreamError> {
        self.barrier().await;
        if self.stop.is_cancelled() {
            return Ok(None);
        }
        if marks >= KILLER {
            let detail = "the process died twice while working on this file; remove it, or touch it to try again";
            tracing::warn!(file = %entry.0.display(), "{detail}");
            self.refuse(entry, codes::CRASHED_TWICE, detail.into()).await;
            return Ok(None);
        }
        self.mark(vec![entry.clone()], Company::Alone).await?;
        let unsettled = self.offer(entry).await?;
        self.barrier().await;
        Ok(unsettled)
    }

    async fn barrier(&self) {
        let (done, recorded) = oneshot::channel();
        if self.entries.send(ToRecord::Barrier(done)).await.is_ok() {
            tokio::select! {
                _ = recorded => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    async fn mark(&self, entries: Vec<Entry>, company: Company) -> Result<(), StreamError> {
        if entries.is_empty() {
            return Ok(());
        }
        let (ledger, source) = (self.ledger.clone(), self.inlet.source());
        let marked = spawn_blocking(move || ledger.mark(source, &entries, company)).await.map_err(died)?;
        if let Err(error) = marked {
            // Without the mark a file is only not recognised as a killer: better than to stand still on a full disk.
            ledger_failed(&self.inlet, &error);
        }
        Ok(())
    }

    /// Reads and offers one file; hands it back where it changed meanwhile.
    async fn offer(&self, entry: Entry) -> Result<Option<Entry>, StreamError> {
        let size = usize::try_from(entry.1.size).unwrap_or(usize::MAX).min(self.max_bytes);
        let room = tokio::select! {
            room = self.inlet.reserve(size) => room,
            () = self.stop.cancelled() => {
                self.record(ToRecord::Decided(entry, Outcome::Undecided)).await;
                return Ok(None);
            }
        };
        let Ok(room) = room else {
            self.record(ToRecord::Decided(entry, Outcome::Undecided)).await;
            return Ok(None);
        };
        let (root, path, expected, max_bytes) = (self.root.clone(), entry.0.clone(), entry.1, self.max_bytes);
        let read = move || {
            let (mut file, found) = file::open(&root, &path, max_bytes)?;
            if found == expected { file::read(&mut file, expected) } else { Err(Unread::Changed) }
        };
        match spawn_blocking(read).await.map_err(died)? {
            Ok(bytes) => {
                let origin = Origin::File(entry.0.clone());
                let captured_at_ns = Some(entry.1.mtime_ns);
                let draft = Draft { origin, bytes: bytes.into(), captured_at_ns, label: None };
                match room.send(draft) {
                    Ok(receipt) => self.record(ToRecord::Offered(entry, receipt)).await,
                    Err(_) => self.record(ToRecord::Decided(entry, Outcome::Undecided)).await,
                }
                Ok(None)
            }
            Err(Unread::Changed) => {
                self.record(ToRecord::Decided(entry.clone(), Outcome::Undecided)).await;
                Ok(Some(entry))
            }
            Err(Unread::Refused { code, detail }) => {
                self.refuse(entry, code, detail).await;
                Ok(None)
            }
        }
    }

    async fn refuse(&self, entry: Entry, code: &'static str, detail: String) {
        self.inlet.count_refusal(code);
        tracing::info!(file = %entry.0.display(), code, "{detail}");
        self.record(ToRecord::Decided(entry, Outcome::Refused { code, detail })).await;
    }

    async fn record(&self, entry: ToRecord) {
        if let ToRecord::Decided((path, fingerprint), _) | ToRecord::Offered((path, fingerprint), _) = &entry {
            self.in_flight.lock().insert(path.clone(), *fingerprint);
        }
        // The recorder ends after this sender only.
        let _ = self.entries.send(entry).await;
    }
}

/// What was found among some paths.
struct Survey {
    considered: Considered,
    candidates: Vec<Candidate>,
    /// Files whose end the ledger knows, and which are there.
    decided: Vec<(Entry, Ended)>,
}

/// How a file ended.
enum Ended {
    Taken,
    Refused { code: String, detail: String },
}

/// Moves or deletes what is settled, as the settings say. What fails is found again by the next scan.
fn dispose(disposal: &Disposal, inlet: &Inlet, files: &[(Entry, Ended)]) {
    for (entry, ended) in files {
        let disposed = match ended {
            Ended::Taken => disposal.taken(entry),
            Ended::Refused { code, detail } => disposal.refused(entry, code, detail),
        };
        if let Err(error) = disposed {
            inlet.count_refusal("file-not-moved");
            tracing::warn!(file = %entry.0.display(), %error, "could not be moved or deleted; tried again at the next scan");
        }
    }
}

/// Stats and looks up: what is new, in the order of `paths`.
fn survey(
    root: &Path,
    ledger: &Ledger,
    inlet: &Inlet,
    in_flight: &InFlight,
    paths: &[PathBuf],
    is_settled: impl Fn(&Path, &Fingerprint) -> bool,
) -> Result<Survey, StreamError> {
    let (mut considered, mut vanished) = (Considered::default(), 0);
    let mut entries: Vec<Entry> = Vec::with_capacity(paths.len());
    for path in paths {
        match std::fs::symlink_metadata(root.join(path)) {
            Ok(found) if found.is_dir() => considered.folders.push(path.clone()),
            Ok(found) => {
                let fingerprint = file::fingerprint(&found);
                let flying = in_flight.lock().get(path) == Some(&fingerprint);
                if !flying && !entries.iter().any(|(known, _)| known == path) {
                    entries.push((path.clone(), fingerprint));
                }
            }
            Err(_) => vanished += 1,
        }
    }
    let states = ledger.look_up(inlet.source(), &entries)?;
    let (mut candidates, mut decided) = (Vec::new(), Vec::new());
    for (entry, state) in entries.into_iter().zip(states) {
        let marks = match state {
            FileState::Taken(_) => {
                decided.push((entry, Ended::Taken));
                continue;
            }
            FileState::Refused { code, detail } if code != codes::UNREADABLE => {
                decided.push((entry, Ended::Refused { code, detail }));
                continue;
            }
            // Permissions change without a trace in the fingerprint; the same failure again is not counted again.
            FileState::Refused { .. } if file::open(root, &entry.0, usize::MAX).is_err() => continue,
            FileState::Tried(marks) => marks,
            _ => 0,
        };
        if is_settled(&entry.0, &entry.1) {
            candidates.push(Candidate { entry, marks });
        } else {
            considered.unsettled.push(entry);
        }
    }
    // Only now, so that a second try does not count them twice.
    (0..vanished).for_each(|_| inlet.count_refusal(codes::VANISHED));
    Ok(Survey { considered, candidates, decided })
}

/// Waits for verdicts in the order of offering and commits them in groups.
struct Recorder {
    ledger: Ledger,
    disposal: Disposal,
    inlet: Inlet,
    stop: CancellationToken,
    in_flight: InFlight,
}

impl Recorder {
    async fn run(self, mut queue: mpsc::Receiver<ToRecord>) {
        let mut group = Vec::new();
        let mut next = queue.recv().await;
        while let Some(entry) = next.take() {
            match entry {
                ToRecord::Decided(entry, outcome) => group.push((entry, outcome)),
                ToRecord::Offered(entry, mut receipt) => {
                    let verdict = match receipt.try_verdict() {
                        Some(verdict) => verdict,
                        None => {
                            // Nobody waits for a group that is not full while the daemon is at work on the next.
                            self.commit(&mut group).await;
                            receipt.await
                        }
                    };
                    group.push((entry, outcome(verdict)));
                }
                ToRecord::Barrier(done) => {
                    self.commit(&mut group).await;
                    let _ = done.send(());
                }
            }
            if group.len() >= RECORDED_AT_ONCE {
                self.commit(&mut group).await;
            }
            next = match queue.try_recv() {
                Ok(entry) => Some(entry),
                Err(_) => {
                    self.commit(&mut group).await;
                    queue.recv().await
                }
            };
        }
        self.commit(&mut group).await;
    }

    async fn commit(&self, group: &mut Vec<(Entry, Outcome)>) {
        if group.is_empty() {
            return;
        }
        let mut group = std::mem::take(group);
        let mut failing = false;
        loop {
            let (ledger, source) = (self.ledger.clone(), self.inlet.source());
            let recording = spawn_blocking(move || (ledger.record(source, &group), group));
            let Ok((recorded, back)) = recording.await else { return };
            group = back;
            let Err(error) = recorded else {
                let Ok(back) = self.dispose(group).await else { return };
                group = back;
                break;
            };
            if !failing {
                ledger_failed(&self.inlet, &error);
            }
            failing = true;
            // Files offered and not written down are bounded, so that in the end the source waits here, too. At a stop
            // they are left: found again after the restart, their bytes are known.
            tokio::select! {
                () = tokio::time::sleep(LEDGER_PAUSE) => {}
                () = self.stop.cancelled() => break,
            }
        }
        let mut in_flight = self.in_flight.lock();
        for ((path, fingerprint), _) in group {
            if in_flight.get(&path) == Some(&fingerprint) {
                in_flight.remove(&path);
            }
        }
    }
}

impl Recorder {
    /// After the ledger has them, so that a crash in between leaves a file too many and never one too few.
    async fn dispose(&self, group: Vec<(Entry, Outcome)>) -> Result<Vec<(Entry, Outcome)>, tokio::task::JoinError> {
        if !self.disposal.acts() {
            return Ok(group);
        }
        let ended = |(entry, outcome): &(Entry, Outcome)| {
            let ended = match outcome {
                Outcome::Taken(_) => Ended::Taken,
                Outcome::Refused { code, detail } => {
                    Ended::Refused { code: (*code).to_owned(), detail: detail.clone() }
                }
                Outcome::Undecided => return None,
            };
            Some((entry.clone(), ended))
        };
        let files: Vec<(Entry, Ended)> = group.iter().filter_map(ended).collect();
        let (disposal, inlet) = (self.disposal.clone(), self.inlet.clone());
        spawn_blocking(move || dispose(&disposal, &inlet, &files)).await?;
        Ok(group)
    }
}

/// A refusal that may pass later leaves no trace, so that the next scan tries again.
fn outcome(verdict: Verdict) -> Outcome {
    match verdict {
        Verdict::Accepted { id, .. } | Verdict::Duplicate { id } => Outcome::Taken(id),
        Verdict::Refused { code, detail, retry_after: None } => Outcome::Refused { code, detail },
        Verdict::Refused { retry_after: Some(_), .. } => Outcome::Undecided,
    }
}

fn ledger_failed(inlet: &Inlet, error: &StreamError) {
    inlet.count_refusal(error.code());
    tracing::warn!(%error, "going on without");
}

fn died(error: tokio::task::JoinError) -> StreamError {
    StreamError::Worker { reason: error.to_string() }
}
