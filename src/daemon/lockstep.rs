//! Training as a function of the committed stream: `learn.step_locked`.
//!
//! The memory thread commits one frame at a time, and when a batch is whole it waits until the learner has taken its steps
//! and written a checkpoint. So every step sees the replay buffer as it was right after the commit of its batch's last frame,
//! and a restart, whenever the process was killed, goes on to the same bits. What was committed since the last checkpoint
//! is kept in a journal beside it, for the buffer may have rejected or replaced it.
//!
//! ```text
//! lockstep.journal, a record a frame, little-endian:
//!      0   8  frame        8  16  hash of its bytes as they came        24   4  length of the pixels, L
//!     28   L  pixels    28+L   4  CRC-32 of all before
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::config::durable;
use crate::stream::FrameId;

/// Name within the state folder.
pub const JOURNAL: &str = "lockstep.journal";

const HEAD: usize = 28;
const CRC: usize = 4;

/// A committed frame that no checkpoint covers yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    pub id: FrameId,
    pub hash: [u8; 16],
    pub pixels: Vec<u8>,
}

/// What the memory thread and the learner keep step by.
#[derive(Debug)]
pub struct LockStep {
    batch: usize,
    state: Mutex<State>,
    learnt: Condvar,
}

#[derive(Debug)]
struct State {
    journal: File,
    /// Frames in the journal that wait for a batch to be whole, or for the learner.
    pending: usize,
    /// The last of them.
    newest: FrameId,
    /// The last frame that was learnt from.
    covered: FrameId,
    /// The learner has ended: nobody waits for it any more.
    ended: bool,
}

impl LockStep {
    /// Opens the journal in `folder` and gives what of it no checkpoint covers: frames above `covered` and up to
    /// `committed`, the newest in the replay buffer. Frames after that were never acknowledged and will be sent again.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn open(folder: &Path, batch: usize, covered: FrameId, committed: FrameId) -> io::Result<(Self, Vec<Pending>)> {
        let path = folder.join(JOURNAL);
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other?,
        };
        let mut pending = records(&bytes);
        pending.retain(|frame| frame.id > covered && frame.id <= committed);
        let kept: Vec<u8> = pending.iter().flat_map(encode).collect();
        durable::replace(&path, &kept)?;
        let journal = OpenOptions::new().append(true).mode(0o600).open(&path)?;
        let newest = pending.last().map_or(covered, |frame| frame.id);
        let state = State { journal, pending: pending.len(), newest, covered, ended: false };
        Ok((Self { batch, state: Mutex::new(state), learnt: Condvar::new() }, pending))
    }

    /// A panic elsewhere leaves counters that are whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a frame to the journal, durably; before the commit that holds it.
    ///
    /// # Errors
    /// Those of the file system: then the frame must not be acknowledged, and can be tried again.
    pub fn append(&self, frame: &Pending) -> io::Result<()> {
        let mut state = self.state();
        let length = state.journal.metadata()?.len();
        let written = state.journal.write_all(&encode(frame));
        // Half a record would hide those that follow.
        written.or_else(|error| state.journal.set_len(length).and(Err(error)))?;
        state.journal.sync_data()?;
        state.pending += 1;
        state.newest = frame.id;
        Ok(())
    }

    /// Waits while a whole batch has not been learnt from.
    pub fn wait(&self) {
        let state = self.state();
        let waits = |state: &mut State| state.pending >= self.batch && !state.ended;
        drop(self.learnt.wait_while(state, waits).unwrap_or_else(PoisonError::into_inner));
    }

    /// The last frame that was learnt from: what a checkpoint written now covers.
    pub fn covered(&self) -> FrameId {
        self.state().covered
    }

    /// The batch was learnt from; the stream goes on waiting until a checkpoint covers it.
    pub fn learnt(&self) {
        let mut state = self.state();
        state.covered = state.newest;
    }

    /// A checkpoint covers the batch.
    ///
    /// # Errors
    /// Those of the file system. What stays in the journal is passed over by the next start.
    pub fn kept(&self) -> io::Result<()> {
        let mut state = self.state();
        let emptied = state.journal.set_len(0).and_then(|()| state.journal.sync_data());
        state.pending = 0;
        drop(state);
        self.learnt.notify_all();
        emptied
    }

    /// The learner has ended.
    pub fn end(&self) {
        self.state().ended = true;
        self.learnt.notify_all();
    }
}

/// Whether there is no room for now.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn encode(frame: &Pending) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + frame.pixels.len() + CRC);
    bytes.extend(frame.id.0.to_le_bytes());
    bytes.extend(frame.hash);
    bytes.extend((frame.pixels.len() as u32).to_le_bytes());
    bytes.extend(&frame.pixels);
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

/// The records up to the first that is not whole.
fn records(mut bytes: &[u8]) -> Vec<Pending> {
    let mut found = Vec::new();
    while let Some((frame, rest)) = record(bytes) {
        found.push(frame);
        bytes = rest;
    }
    found
}

fn record(bytes: &[u8]) -> Option<(Pending, &[u8])> {
    let (id, rest) = bytes.split_first_chunk::<8>()?;
    let (hash, rest) = rest.split_first_chunk::<16>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let pixels = rest.get(..length)?;
    let (crc, rest) = rest[length..].split_first_chunk::<CRC>()?;
    let whole = crc32fast::hash(&bytes[..HEAD + length]) == u32::from_le_bytes(*crc);
    let frame = Pending { id: FrameId(u64::from_le_bytes(*id)), hash: *hash, pixels: pixels.into() };
    whole.then_some((frame, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(id: u64) -> Pending {
        Pending { id: FrameId(id), hash: [id as u8; 16], pixels: vec![id as u8; 12] }
    }

    #[test]
    fn what_no_checkpoint_covers_comes_back_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let open = |covered, committed| LockStep::open(folder.path(), 4, FrameId(covered), FrameId(committed)).unwrap();
        let (lock, pending) = open(0, 0);
        assert!(pending.is_empty());
        (1..=5).for_each(|id| lock.append(&frame(id)).unwrap());
        let (_, pending) = open(2, 4);
        assert_eq!(pending, [frame(3), frame(4)]);
        let (lock, pending) = open(2, 4);
        assert_eq!(pending, [frame(3), frame(4)], "the journal holds what is pending still");
        lock.append(&frame(5)).unwrap();
        assert_eq!(lock.covered(), FrameId(2));
        lock.learnt();
        assert_eq!(lock.covered(), FrameId(5));
        lock.kept().unwrap();
        lock.append(&frame(6)).unwrap();
        assert_eq!(open(0, 9).1, [frame(6)]);
    }

    #[test]
    fn a_record_that_is_cut_short_or_damaged_ends_the_journal() {
        let bytes: Vec<u8> = [1, 2, 3].map(frame).iter().flat_map(encode).collect();
        let one = bytes.len() / 3;
        for length in 0..=bytes.len() {
            assert_eq!(records(&bytes[..length]).len(), length / one, "{length} bytes");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(records(&damaged).len() <= at / one, "byte {at}");
        }
    }

    #[test]
    fn the_stream_waits_for_a_whole_batch_only() {
        let folder = tempfile::tempdir().unwrap();
        let (lock, _) = LockStep::open(folder.path(), 2, FrameId(0), FrameId(0)).unwrap();
        lock.append(&frame(1)).unwrap();
        lock.wait();
        lock.append(&frame(2)).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| lock.wait());
            std::thread::sleep(std::time::Duration::from_millis(30));
            assert!(!waiting.is_finished());
            lock.learnt();
            assert!(!waiting.is_finished());
            lock.kept().unwrap();
        });
        lock.append(&frame(3)).unwrap();
        lock.append(&frame(4)).unwrap();
        lock.end();
        lock.wait();
    }
}
