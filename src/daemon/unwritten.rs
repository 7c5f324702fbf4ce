//! What waits to be written while the state folder's disk refuses: the memory thread goes on, and nothing is lost unless
//! the process ends before the disk has room again.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::knn::{KnnError, Labels};
use crate::replay::ReplayError;
use crate::stream::FrameId;

/// First and longest pause between two tries to write to a store whose disk is full.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Changes of labels that the database has not taken, and whether the register of tasks has some.
///
/// Bounded: an entry belongs to a frame that is kept, or to one with a label in the database.
#[derive(Debug, Default)]
pub struct Unwritten {
    labels: BTreeMap<FrameId, Option<String>>,
    /// The register has boundaries that are not written.
    pub boundaries: bool,
}

impl Unwritten {
    /// The sender's label of a frame that was kept.
    pub fn label(&mut self, frame: FrameId, label: &str) {
        self.labels.insert(frame, Some(label.into()));
    }

    /// The image of the frame is gone, and its label goes with it.
    pub fn forget(&mut self, frame: FrameId, labels: &Labels) {
        if labels.get(frame).is_some() {
            self.labels.insert(frame, None);
        } else {
            self.labels.remove(&frame);
        }
    }

    /// Writes the labels, all of them or, on an error, none; those are then tried again with the next call.
    ///
    /// # Errors
    /// [`KnnError::Store`].
    pub fn write_labels(&mut self, labels: &Labels) -> Result<(), KnnError> {
        let (mut given, mut gone) = (Vec::new(), Vec::new());
        for (&frame, label) in &self.labels {
            match label {
                // What a person said meanwhile counts more than what the sender had said before.
                Some(label) if labels.get(frame).is_none() => given.push((frame, label.as_str())),
                Some(_) => {}
                None => gone.push(frame),
            }
        }
        let written = if given.is_empty() { Ok(()) } else { labels.set(&given) };
        match written {
            Err(error @ KnnError::Store { .. }) => return Err(error),
            // A label that is not fit to print is refused where it comes in; one that came all the same is dropped.
            Err(error) => tracing::warn!(code = error.code(), "labels were dropped: {error}"),
            Ok(()) => {}
        }
        if !gone.is_empty() {
            labels.remove(&gone)?;
        }
        self.labels.clear();
        Ok(())
    }
}

/// Tries again, with pauses, as long as the disk refuses a write that can be tried again and `go_on` says so: the queue
/// before this thread fills meanwhile and holds its senders up.
///
/// # Errors
/// Any error that another try cannot help, and that of the last try.
pub fn insist<T>(
    go_on: impl Fn() -> bool,
    mut attempt: impl FnMut() -> Result<T, ReplayError>,
) -> Result<T, ReplayError> {
    let mut pause = FIRST_PAUSE;
    loop {
        match attempt() {
            Err(error @ ReplayError::Io { .. }) if go_on() => {
                if pause == FIRST_PAUSE {
                    tracing::error!(code = error.code(), "{error}; trying again until the disk takes it");
                }
                std::thread::sleep(pause);
                pause = (2 * pause).min(LONGEST_PAUSE);
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::durable::Database;

    fn labels(folder: &tempfile::TempDir) -> Labels {
        Labels::open(Arc::new(Database::create(&folder.path().join("state.redb")).unwrap())).unwrap()
    }

    #[test]
    fn labels_of_gone_frames_are_not_written_and_those_of_people_stay() {
        let folder = tempfile::tempdir().unwrap();
        let labels = labels(&folder);
        labels.set(&[(FrameId(1), "old"), (FrameId(2), "by hand")]).unwrap();
        let mut unwritten = Unwritten::default();
        unwritten.label(FrameId(2), "sender");
        unwritten.label(FrameId(3), "sender");
        unwritten.label(FrameId(4), "sender");
        unwritten.forget(FrameId(1), &labels);
        unwritten.forget(FrameId(4), &labels);
        unwritten.write_labels(&labels).unwrap();
        let get = |frame| labels.get(FrameId(frame)).map(|label| label.to_string());
        assert_eq!([get(1), get(2), get(3), get(4)], [None, Some("by hand".into()), Some("sender".into()), None]);
        assert!(unwritten.labels.is_empty());
    }

    #[test]
    fn a_refused_write_is_tried_again_until_it_succeeds_or_nobody_waits() {
        let refused =
            || ReplayError::Io { operation: "write", path: "p".into(), source: std::io::ErrorKind::StorageFull.into() };
        let mut tries = 0;
        let result = insist(
            || true,
            || {
                tries += 1;
                if tries < 3 { Err(refused()) } else { Ok(tries) }
            },
        );
        assert_eq!(result.unwrap(), 3);
        assert_eq!(insist(|| false, || Err::<(), _>(refused())).unwrap_err().code(), "store-io");
        let stopped = insist(|| true, || Err::<(), _>(ReplayError::Stopped { cause: "EIO".into() }));
        assert!(stopped.unwrap_err().is_fatal(), "a failed sync is never tried again");
    }
}
