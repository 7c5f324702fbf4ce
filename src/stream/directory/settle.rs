//! Files that may still be written: looked at twice, taken when they stand still.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::file::fingerprint;
use crate::stream::ledger::{Entry, Fingerprint};

/// Files that may be held; those beyond are found again by the next scan.
const HELD_FILES: usize = 16_384;

/// By path, so that they come out in the order in which a walk finds them.
#[derive(Debug, Default)]
pub struct Unsettled(BTreeMap<PathBuf, (Fingerprint, Instant)>);

impl Unsettled {
    /// Holds a file, since now where it is new or has changed; false where there is no room.
    pub fn insert(&mut self, (path, found): Entry) -> bool {
        if self.0.len() >= HELD_FILES && !self.0.contains_key(&path) {
            return false;
        }
        let now = Instant::now();
        let held = self.0.entry(path).or_insert((found, now));
        if held.0 != found {
            *held = (found, now);
        }
        true
    }

    /// Takes out, in groups, the files that have not changed for `stand`; forgets those that are gone.
    pub fn due(&mut self, root: &Path, stand: Duration, group: usize) -> Vec<Vec<Entry>> {
        let mut due = Vec::new();
        self.0.retain(|path, (held, since)| {
            if since.elapsed() < stand {
                return true;
            }
            let Ok(found) = std::fs::symlink_metadata(root.join(path)) else { return false };
            let found = fingerprint(&found);
            if found == *held {
                due.push((path.clone(), found));
                return false;
            }
            (*held, *since) = (found, Instant::now());
            true
        });
        due.chunks(group).map(<[Entry]>::to_vec).collect()
    }
}
