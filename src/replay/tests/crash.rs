//! Power cuts at every moment of random workloads, in recovery too.
//!
//! After each cut the store has to hold, in every slot, what was acknowledged or something newer; whole; and nothing
//! else. `LUMPD_CRASH_IMAGES` sets how many cuts are tried, for a long run in release mode.

use std::collections::BTreeMap;

use crate::config::{Random, Seed};
use crate::replay::ReplayError;
use crate::replay::{shared::PlantedBug, store::FrameStore};

use super::simulator::{Operation, Simulated, meta, pixels, power_cut, wanted};

const ALL_BUGS: [PlantedBug; 7] = [
    PlantedBug::EarlySlotReuse,
    PlantedBug::NoPayloadCrc,
    PlantedBug::SkipSync,
    PlantedBug::InPlaceWrite,
    PlantedBug::WatermarkTooNew,
    PlantedBug::RecoveryWithoutSync,
    PlantedBug::RecoveryVouchesForUnfinished,
];

/// What a slot may hold after a power cut.
#[derive(Debug, Clone, Default)]
struct Allowed {
    acknowledged: Option<u64>,
    /// What was written, or removed, since.
    since: Vec<Option<u64>>,
}

/// What is known from outside at one moment of a workload.
#[derive(Debug, Clone, Default)]
struct Knowledge {
    slots: BTreeMap<usize, Allowed>,
    newest_acknowledged: u64,
    newest_written: u64,
}

impl Knowledge {
    fn wrote(&mut self, slot: usize, frame: Option<u64>) {
        self.slots.entry(slot).or_default().since.push(frame);
        self.newest_written = self.newest_written.max(frame.unwrap_or(0));
    }

    fn acknowledged(&mut self) {
        for allowed in self.slots.values_mut() {
            if let Some(&last) = allowed.since.last() {
                allowed.acknowledged = last;
                allowed.since.clear();
            }
        }
        self.newest_acknowledged = self.newest_written;
    }

    /// Holds an opened store against what is known.
    fn check(&self, store: &FrameStore<Simulated>) -> Result<(), String> {
        let reader = store.reader();
        let length = store.geometry().shape.bytes();
        for slot in 0..store.geometry().slots() {
            let nothing = Allowed::default();
            let allowed = self.slots.get(&slot).unwrap_or(&nothing);
            let stored = store.frame(slot).and_then(|id| reader.get(id));
            if stored.as_ref().is_some_and(|s| s.pixels != pixels(s.meta.id.0, length) || s.meta != meta(s.meta.id.0)) {
                return Err(format!("slot {slot} serves a torn image"));
            }
            let found = stored.map(|stored| stored.meta.id.0);
            if found != allowed.acknowledged && !allowed.since.contains(&found) {
                return Err(format!("slot {slot} holds {found:?} and not {allowed:?}"));
            }
        }
        match store.counters().last_frame {
            last if last < self.newest_acknowledged => Err(format!("frame numbers fall back to {last}")),
            _ => Ok(()),
        }
    }
}

/// A workload that was run, and what was known when.
struct Run {
    initial: Vec<u8>,
    journal: Vec<Operation>,
    /// From this position of the journal on, this was known.
    knowledge: Vec<(usize, Knowledge)>,
}

/// Writes, commits, removals, failed writes and kills of the process.
fn workload(seed: u64, bug: Option<PlantedBug>) -> Run {
    let mut random = Seed(seed).random("workload", 0);
    let disk = Simulated::default();
    let geometry = wanted().geometry([9; 16]).unwrap();
    drop(FrameStore::create(disk.clone(), geometry).unwrap());
    disk.disk().journal.clear();
    let initial = disk.disk().cache.clone();
    let mut known = Knowledge::default();
    let mut knowledge = vec![(0, known.clone())];
    let mut store = FrameStore::open_with(disk.clone(), &wanted(), bug).unwrap().0;
    for id in 1..=30 {
        if random.below(8) == 0 {
            drop(store);
            store = FrameStore::open_with(disk.clone(), &wanted(), bug).unwrap().0;
        }
        step(id, &disk, &mut store, &mut known, &mut knowledge, &mut random);
    }
    let journal = std::mem::take(&mut disk.disk().journal);
    Run { initial, journal, knowledge }
}

fn step(
    id: u64,
    disk: &Simulated,
    store: &mut FrameStore<Simulated>,
    known: &mut Knowledge,
    knowledge: &mut Vec<(usize, Knowledge)>,
    random: &mut Random,
) {
    let position = |disk: &Simulated| disk.disk().journal.len();
    let slot = random.below(store.geometry().slots() as u64) as usize;
    let start = position(disk);
    store.counters.seen += 1;
    disk.disk().fail_write = (random.below(12) == 0).then_some(0);
    match store.put(slot, meta(id), &pixels(id, store.geometry().shape.bytes())) {
        Ok(_) => {
            known.wrote(slot, Some(id));
            knowledge.push((start, known.clone()));
        }
        Err(ReplayError::Io { .. } | ReplayError::GroupFull { .. }) => {}
        Err(error) => panic!("{error}"),
    }
    disk.disk().fail_write = None;
    if random.below(12) == 0 {
        known.wrote(slot, None);
        knowledge.push((position(disk), known.clone()));
        store.remove(&[slot]).unwrap();
        known.acknowledged();
        knowledge.push((position(disk), known.clone()));
    } else if store.room() == 0 || random.below(3) == 0 {
        disk.disk().fail_write = (random.below(12) == 0).then(|| random.below(3) as usize);
        let committed = store.commit();
        disk.disk().fail_write = None;
        if committed.is_ok() {
            known.acknowledged();
            knowledge.push((position(disk), known.clone()));
        }
    }
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
            images += recover_and_cut_again(&power_cut(&durable, &unsynced, random), known, bug, random)?;
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

/// Opens what a cut left, checks it, writes on, and cuts the power at a random moment of all that.
fn recover_and_cut_again(
    image: &[u8],
    known: &Knowledge,
    bug: Option<PlantedBug>,
    random: &mut Random,
) -> Result<u64, String> {
    let disk = Simulated::new(image.to_vec());
    let open =
        |disk: &Simulated| FrameStore::open_with(disk.clone(), &wanted(), bug).map_err(|error| error.to_string());
    let mut store = open(&disk)?.0;
    known.check(&store)?;
    if random.below(4) > 0 {
        return Ok(1);
    }
    let mut known = known.clone();
    let id = known.newest_written + 1 + random.below(3);
    let slot = random.below(store.geometry().slots() as u64) as usize;
    store.put(slot, meta(id), &pixels(id, store.geometry().shape.bytes())).map_err(|error| error.to_string())?;
    store.commit().map_err(|error| error.to_string())?;
    known.wrote(slot, Some(id));
    let journal = std::mem::take(&mut disk.disk().journal);
    let (mut durable, mut unsynced) = (image.to_vec(), Vec::new());
    for operation in &journal[..random.below(journal.len() as u64 + 1) as usize] {
        match operation {
            Operation::Write(offset, bytes) => unsynced.push((*offset, bytes.clone())),
            Operation::Sync => apply(&mut durable, unsynced.drain(..)),
        }
    }
    let again = Simulated::new(power_cut(&durable, &unsynced, random));
    known.check(&open(&again)?.0).map_err(|error| format!("in recovery: {error}"))?;
    Ok(2)
}

fn images_wanted() -> u64 {
    std::env::var("LUMPD_CRASH_IMAGES").ok().and_then(|count| count.parse().ok()).unwrap_or(30_000)
}

#[test]
fn no_power_cut_loses_or_tears_what_was_acknowledged() {
    let (mut images, mut seed) = (0, 0);
    while images < images_wanted() {
        let mut random = Seed(seed).random("cuts", 0);
        images += cut_everywhere(&workload(seed, None), None, 6, &mut random)
            .unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        seed += 1;
    }
    println!("{images} power cuts in {seed} workloads, 0 violations");
}

#[test]
fn the_simulator_finds_every_planted_bug() {
    for bug in ALL_BUGS {
        let found = (0..200).find_map(|seed| {
            let mut random = Seed(seed).random("cuts", 0);
            let run = workload(seed, Some(bug));
            cut_everywhere(&run, Some(bug), 6, &mut random).err().map(|violation| (seed, violation))
        });
        let (seed, violation) = found.unwrap_or_else(|| panic!("{bug:?} was not found"));
        println!("{bug:?}: workload {seed}: {violation}");
    }
}
