//! Growing, shrinking and upgrading: a new file beside the old one, and a rename.

use std::fs;
use std::path::Path;

use crate::config::{Seed, durable};
use crate::stream::FrameId;

use super::ReplayError;
use super::backing::FileBacking;
use super::file::{Wanted, folder, new_identity, require_room, temporary_path};
use super::layout::{Counters, SlotMeta};
use super::lock::LockFile;
use super::offline::Offline;
use super::policies;
use super::store::FrameStore;

/// The policy whose slots follow from the numbers of the frames.
const FIFO: &str = "fifo";

/// What a resize did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Resized {
    pub slots_before: u64,
    pub slots_after: u64,
    /// Images that are in the new file.
    pub kept: u64,
    /// Images that the new file has no room for.
    pub dropped: u64,
    /// Images that were damaged in the old file.
    pub damaged: u64,
    /// Number of the newest frame, recorded in the new file.
    pub resized_at: u64,
    pub file_bytes: u64,
}

/// Makes the store at `path` one of `slots` slots, in the current format; with as many as it has it is an upgrade.
///
/// A smaller one keeps a uniform sample of what is stored, drawn with `seed`: a uniform sample of a uniform sample is one
/// of the whole stream, so that a reservoir goes on as if it had been that small from the start. FIFO keeps the newest. A
/// larger reservoir that is full is *not* a uniform sample until its new slots are filled, which takes as many frames as
/// were seen before; the file says since when.
///
/// The file is the old one or the new one, whatever stops the machine.
///
/// # Errors
/// [`ReplayError::NoSpace`] before anything is written where both files do not fit; [`ReplayError::Locked`];
/// [`ReplayError::OutOfBounds`]; those of the disk.
pub fn resize(path: &Path, slots: usize, seed: Seed) -> Result<Resized, ReplayError> {
    let old = Offline::open(path)?;
    let made = *old.geometry();
    let wanted = Wanted {
        purpose: made.purpose,
        policy: made.policy,
        slots,
        spares: made.spares(),
        side: made.shape.side(),
        channels: made.shape.channels(),
    };
    let geometry = wanted.geometry(new_identity(path))?;
    require_room(path, geometry.file_length())?;
    let stored = old.entries();
    let placed = if policies::name(made.policy) == FIFO {
        newest(&stored, slots)
    } else {
        sample(&stored, made.slots(), slots, old.counters().seen, seed)
    };
    let temporary = temporary_path(path);
    let io = |operation| move |source| ReplayError::Io { operation, path: path.into(), source };
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io("make")(error)),
        _ => {}
    }
    // The new file has a lock of its own until it has the name; that of the old one is held all the while.
    let lock = LockFile::acquire(&temporary)?;
    let written = FileBacking::create(&temporary, &temporary, lock)
        .map_err(io("make"))
        .and_then(|backing| FrameStore::create(backing, geometry))
        .and_then(|store| copy(&old, store, &placed));
    let _ = fs::remove_file(lock_of(&temporary));
    let kept = match written {
        Ok(kept) => kept,
        Err(error) => {
            let _ = fs::remove_file(&temporary);
            return Err(error);
        }
    };
    fs::rename(&temporary, path).map_err(io("name"))?;
    durable::sync_folder(folder(path)).map_err(io("name"))?;
    Ok(Resized {
        slots_before: made.slots() as u64,
        slots_after: slots as u64,
        kept,
        dropped: (stored.len() - placed.len()) as u64,
        damaged: placed.len() as u64 - kept,
        resized_at: old.counters().last_frame,
        file_bytes: geometry.file_length(),
    })
}

fn lock_of(path: &Path) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

/// The newest frames, each in the slot that FIFO would have given it.
fn newest(stored: &[(u32, SlotMeta, u64)], slots: usize) -> Vec<(usize, FrameId)> {
    let mut newest: Vec<_> = stored.iter().map(|(_, meta, seen)| (*seen, meta.id)).collect();
    newest.sort_unstable();
    let surplus = newest.len().saturating_sub(slots);
    let place = |(seen, id): (u64, FrameId)| ((seen.saturating_sub(1) % slots as u64) as usize, id);
    // Of two that would share a slot (the counters were lost once) the newer stays.
    let placed: std::collections::BTreeMap<usize, FrameId> = newest.into_iter().skip(surplus).map(place).collect();
    placed.into_iter().collect()
}

/// A uniform sample of what is stored, where it does not fit as it is.
///
/// While a reservoir fills, the n-th frame goes to the n-th slot: as long as the new one has not been full either, every
/// frame stays where it is.
fn sample(
    stored: &[(u32, SlotMeta, u64)],
    before: usize,
    slots: usize,
    seen: u64,
    seed: Seed,
) -> Vec<(usize, FrameId)> {
    if slots >= before || seen <= slots as u64 {
        return stored.iter().map(|(slot, meta, _)| (*slot as usize, meta.id)).collect();
    }
    let mut kept = seed.random("resize", seen).choose(stored.len(), slots);
    kept.sort_unstable();
    kept.into_iter().enumerate().map(|(slot, at)| (slot, stored[at].1.id)).collect()
}

/// Images copied; those that are damaged are left out.
fn copy(old: &Offline, mut new: FrameStore<FileBacking>, placed: &[(usize, FrameId)]) -> Result<u64, ReplayError> {
    let (reader, mut kept) = (old.reader(), 0);
    for &(slot, id) in placed {
        let Some(image) = reader.get(id) else { continue };
        if new.room() == 0 {
            new.commit()?;
        }
        new.put(slot, image.meta, &image.pixels)?;
        kept += 1;
    }
    let counters = old.counters();
    // A FIFO's slots follow from the frames seen, a reservoir's chances, too: the count goes on.
    new.counters = Counters { resized_at: counters.last_frame, ..counters };
    new.flush()?;
    // A second superblock of the same content: damage to one of them does not take the counters.
    new.flush()?;
    Ok(kept)
}
