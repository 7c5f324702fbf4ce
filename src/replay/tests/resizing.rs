//! Growing and shrinking: what stays, and that the policy's law goes on.

use std::path::Path;

use crate::config::{PolicyKind, ReplaySettings, Seed};
use crate::replay::{Record, ReplayBuffer, resize};
use crate::stream::{FrameId, SourceId};

use super::simulator::pixels;

const SIDE: usize = 8;

/// Opens the buffer, offers frames up to `last`, and closes it; what is stored then.
fn offer_up_to(path: &Path, policy: PolicyKind, slots: usize, last: u64) -> Vec<u64> {
    let settings = ReplaySettings { slots, policy, commit_frames: 8, ..Default::default() };
    let (mut buffer, _) = ReplayBuffer::open_or_create(path, &settings, SIDE, Seed(5)).unwrap();
    for id in buffer.next_id().0..=last {
        let pixels = pixels(id, SIDE * SIDE * 3);
        let (source, content_hash) = (SourceId(1), [0; 16]);
        let record =
            Record { id: FrameId(id), source, source_sequence: 0, wall_time_ns: 0, content_hash, pixels: &pixels };
        if buffer.room() == 0 {
            buffer.commit().unwrap();
        }
        buffer.offer(&record).unwrap();
    }
    buffer.sync().unwrap();
    let reader = buffer.reader();
    let ids = reader.ids();
    for &id in &ids {
        assert_eq!(reader.get(id).unwrap().pixels, pixels(id.0, SIDE * SIDE * 3), "frame {id}");
    }
    ids.into_iter().map(|id| id.0).collect()
}

#[test]
fn fifo_holds_the_newest_after_every_resize() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("replay.buf");
    let fifo = PolicyKind::Fifo;
    offer_up_to(&path, fifo, 10, 37);
    resize(&path, 6, Seed(0)).unwrap();
    assert_eq!(offer_up_to(&path, fifo, 6, 37), [32, 33, 34, 35, 36, 37]);
    assert_eq!(offer_up_to(&path, fifo, 6, 40), [35, 36, 37, 38, 39, 40]);
    resize(&path, 9, Seed(0)).unwrap();
    assert_eq!(offer_up_to(&path, fifo, 9, 60), (52..=60).collect::<Vec<_>>());
}

#[test]
fn a_reservoir_that_is_not_full_yet_fills_on_after_a_resize() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("replay.buf");
    offer_up_to(&path, PolicyKind::Reservoir, 10, 4);
    for slots in [20, 6] {
        resize(&path, slots, Seed(0)).unwrap();
        assert_eq!(offer_up_to(&path, PolicyKind::Reservoir, slots, 4), [1, 2, 3, 4]);
    }
    assert_eq!(offer_up_to(&path, PolicyKind::Reservoir, 6, 6), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_shrunk_reservoir_is_a_uniform_sample_of_the_stream() {
    let (frames, runs) = (40_u64, 120_u64);
    let mut hits = vec![0_u32; frames as usize];
    let folder = tempfile::tempdir().unwrap();
    for run in 0..runs {
        let path = folder.path().join("replay.buf");
        let settings = ReplaySettings { slots: 16, commit_frames: 40, ..Default::default() };
        let (mut buffer, _) = ReplayBuffer::open_or_create(&path, &settings, 1, Seed(run)).unwrap();
        for id in 1..=frames {
            let (source, content_hash) = (SourceId(1), [0; 16]);
            let record = Record {
                id: FrameId(id),
                source,
                source_sequence: 0,
                wall_time_ns: 0,
                content_hash,
                pixels: &[1, 2, 3],
            };
            buffer.offer(&record).unwrap();
        }
        buffer.sync().unwrap();
        drop(buffer);
        let resized = resize(&path, 8, Seed(run)).unwrap();
        assert_eq!((resized.kept, resized.dropped), (8, 8));
        let settings = ReplaySettings { slots: 8, ..settings };
        let (buffer, _) = ReplayBuffer::open_or_create(&path, &settings, 1, Seed(run)).unwrap();
        buffer.reader().ids().iter().for_each(|id| hits[id.0 as usize - 1] += 1);
        drop(buffer);
        std::fs::remove_file(&path).unwrap();
    }
    let (chance, runs) = (8.0 / frames as f64, runs as f64);
    let expected = runs * chance;
    let statistic: f64 = hits.iter().map(|&hits| (f64::from(hits) - expected).powi(2) / expected).sum();
    let statistic = statistic / (1.0 - chance) * (frames as f64 - 1.0) / frames as f64;
    // The 0.999 quantile of chi square with 39 degrees of freedom.
    assert!(statistic < 72.1, "chi square {statistic}: {hits:?}");
}
