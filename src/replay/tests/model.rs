//! Random histories against a map, which is what a store is.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use crate::config::Seed;
use crate::replay::store::FrameStore;
use crate::stream::FrameId;

use super::simulator::{Operation, Simulated, meta, pixels, power_cut, wanted};

#[derive(Debug, Clone)]
enum Step {
    Put(usize),
    Commit,
    Publish,
    Remove(usize),
    /// The process ends and starts again; the system's cache stays.
    Restart,
    /// The power goes; an arbitrary part of what was not synced is lost.
    PowerCut(u64),
    /// One bit of the file flips.
    Rot(usize, u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..5usize).prop_map(Step::Put),
        4 => Just(Step::Commit),
        1 => Just(Step::Publish),
        1 => (0..5usize).prop_map(Step::Remove),
        1 => Just(Step::Restart),
        1 => any::<u64>().prop_map(Step::PowerCut),
        1 => (any::<usize>(), 0..8u8).prop_map(|(at, bit)| Step::Rot(at, bit)),
    ]
}

/// What a slot holds, and what it may hold after a crash.
#[derive(Debug, Default)]
struct Model {
    visible: BTreeMap<usize, u64>,
    pending: BTreeMap<usize, u64>,
    durable: BTreeMap<usize, u64>,
    /// Every frame ever put into a slot.
    history: BTreeMap<usize, BTreeSet<u64>>,
    /// Since something rotted, or a power cut met frames that were published without a sync, a slot may be empty or hold
    /// an older frame.
    weakened: bool,
}

struct Machine {
    disk: Simulated,
    store: FrameStore<Simulated>,
    model: Model,
    next: u64,
    /// The disk without what is in its journal.
    base: Vec<u8>,
}

impl Machine {
    fn new() -> Self {
        let disk = Simulated::default();
        let store = FrameStore::create(disk.clone(), wanted().geometry([4; 16]).unwrap()).unwrap();
        disk.disk().journal.clear();
        let base = disk.disk().cache.clone();
        Self { disk, store, model: Model::default(), next: 1, base }
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Put(slot) if self.store.room() > 0 => self.put(slot),
            Step::Put(_) | Step::Commit => {
                self.store.commit().unwrap();
                self.publish_model();
                self.model.durable = self.model.visible.clone();
            }
            Step::Publish => {
                self.store.publish().unwrap();
                self.publish_model();
            }
            Step::Remove(slot) => {
                self.store.remove(&[slot]).unwrap();
                self.publish_model();
                self.model.visible.remove(&slot);
                self.model.durable = self.model.visible.clone();
            }
            Step::Restart => self.restart(),
            Step::PowerCut(seed) => self.power_cut(seed),
            Step::Rot(at, bit) => {
                let mut disk = self.disk.disk();
                let at = at % disk.cache.len();
                disk.cache[at] ^= 1 << bit;
                self.base[at] ^= 1 << bit;
                self.model.weakened = true;
            }
        }
    }

    fn put(&mut self, slot: usize) {
        let (id, length) = (self.next, self.store.geometry().shape.bytes());
        let replaced = self.store.put(slot, meta(id), &pixels(id, length)).unwrap();
        let expected = self.model.pending.get(&slot).or(self.model.visible.get(&slot)).copied().map(FrameId);
        assert!(replaced == expected || self.model.weakened);
        self.model.pending.insert(slot, id);
        self.model.history.entry(slot).or_default().insert(id);
        self.next += 1;
    }

    fn publish_model(&mut self) {
        let pending = std::mem::take(&mut self.model.pending);
        self.model.visible.extend(pending);
    }

    /// What was written and not committed is whole in the cache, and comes back.
    fn restart(&mut self) {
        self.publish_model();
        self.reopen();
        self.model.durable = self.model.visible.clone();
    }

    fn power_cut(&mut self, seed: u64) {
        let (mut durable, mut unsynced) = (self.base.clone(), Vec::new());
        for operation in &self.disk.disk().journal {
            match operation {
                Operation::Write(offset, bytes) => unsynced.push((*offset, bytes.clone())),
                Operation::Sync => unsynced.drain(..).for_each(|(offset, bytes)| {
                    durable[offset..offset + bytes.len()].copy_from_slice(&bytes);
                }),
            }
        }
        let image = power_cut(&durable, &unsynced, &mut Seed(seed).random("cut", 0));
        self.disk = Simulated::new(image.clone());
        self.base = image;
        let durable = self.model.durable.clone();
        let published = self.model.visible != durable;
        // Places of older copies were written again without a sync in between: such a copy may be torn. It is found by its
        // checksum when it is read, and dropped.
        self.model.weakened |= published;
        self.reopen();
        self.model.pending.clear();
        self.model.visible = self.store.reader().snapshot().frames.into_iter().map(|(slot, id)| (slot, id.0)).collect();
        for (slot, id) in durable {
            let held = self.model.visible.get(&slot);
            assert!(held.is_some_and(|&held| held >= id) || self.model.weakened, "slot {slot} lost frame {id}");
        }
        self.model.durable = self.model.visible.clone();
    }

    fn reopen(&mut self) {
        self.store = FrameStore::open(self.disk.clone(), &wanted()).unwrap().0;
    }

    fn check(&self) {
        let reader = self.store.reader();
        let length = self.store.geometry().shape.bytes();
        let mut found = BTreeMap::new();
        for (slot, id) in reader.snapshot().frames {
            let Some(stored) = reader.get(id) else {
                assert!(self.model.weakened, "slot {slot} lost frame {id:?}");
                continue;
            };
            assert_eq!((stored.slot, stored.meta), (slot, meta(id.0)));
            assert_eq!(stored.pixels, pixels(id.0, length), "frame {id:?}");
            assert!(self.model.history[&slot].contains(&id.0));
            found.insert(slot, id.0);
        }
        assert!(found == self.model.visible || self.model.weakened, "{found:?} and not {:?}", self.model.visible);
        let mut sampled = reader.sample(9, &mut Seed(0).random("sample", 0)).ids;
        sampled.sort_unstable();
        assert_eq!(sampled, reader.ids());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_store_is_a_map_that_survives(steps in proptest::collection::vec(step(), 1..60), rots: bool) {
        let mut machine = Machine::new();
        for step in steps.iter().filter(|step| rots || !matches!(step, Step::Rot(..))) {
            // Two rotten copies of the geometry are a file that is refused, which another test looks at.
            if matches!(step, Step::Rot(at, _) if (0..4 * 4096).contains(&(at % machine.base.len()))) {
                continue;
            }
            machine.apply(step);
            machine.check();
        }
    }
}
