//! Rot, broken disks, and readers beside a slow one.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};

use crate::config::Seed;
use crate::replay::backing::Backing;
use crate::replay::file::Wanted;
use crate::replay::layout::Purpose;
use crate::replay::{shared::PlantedBug, store::FrameStore};
use crate::stream::FrameId;

use super::simulator::{Simulated, meta, pixels, wanted};

fn small() -> Wanted {
    Wanted { purpose: Purpose::Probes, policy: 0, slots: 3, spares: 2, side: 8, channels: 3 }
}

/// A store whose slots 0 and 1 hold the frames 1 and 2, synced, and all replaced copies wiped.
fn filled(wanted: &Wanted) -> (Simulated, FrameStore<Simulated>) {
    let disk = Simulated::default();
    let mut store = FrameStore::create(disk.clone(), wanted.geometry([1; 16]).unwrap()).unwrap();
    for id in [1, 2] {
        store.put(id as usize - 1, meta(id), &pixels(id, store.geometry().shape.bytes())).unwrap();
    }
    store.commit().unwrap();
    (disk, store)
}

#[test]
fn every_flipped_byte_is_noticed_or_irrelevant() {
    let (disk, store) = filled(&small());
    let image = disk.disk().cache.clone();
    let length = store.geometry().shape.bytes();
    let mut lost = 0;
    let mut damaged = image.clone();
    for at in 0..image.len() {
        damaged[at] ^= 1 << (at % 8);
        let (store, _) = FrameStore::open(Simulated::new(damaged.clone()), &small()).unwrap();
        let reader = store.reader();
        let batch = reader.sample(3, &mut Seed(0).random("sample", 0));
        assert!(!batch.ids.is_empty(), "byte {at} costs more than one image");
        for (id, image) in batch.ids.iter().zip(batch.pixels.chunks(length)) {
            assert_eq!(image, pixels(id.0, length), "byte {at}");
            assert_eq!(reader.meta(*id), Some(meta(id.0)), "byte {at}");
        }
        lost += 2 - batch.ids.len();
        damaged[at] = image[at];
    }
    // Each byte of the two headers and images, and no other.
    assert_eq!(lost, 2 * (128 + length));
}

#[test]
fn a_damaged_image_is_dropped_counted_and_its_slot_used_again() {
    let (disk, mut store) = filled(&small());
    let offset = store.geometry().slot_offset(0) as usize + 128;
    disk.disk().cache[offset + 5] ^= 1;
    let reader = store.reader();
    let version = reader.version();
    assert_eq!(reader.get(FrameId(1)), None);
    assert_eq!(reader.ids(), [FrameId(2)]);
    assert_eq!(reader.statistics().damaged, 1);
    assert!(reader.version() > version);
    store.commit().unwrap();
    assert_eq!(reader.statistics().damaged, 1);
    // All five physical slots are still in use, over and over.
    for id in 3..20 {
        store.put(id as usize % 3, meta(id), &pixels(id, store.geometry().shape.bytes())).unwrap();
        store.commit().unwrap();
    }
    assert_eq!(reader.len(), 3);
    drop(store);
    let (store, recovery) = FrameStore::open(disk, &small()).unwrap();
    assert_eq!((recovery.live, recovery.damaged, store.counters().damaged), (3, 0, 1));
}

#[test]
fn the_background_check_finds_what_nobody_reads() {
    let (disk, store) = filled(&small());
    let reader = store.reader();
    assert_eq!((reader.scrub(0, 1), reader.scrub(1, 1)), ((1, 1), (2, 1)));
    assert_eq!(reader.scrub(2, 5), (0, 0), "past the last it begins anew");
    let offset = store.geometry().slot_offset(1) as usize + 128;
    disk.disk().cache[offset] ^= 1;
    assert_eq!(reader.scrub(0, 10), (0, 2));
    assert_eq!((reader.ids(), reader.statistics().damaged), (vec![FrameId(1)], 1));
}

#[test]
fn a_failed_sync_stops_the_store_and_acknowledges_nothing() {
    for failing in 0..6 {
        let (disk, mut store) = filled(&wanted());
        let length = store.geometry().shape.bytes();
        let reader = store.reader();
        disk.disk().fail_sync = Some(failing);
        let mut acknowledged = 2;
        let error = (3..).find_map(|id| {
            let result = store.put(id as usize % 5, meta(id), &pixels(id, length)).and_then(|_| store.commit());
            if result.is_ok() {
                acknowledged = id;
            }
            result.err()
        });
        assert!(error.unwrap().is_fatal());
        assert_eq!(acknowledged, 2 + failing as u64);
        // The next sync would succeed, and must not be believed.
        assert_eq!(store.commit().unwrap_err().code(), "store-stopped");
        assert_eq!(store.put(0, meta(99), &pixels(99, length)).unwrap_err().code(), "store-stopped");
        assert_eq!(store.remove(&[0]).unwrap_err().code(), "store-stopped");
        // Readers go on with what was committed.
        assert_eq!(reader.ids().last(), Some(&FrameId(acknowledged)));
        assert_eq!(reader.get(FrameId(acknowledged)).unwrap().pixels, pixels(acknowledged, length));
    }
}

#[test]
fn a_full_disk_refuses_frames_and_goes_on_when_there_is_room() {
    let (disk, mut store) = filled(&wanted());
    let length = store.geometry().shape.bytes();
    for id in 3..40 {
        disk.disk().fail_write = (id % 2 == 0).then_some(id as usize % 3);
        let stored = store.put(id as usize % 5, meta(id), &pixels(id, length));
        let mut committed = store.commit();
        while committed.is_err() {
            assert!(!committed.unwrap_err().is_fatal());
            committed = store.commit();
        }
        assert_eq!(store.reader().get(FrameId(id)).is_some(), stored.is_ok(), "frame {id}");
    }
    disk.disk().fail_write = None;
    store.commit().unwrap();
    let ids = store.reader().ids();
    drop(store);
    assert_eq!(FrameStore::open(disk, &wanted()).unwrap().0.reader().ids(), ids);
}

#[test]
fn a_removed_image_is_nowhere_in_the_file() {
    let (disk, mut store) = filled(&wanted());
    let length = store.geometry().shape.bytes();
    store.put(0, meta(3), &pixels(3, length)).unwrap();
    store.commit().unwrap();
    let holds = |id| disk.disk().cache.windows(length).any(|window| window == pixels(id, length));
    assert!(holds(1) && holds(3), "a replaced image stays in a free slot");
    assert_eq!(store.remove(&[0, 4]).unwrap(), 1);
    assert!(!holds(3) && holds(1));
    store.erase_free().unwrap();
    assert!(!holds(1));
    assert_eq!(store.reader().ids(), [FrameId(2)]);
    assert_eq!(store.counters().forgotten, 1);
    drop(store);
    assert_eq!(FrameStore::open(disk, &wanted()).unwrap().0.reader().ids(), [FrameId(2)]);
}

#[test]
fn both_superblocks_lost_cost_no_image() {
    let (disk, store) = filled(&wanted());
    drop(store);
    disk.disk().cache[4096..3 * 4096].fill(0xAA);
    let (store, recovery) = FrameStore::open(disk, &wanted()).unwrap();
    assert!(recovery.counters_lost);
    assert_eq!(store.reader().ids(), [FrameId(1), FrameId(2)]);
    assert_eq!(store.counters().last_frame, 2);
}

#[test]
fn slots_and_sizes_that_are_not_there_are_refused() {
    let (_, mut store) = filled(&small());
    assert_eq!(store.put(3, meta(3), &[0; 192]).unwrap_err().code(), "store-no-such-slot");
    assert_eq!(store.put(0, meta(3), &[0; 191]).unwrap_err().code(), "store-image-size");
    assert_eq!(store.remove(&[7]).unwrap_err().code(), "store-no-such-slot");
    for id in [3, 4] {
        store.put(2, meta(id), &[0; 192]).unwrap();
    }
    assert_eq!(store.put(2, meta(5), &[0; 192]).unwrap_err().code(), "store-group-full");
    assert_eq!(store.reader().len(), 2, "nothing is visible before its commit");
    store.commit().unwrap();
    assert_eq!(store.reader().ids(), [FrameId(1), FrameId(2), FrameId(4)]);
}

/// A disk whose syncs wait for the test, once it asks for that.
#[derive(Debug, Clone)]
struct Slow {
    disk: Simulated,
    waits: Arc<AtomicBool>,
    barrier: Arc<Barrier>,
}

impl Backing for Slow {
    fn path(&self) -> &Path {
        self.disk.path()
    }
    fn length(&self) -> io::Result<u64> {
        self.disk.length()
    }
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(offset, into)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.write_at(offset, bytes)
    }
    fn sync(&self) -> io::Result<()> {
        if self.waits.load(Ordering::SeqCst) {
            self.barrier.wait();
            self.barrier.wait();
        }
        self.disk.sync()
    }
    fn set_length(&self, length: u64) -> io::Result<()> {
        self.disk.set_length(length)
    }
}

#[test]
fn readers_go_on_while_the_disk_syncs() {
    let slow = Slow { disk: Simulated::default(), waits: Arc::default(), barrier: Arc::new(Barrier::new(2)) };
    let mut store = FrameStore::create(slow.clone(), small().geometry([1; 16]).unwrap()).unwrap();
    store.put(0, meta(1), &[7; 192]).unwrap();
    store.commit().unwrap();
    let reader = store.reader();
    slow.waits.store(true, Ordering::SeqCst);
    let writer = std::thread::spawn(move || {
        store.put(0, meta(2), &[8; 192]).unwrap();
        store.commit().unwrap();
    });
    slow.barrier.wait();
    // The writer is within its sync now, and will stay there until the second wait.
    assert_eq!(reader.sample(1, &mut Seed(0).random("sample", 0)).pixels, [7; 192]);
    assert_eq!(reader.ids(), [FrameId(1)]);
    slow.barrier.wait();
    writer.join().unwrap();
    assert_eq!(reader.sample(1, &mut Seed(0).random("sample", 0)).pixels, [8; 192]);
}

#[test]
fn without_checksums_the_damage_would_be_served() {
    let (disk, store) = filled(&small());
    let offset = store.geometry().slot_offset(0) as usize + 128;
    drop(store);
    disk.disk().cache[offset] ^= 1;
    let (store, _) = FrameStore::open_with(disk, &small(), Some(PlantedBug::NoPayloadCrc)).unwrap();
    assert_ne!(store.reader().get(FrameId(1)).unwrap().pixels, pixels(1, 192));
}
