//! Files of every released format, written by an independent program from the drawing of the format.

use std::path::{Path, PathBuf};

use crate::config::{ReplaySettings, Seed};
use crate::replay::{Offline, Recovery, ReplayBuffer, resize};
use crate::stream::{FrameId, SourceId};

const SIDE: usize = 8;

/// A copy: opening a store writes to it.
fn fixture(folder: &Path, version: &str) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/parity/replay-{version}.buf"));
    let to = folder.join("replay.buf");
    std::fs::copy(from, &to).unwrap();
    to
}

fn settings() -> ReplaySettings {
    ReplaySettings { slots: 5, commit_frames: 2, ..Default::default() }
}

fn pixels(frame: u64) -> Vec<u8> {
    (0..SIDE * SIDE * 3).map(|i| ((frame as usize * 31 + i) % 256) as u8).collect()
}

#[test]
fn a_file_of_every_released_format_opens_with_all_that_was_committed() {
    for (version, resized_at) in [("1.0", 0), ("1.1", 4)] {
        let folder = tempfile::tempdir().unwrap();
        let path = fixture(folder.path(), version);
        let offline = Offline::open(&path).unwrap();
        assert_eq!(offline.geometry().identity, std::array::from_fn(|i| 0x10 + i as u8));
        assert_eq!(offline.counters().resized_at, resized_at, "{version}");
        assert!(offline.verify().is_empty(), "an unfinished write is no damage");
        drop(offline);

        let (mut buffer, recovery) = ReplayBuffer::open_or_create(&path, &settings(), SIDE, Seed(0)).unwrap();
        assert_eq!(recovery, Recovery { live: 3, unfinished: 1, damaged: 0, counters_lost: false }, "{version}");
        let reader = buffer.reader();
        assert_eq!(reader.ids(), [FrameId(1), FrameId(5), FrameId(9)]);
        let stored = reader.get(FrameId(5)).unwrap();
        assert_eq!((stored.slot, &stored.pixels), (3, &pixels(5)));
        let meta = stored.meta;
        assert_eq!((meta.source, meta.source_sequence, meta.tag), (SourceId(3), 105, 7));
        assert_eq!((meta.wall_time_ns, meta.content_hash), (1_700_000_000_000_000_005, [5; 16]));
        let statistics = reader.statistics();
        assert_eq!((statistics.seen, statistics.accepted, statistics.evicted), (10, 4, 1), "{version}");
        assert_eq!((statistics.forgotten, statistics.damaged), (1, 2));
        // Its number was given to the unfinished write.
        assert_eq!(buffer.next_id(), FrameId(11));
        buffer.sync().unwrap();
        drop((buffer, reader));

        let resized = resize(&path, 5, Seed(0)).unwrap();
        assert_eq!((resized.kept, resized.dropped, resized.resized_at), (3, 0, 10), "an upgrade keeps all");
        let (buffer, _) = ReplayBuffer::open_or_create(&path, &settings(), SIDE, Seed(0)).unwrap();
        assert_eq!(buffer.reader().get(FrameId(9)).unwrap().pixels, pixels(9));
        assert_eq!(buffer.reader().statistics().seen, 10);
    }
}

#[test]
fn what_this_program_writes_is_what_the_drawing_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = fixture(folder.path(), "1.1");
    let before = std::fs::read(&path).unwrap();
    let (mut buffer, _) = ReplayBuffer::open_or_create(&path, &settings(), SIDE, Seed(0)).unwrap();
    buffer.sync().unwrap();
    drop(buffer);
    let after = std::fs::read(&path).unwrap();
    assert_eq!(before.len(), after.len(), "the length never changes");
    for page in [0, 3] {
        assert_eq!(before[page * 4096..][..4096], after[page * 4096..][..4096], "the geometry never changes");
    }
    // Physical slots 1 and 2 held an older copy and an unfinished write: their headers are zero now.
    for slot in 0..7 {
        let at = (4 + slot) * 4096;
        let wiped = after[at..at + 128].iter().all(|&byte| byte == 0);
        assert_eq!(wiped, [1, 2, 3, 4].contains(&slot), "slot {slot}");
    }
}
