//! A disk that fails at each of its first calls: no failure is ever acknowledged, and nothing acknowledged is lost.

use crate::config::{Random, Seed};
use crate::replay::ReplayError;
use crate::replay::store::FrameStore;

use super::knowledge::Knowledge;
use super::simulator::{Operation, Simulated, meta, pixels, power_cut, wanted};

/// Writes or syncs of a run, each of which fails in a run of its own.
const CALLS: usize = 500;

#[derive(Debug, Clone, Copy)]
enum Call {
    Write,
    Sync,
}

/// What a run ended as.
struct Ended {
    disk: Simulated,
    known: Knowledge,
    failed: bool,
    stopped: bool,
}

/// One and a half images a commit, with a removal now and then, until the call has failed and some more was done.
fn run(fails: Call, at: usize, random: &mut Random) -> Ended {
    let disk = Simulated::default();
    drop(FrameStore::create(disk.clone(), wanted().geometry([9; 16]).unwrap()).unwrap());
    disk.disk().journal.clear();
    let mut store = FrameStore::open(disk.clone(), &wanted()).unwrap().0;
    let (mut known, mut failed, mut stopped, mut after) = (Knowledge::default(), false, false, 0);
    match fails {
        Call::Write => disk.disk().fail_write = Some(at),
        Call::Sync => disk.disk().fail_sync = Some(at),
    }
    for id in 1.. {
        let slot = random.below(store.geometry().slots() as u64) as usize;
        if note(store.put(slot, meta(id), &pixels(id, store.geometry().shape.bytes())), &mut failed, &mut stopped) {
            known.wrote(slot, Some(id));
        }
        if random.below(40) == 0 {
            known.wrote(slot, None);
            if note(store.remove(&[slot]), &mut failed, &mut stopped) {
                known.acknowledged();
            } else {
                // It may have failed before the image was taken out or after: what is served now is what counts.
                known.wrote(slot, store.frame(slot).map(|id| id.0));
            }
        } else if random.below(3) > 0 && note(store.commit(), &mut failed, &mut stopped) {
            // A commit that returned without an error is what a sender is told.
            assert!(!stopped, "a store that has stopped acknowledges nothing");
            known.acknowledged();
        }
        let done = {
            let disk = disk.disk();
            disk.fail_write.is_none() && disk.fail_sync.is_none()
        };
        after += usize::from(done);
        if after > 5 {
            break;
        }
    }
    Ended { disk, known, failed, stopped }
}

/// Whether it succeeded; a full group is neither.
fn note<T>(result: Result<T, ReplayError>, failed: &mut bool, stopped: &mut bool) -> bool {
    match result {
        Ok(_) => return true,
        Err(ReplayError::GroupFull { .. }) => {}
        Err(ReplayError::Stopped { .. }) => (*failed, *stopped) = (true, true),
        Err(ReplayError::Io { .. }) => *failed = true,
        Err(error) => panic!("{error}"),
    }
    false
}

/// What is on the disk for sure, and what was written since.
fn durable(disk: &Simulated, length: usize) -> (Vec<u8>, Vec<(usize, Vec<u8>)>) {
    let fresh = Simulated::default();
    drop(FrameStore::create(fresh.clone(), wanted().geometry([9; 16]).unwrap()).unwrap());
    let (mut image, mut unsynced) = (fresh.disk().cache.clone(), Vec::<(usize, Vec<u8>)>::new());
    assert_eq!(image.len(), length);
    for operation in &disk.disk().journal {
        match operation {
            Operation::Write(offset, bytes) => unsynced.push((*offset, bytes.clone())),
            Operation::Sync => unsynced.drain(..).for_each(|(offset, bytes): (usize, Vec<u8>)| {
                image[offset..offset + bytes.len()].copy_from_slice(&bytes);
            }),
        }
    }
    (image, unsynced)
}

/// Of so many calls one is tried; all with `LUMPD_FAILING_EVERY=1`.
fn every() -> usize {
    std::env::var("LUMPD_FAILING_EVERY").ok().and_then(|every| every.parse().ok()).unwrap_or(10)
}

#[test]
fn an_error_at_each_of_the_first_calls_is_never_acknowledged_and_loses_nothing() {
    for call in [Call::Write, Call::Sync] {
        let (mut images, mut stops, mut failures) = (0, 0, 0);
        for at in (0..CALLS).step_by(every()) {
            let mut random = Seed(at as u64).random("errors", call as u64);
            let ended = run(call, at, &mut random);
            // A wipe after a commit that fails is no failure of anything that was asked for: it is made up for later.
            failures += usize::from(ended.failed);
            assert_eq!(
                ended.stopped,
                matches!(call, Call::Sync),
                "{call:?} {at}: a failed sync stops, a write does not"
            );
            stops += usize::from(ended.stopped);
            let length = ended.disk.disk().cache.len();
            let (image, unsynced) = durable(&ended.disk, length);
            for _ in 0..8 {
                let cut = Simulated::new(power_cut(&image, &unsynced, &mut random));
                let store = FrameStore::open(cut, &wanted()).unwrap().0;
                ended.known.check(&store, false).unwrap_or_else(|error| panic!("{call:?} {at}: {error}"));
                images += 1;
            }
        }
        let calls = CALLS.div_ceil(every());
        println!(
            "{calls} of the first {CALLS} calls of a {call:?} failed, {failures} times it was told, {stops} stops, \
             {images} power cuts after them: 0 false acknowledgements, 0 lost"
        );
        assert!(failures > calls / 2, "{failures}");
    }
}
