//! Real files: making, opening, refusing, and the buffer on top.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::config::{Durability, PolicyKind, ReplaySettings, Seed};
use crate::replay::file::Wanted;
use crate::replay::layout::{Geometry, Purpose};
use crate::replay::store::FrameStore;
use crate::replay::{Decision, Record, ReplayBuffer, ReplayError};
use crate::stream::{FrameId, SourceId};

use super::simulator::{Simulated, meta, pixels};

const SIDE: usize = 8;
const BYTES: usize = SIDE * SIDE * 3;

fn settings() -> ReplaySettings {
    ReplaySettings { slots: 10, commit_frames: 4, ..Default::default() }
}

fn open(path: &Path) -> Result<ReplayBuffer, ReplayError> {
    ReplayBuffer::open_or_create(path, &settings(), SIDE, Seed(3)).map(|(buffer, _)| buffer)
}

fn offer(buffer: &mut ReplayBuffer, id: u64) -> Decision {
    if buffer.room() == 0 {
        buffer.commit().unwrap();
    }
    let pixels = pixels(id, BYTES);
    let record = Record {
        id: FrameId(id),
        source: SourceId(1),
        source_sequence: id,
        wall_time_ns: 5,
        content_hash: [6; 16],
        pixels: &pixels,
    };
    buffer.offer(&record).unwrap()
}

fn path_in(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("replay.buf")
}

#[test]
fn a_buffer_comes_back_with_its_images_and_counters() {
    let folder = tempfile::tempdir().unwrap();
    let mut buffer = open(&path_in(&folder)).unwrap();
    assert_eq!(buffer.next_id(), FrameId(1));
    let decisions: Vec<_> = (1..=100).map(|id| offer(&mut buffer, id)).collect();
    buffer.commit().unwrap();
    let before = buffer.reader().statistics();
    let ids = buffer.reader().ids();
    let rejected = decisions.iter().filter(|&&decision| decision == Decision::Rejected).count() as u64;
    assert_eq!((before.seen, before.used, before.rejected), (100, 10, rejected));
    assert_eq!(before.evicted, before.accepted - 10);
    drop(buffer);
    let buffer = open(&path_in(&folder)).unwrap();
    assert_eq!(buffer.reader().statistics(), before);
    assert_eq!(buffer.reader().ids(), ids);
    assert_eq!(buffer.next_id(), FrameId(101));
    assert_eq!(fs::metadata(path_in(&folder)).unwrap().len(), ReplayBuffer::file_bytes(&settings(), SIDE).unwrap());
}

#[test]
fn restarts_do_not_change_what_is_kept_or_sampled() {
    let folder = tempfile::tempdir().unwrap();
    let runs = [0, 7].map(|restart_every| {
        let path = folder.path().join(format!("{restart_every}.buf"));
        let mut buffer = open(&path).unwrap();
        for id in 1..=60 {
            offer(&mut buffer, id);
            if restart_every > 0 && id % restart_every == 0 {
                buffer.commit().unwrap();
                drop(buffer);
                buffer = open(&path).unwrap();
            }
        }
        buffer.commit().unwrap();
        (buffer.reader().snapshot().frames, buffer.reader().sample(6, &mut Seed(1).random("batch", 2)))
    });
    assert_eq!(runs[0], runs[1]);
}

#[test]
fn forgetting_leaves_no_pixel_even_of_replaced_frames() {
    let folder = tempfile::tempdir().unwrap();
    let mut buffer = open(&path_in(&folder)).unwrap();
    let mut evicted = None;
    for id in 1..=40 {
        if let Decision::Stored { evicted: Some(frame), .. } = offer(&mut buffer, id) {
            evicted = Some(frame);
        }
    }
    buffer.commit().unwrap();
    let (kept, evicted) = (buffer.reader().ids()[0], evicted.unwrap());
    assert!(buffer.forget(kept).unwrap());
    assert!(!buffer.forget(evicted).unwrap());
    let bytes = fs::read(path_in(&folder)).unwrap();
    for id in [kept, evicted] {
        assert!(!bytes.windows(BYTES).any(|window| window == pixels(id.0, BYTES)), "{id:?}");
        assert!(buffer.reader().get(id).is_none());
    }
    assert_eq!(buffer.reader().statistics().forgotten, 1);
}

#[test]
fn fifo_keeps_the_newest() {
    let folder = tempfile::tempdir().unwrap();
    let settings = ReplaySettings { policy: PolicyKind::Fifo, durability: Durability::None, ..settings() };
    let (mut buffer, _) = ReplayBuffer::open_or_create(&path_in(&folder), &settings, SIDE, Seed(3)).unwrap();
    (1..=25).for_each(|id| _ = offer(&mut buffer, id));
    assert!(!buffer.commit().unwrap().durable);
    assert_eq!(buffer.reader().ids(), (16..=25).map(FrameId).collect::<Vec<_>>());
    assert!(buffer.sync().unwrap().durable);
}

#[test]
fn chunks_hold_every_image_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut buffer = open(&path_in(&folder)).unwrap();
    (1..=9).for_each(|id| _ = offer(&mut buffer, id));
    buffer.commit().unwrap();
    let batches: Vec<_> = buffer.reader().chunks(4).collect();
    assert_eq!(batches.iter().map(|batch| batch.ids.len()).collect::<Vec<_>>(), [4, 4, 1]);
    let pixels_of_all: Vec<u8> = (1..=9).flat_map(|id| pixels(id, BYTES)).collect();
    assert_eq!(batches.into_iter().flat_map(|batch| batch.pixels).collect::<Vec<_>>(), pixels_of_all);
}

#[test]
fn readers_never_see_a_torn_image_beside_a_busy_writer() {
    let folder = tempfile::tempdir().unwrap();
    let settings = ReplaySettings { durability: Durability::None, policy: PolicyKind::Fifo, ..settings() };
    let (mut buffer, _) = ReplayBuffer::open_or_create(&path_in(&folder), &settings, SIDE, Seed(3)).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers = [0, 1].map(|number| {
            let (reader, stop) = (buffer.reader(), &stop);
            scope.spawn(move || {
                let mut read = 0;
                while !stop.load(Ordering::Relaxed) {
                    let batch = reader.sample(8, &mut Seed(number).random("batch", read));
                    for (id, image) in batch.ids.iter().zip(batch.pixels.chunks(BYTES)) {
                        assert_eq!(image, pixels(id.0, BYTES));
                        read += 1;
                    }
                }
                read
            })
        });
        (1..=4_000).for_each(|id| _ = offer(&mut buffer, id));
        stop.store(true, Ordering::Relaxed);
        assert!(readers.into_iter().map(|reader| reader.join().unwrap()).sum::<u64>() > 0);
    });
    assert_eq!(buffer.reader().statistics().damaged, 0);
}

#[test]
fn a_second_daemon_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let buffer = open(&path_in(&folder)).unwrap();
    let before = fs::read(path_in(&folder)).unwrap();
    let error = open(&path_in(&folder)).unwrap_err();
    assert_eq!(error.code(), "store-locked");
    assert!(error.to_string().contains("stop that one"), "{error}");
    assert_eq!(fs::read(path_in(&folder)).unwrap(), before);
    let reader = buffer.reader();
    drop(buffer);
    assert_eq!(open(&path_in(&folder)).unwrap_err().code(), "store-locked", "a reader is still there");
    drop(reader);
    open(&path_in(&folder)).unwrap();
}

#[test]
fn a_buffer_larger_than_the_disk_is_refused_with_both_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let huge = ReplaySettings { slots: 1 << 28, ..settings() };
    let error = ReplayBuffer::open_or_create(&path_in(&folder), &huge, 4096, Seed(0)).unwrap_err();
    let ReplayError::NoSpace { needed, free, .. } = error else { panic!("{error}") };
    assert!(free < needed && needed > 1 << 50);
    assert!(!path_in(&folder).exists());
    let none = ReplaySettings { slots: 0, ..settings() };
    let error = ReplayBuffer::open_or_create(&path_in(&folder), &none, SIDE, Seed(0)).unwrap_err();
    assert_eq!(error.code(), "store-out-of-bounds");
}

#[test]
fn an_interrupted_creation_does_not_stop_the_next() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("replay.buf.new"), [1; 5_000]).unwrap();
    open(&path_in(&folder)).unwrap();
    assert!(!folder.path().join("replay.buf.new").exists());
}

#[test]
fn a_buffer_made_for_something_else_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(&path_in(&folder)).unwrap());
    let before = fs::read(path_in(&folder)).unwrap();
    let other = |settings: ReplaySettings, side| {
        ReplayBuffer::open_or_create(&path_in(&folder), &settings, side, Seed(3)).unwrap_err().to_string()
    };
    let message = other(settings(), 64);
    assert!(message.contains("made for 8 px images, and the settings ask for 64 px images"), "{message}");
    let message = other(ReplaySettings { slots: 11, ..settings() }, SIDE);
    assert!(message.contains("made for 10 slots, and the settings ask for 11 slots"), "{message}");
    let message = other(ReplaySettings { policy: PolicyKind::Fifo, ..settings() }, SIDE);
    assert!(message.contains("the policy reservoir, and the settings ask for the policy fifo"), "{message}");
    assert_eq!(fs::read(path_in(&folder)).unwrap(), before);
}

#[test]
fn files_that_are_no_store_are_refused_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let path = path_in(&folder);
    drop(open(&path).unwrap());
    let good = fs::read(&path).unwrap();
    let mut rotten = good.clone();
    (rotten[100], rotten[3 * 4096 + 100]) = (99, 99);
    let newer = with_major(&good, 2);
    let cases: [(&str, &[u8]); 6] = [
        ("store-not-a-store", b""),
        ("store-not-a-store", b"an ordinary text file"),
        ("store-not-a-store", &[0; 50_000]),
        ("store-length", &good[..good.len() - 4096]),
        ("store-damaged-geometry", &rotten),
        ("store-newer-format", &newer),
    ];
    for (code, bytes) in cases {
        fs::write(&path, bytes).unwrap();
        assert_eq!(open(&path).unwrap_err().code(), code);
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(open(&path).unwrap_err().code(), "store-not-a-store");
}

/// The file with another format version in both copies of the geometry.
fn with_major(file: &[u8], major: u8) -> Vec<u8> {
    let mut file = file.to_vec();
    for offset in [0, 3 * 4096] {
        file[offset + 16] = major;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&[0; 16]);
        crc.update(&(u64::MAX - 2).to_le_bytes());
        crc.update(&file[offset..offset + 252]);
        file[offset + 252..offset + 256].copy_from_slice(&crc.finalize().to_le_bytes());
    }
    file
}

/// The store of the fixture: three slots of 4 px images, one replaced, one empty.
fn fixture() -> (Wanted, Vec<u8>) {
    let wanted = Wanted { purpose: Purpose::Replay, policy: 1, slots: 3, spares: 2, side: 4, channels: 3 };
    let geometry: Geometry = wanted.geometry(*b"fixture of v1.0!").unwrap();
    let disk = Simulated::default();
    let mut store = FrameStore::create(disk.clone(), geometry).unwrap();
    for (slot, id) in [(0, 1), (1, 2), (0, 3)] {
        store.counters.seen += 1;
        store.put(slot, meta(id), &pixels(id, 48)).unwrap();
        store.commit().unwrap();
    }
    store.commit().unwrap();
    let bytes = disk.disk().cache.clone();
    (wanted, bytes)
}

/// A change of the format shows here: then it needs a new version and a fixture of its own, beside this one.
#[test]
fn the_format_is_that_of_the_released_fixture() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let (wanted, bytes) = fixture();
    let current = fixtures.join("replay-v1.1.buf");
    if std::env::var_os("LUMPD_WRITE_FIXTURES").is_some() {
        fs::write(&current, &bytes).unwrap();
    }
    assert!(fs::read(&current).unwrap() == bytes, "what is written now differs from the fixture");
    for released in ["replay-v1.buf", "replay-v1.1.buf"] {
        let folder = tempfile::tempdir().unwrap();
        fs::copy(fixtures.join(released), path_in(&folder)).unwrap();
        let (store, recovery) = FrameStore::open_or_create(&path_in(&folder), &wanted).unwrap();
        assert_eq!((recovery.live, recovery.unfinished, recovery.damaged), (2, 0, 0), "{released}");
        assert_eq!(store.counters().seen, 3);
        let stored = store.reader().get(FrameId(3)).unwrap();
        assert_eq!((stored.slot, stored.meta, stored.pixels), (0, meta(3), pixels(3, 48)));
        assert_eq!(store.reader().get(FrameId(2)).unwrap().slot, 1);
    }
}
