//! Power cuts at every moment of random workloads, in recovery too, and again and again.
//!
//! After each cut the store has to hold, in every slot, what was acknowledged or something newer; whole; and nothing
//! else. What was erased is nowhere in the file. Readers in between see committed images only. Now and then a stored copy
//! rots as well, which may cost that image and may not bring back an older one. `LUMPD_CRASH_IMAGES` sets how many cuts
//! are tried, for a long run in release mode.
//!
//! This store has no pins: a reader copies under the lock of the index that a slot's release takes for itself, so that a
//! slot is never written under a reader (`damage` has readers beside a writer).

use std::time::Instant;

use crate::config::{Random, Seed};
use crate::replay::ReplayError;
use crate::replay::{shared::PlantedBug, store::FrameStore};

use super::knowledge::Knowledge;
use super::simulator::{Operation, Simulated, meta, pixels, power_cut, wanted};

const ALL_BUGS: [PlantedBug; 10] = [
    PlantedBug::EarlySlotReuse,
    PlantedBug::NoPayloadCrc,
    PlantedBug::SkipSync,
    PlantedBug::InPlaceWrite,
    PlantedBug::WatermarkTooNew,
    PlantedBug::RecoveryWithoutSync,
    PlantedBug::RecoveryVouchesForUnfinished,
    PlantedBug::AckBeforeSync,
    PlantedBug::FreedSlotsNotWiped,
    PlantedBug::RemovedPixelsNotErased,
];

/// Restarts that may follow each other after one cut.
const DEEPEST: usize = 3;

/// A workload that was run, and what was known when.
struct Run {
    initial: Vec<u8>,
    journal: Vec<Operation>,
    /// From this position of the journal on, this was known.
    knowledge: Vec<(usize, Knowledge)>,
}

/// A store at work, and what is known of it.
struct Work<'a> {
    disk: Simulated,
    store: FrameStore<Simulated>,
    known: Knowledge,
    knowledge: Vec<(usize, Knowledge)>,
    /// Whether writes may fail.
    failing: bool,
    random: &'a mut Random,
}

impl Work<'_> {
    fn position(&self) -> usize {
        self.disk.disk().journal.len()
    }

    fn note(&mut self, position: usize) {
        self.knowledge.push((position, self.known.clone()));
    }

    /// Fails one of the next `within` writes, once in a while.
    fn maybe_fail(&mut self, within: u64) {
        let fails = self.failing && self.random.below(12) == 0;
        self.known.failed |= fails;
        self.disk.disk().fail_write = fails.then(|| self.random.below(within) as usize);
    }

    /// A write; then perhaps a removal or a commit.
    fn step(&mut self, id: u64) -> Result<(), String> {
        let slot = self.random.below(self.store.geometry().slots() as u64) as usize;
        let start = self.position();
        self.store.counters.seen += 1;
        self.maybe_fail(1);
        match self.store.put(slot, meta(id), &pixels(id, self.store.geometry().shape.bytes())) {
            Ok(_) => {
                self.known.wrote(slot, Some(id));
                self.note(start);
            }
            Err(ReplayError::Io { .. } | ReplayError::GroupFull { .. }) => {}
            Err(error) => return Err(error.to_string()),
        }
        self.disk.disk().fail_write = None;
        if self.random.below(16) == 0 {
            self.known.check_reader(&self.store)?;
        }
        if self.random.below(12) == 0 {
            self.forget(slot)?;
        } else if self.store.room() == 0 || self.random.below(3) == 0 {
            self.maybe_fail(3);
            let committed = self.store.commit();
            self.disk.disk().fail_write = None;
            if committed.is_ok() {
                self.known.acknowledged();
                self.note(self.position());
            }
        }
        Ok(())
    }

    /// As the replay buffer forgets a frame.
    fn forget(&mut self, slot: usize) -> Result<(), String> {
        let failed = |error: ReplayError| error.to_string();
        self.store.commit().map_err(failed)?;
        self.known.acknowledged();
        self.note(self.position());
        let frame = self.known.holds(slot);
        self.known.wrote(slot, None);
        self.note(self.position());
        self.store.erase_free().map_err(failed)?;
        self.store.remove(&[slot]).map_err(failed)?;
        self.known.acknowledged();
        // Where writes have failed, older copies may lie in slots that are neither free nor wiped yet.
        if let Some(frame) = frame.filter(|_| !self.known.failed) {
            self.known.erased(frame);
        }
        self.note(self.position());
        Ok(())
    }
}

fn open(disk: &Simulated, bug: Option<PlantedBug>) -> Result<FrameStore<Simulated>, String> {
    FrameStore::open_with(disk.clone(), &wanted(), bug).map(|(store, _)| store).map_err(|error| error.to_string())
}

/// Writes, commits, removals, failed writes and kills of the process.
fn workload(seed: u64, bug: Option<PlantedBug>) -> Result<Run, String> {
    let mut random = Seed(seed).random("workload", 0);
    let disk = Simulated::default();
    let geometry = wanted().geometry([9; 16]).unwrap();
    drop(FrameStore::create(disk.clone(), geometry).unwrap());
    disk.disk().journal.clear();
    let initial = disk.disk().cache.clone();
    let store = open(&disk, bug)?;
    let known = Knowledge::default();
    let knowledge = vec![(0, known.clone())];
    let failing = seed % 2 == 1;
    let mut work = Work { disk, store, known, knowledge, failing, random: &mut random };
    for id in 1..=30 {
        if work.random.below(8) == 0 {
            drop(work.store);
            work.store = open(&work.disk, bug)?;
            // What was written when the process was killed counts from now on, as after any recovery.
            work.known.check(&work.store, false)?;
            work.known.recovered(&work.store);
            work.note(work.position());
        }
        work.step(id)?;
    }
    let journal = std::mem::take(&mut work.disk.disk().journal);
    Ok(Run { initial, journal, knowledge: work.knowledge })
}

/// Cuts the power `cuts` times at each moment of a run; the first violation, or the number of images tried.
fn cut_everywhere(run: &Run, bug: Option<PlantedBug>, cuts: u64, random: &mut Random) -> Result<u64, String> {
    let (mut durable, mut unsynced, mut images) = (run.initial.clone(), Vec::new(), 0);
    let mut knowledge = run.knowledge.iter().peekable();
    let mut known = &run.knowledge[0].1;
    for position in 0..=run.journal.len() {
        while let Some((_, next)) = knowledge.next_if(|(from, _)| *from <= position) {
            known = next;
        }
        for _ in 0..cuts {
            images += restart(power_cut(&durable, &unsynced, random), known, bug, DEEPEST, random)?;
        }
        match run.journal.get(position) {
            Some(Operation::Write(offset, bytes)) => unsynced.push((*offset, bytes.clone())),
            Some(Operation::Sync) => apply(&mut durable, unsynced.drain(..)),
            None => {}
        }
    }
    Ok(images)
}

fn apply(image: &mut [u8], writes: impl Iterator<Item = (usize, Vec<u8>)>) {
    for (offset, bytes) in writes {
        image[offset..offset + bytes.len()].copy_from_slice(&bytes);
    }
}

/// Damages one byte of a slot that is in use.
fn rot(image: &mut [u8], random: &mut Random) {
    let geometry = wanted().geometry([9; 16]).unwrap();
    let slot = random.below(geometry.physical_slots() as u64) as u32;
    let at = random.below((128 + geometry.shape.bytes()) as u64) as usize;
    image[geometry.slot_offset(slot) as usize + at] ^= 1 << random.below(8);
}

/// Opens what a cut left, checks it, goes on with the work, and cuts the power at a random moment of all that.
fn restart(
    mut image: Vec<u8>,
    known: &Knowledge,
    bug: Option<PlantedBug>,
    depth: usize,
    random: &mut Random,
) -> Result<u64, String> {
    // Rot is the end of a history: what comes after it may lack an image more.
    let rotten = !known.failed && random.below(8) == 0;
    if rotten {
        rot(&mut image, random);
    }
    let goes_on = !rotten && depth > 0 && random.below(4) == 0;
    let before = goes_on.then(|| image.clone());
    let disk = Simulated::new(image);
    let store = open(&disk, bug)?;
    known.check(&store, rotten)?;
    known.check_erased(&disk.disk().cache, &store)?;
    let Some(before) = before else { return Ok(1) };

    let mut known = known.clone();
    let knowledge = vec![(0, known.clone())];
    known.recovered(&store);
    let mut work = Work { disk, store, known, knowledge, failing: false, random };
    work.note(work.position());
    let first = work.known.newest_written + 1;
    for id in first..=first + work.random.below(4) {
        work.step(id)?;
    }
    let journal = std::mem::take(&mut work.disk.disk().journal);
    let knowledge = std::mem::take(&mut work.knowledge);
    let random = work.random;
    let position = random.below(journal.len() as u64 + 1) as usize;
    let (mut durable, mut unsynced) = (before, Vec::new());
    for operation in &journal[..position] {
        match operation {
            Operation::Write(offset, bytes) => unsynced.push((*offset, bytes.clone())),
            Operation::Sync => apply(&mut durable, unsynced.drain(..)),
        }
    }
    let known = knowledge.iter().rev().find(|(from, _)| *from <= position).map_or(&knowledge[0].1, |(_, known)| known);
    let image = power_cut(&durable, &unsynced, random);
    let more = restart(image, known, bug, depth - 1, random).map_err(|error| format!("after a restart: {error}"))?;
    Ok(1 + more)
}

fn images_wanted() -> u64 {
    std::env::var("LUMPD_CRASH_IMAGES").ok().and_then(|count| count.parse().ok()).unwrap_or(30_000)
}

#[test]
fn no_power_cut_loses_or_tears_what_was_acknowledged() {
    let started = Instant::now();
    let (mut images, mut seed) = (0, 0);
    while images < images_wanted() {
        let mut random = Seed(seed).random("cuts", 0);
        images += workload(seed, None)
            .and_then(|run| cut_everywhere(&run, None, 6, &mut random))
            .unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        seed += 1;
    }
    println!("{images} power cuts in {seed} workloads, 0 violations, {:.0} s", started.elapsed().as_secs_f64());
}

#[test]
fn the_simulator_finds_every_planted_bug() {
    for bug in ALL_BUGS {
        let found = (0..200).find_map(|seed| {
            let mut random = Seed(seed).random("cuts", 0);
            let run = workload(seed, Some(bug)).and_then(|run| cut_everywhere(&run, Some(bug), 6, &mut random));
            run.err().map(|violation| (seed, violation))
        });
        let (seed, violation) = found.unwrap_or_else(|| panic!("{bug:?} was not found"));
        println!("{bug:?}: workload {seed}: {violation}");
    }
}
