//! Files that are written slowly, and files whose writer dies: what is not whole is never stored.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use lumpd::config::{Random, Seed};

use super::stored::{Hash, frames, hash_of};
use super::{Scratch, seconds, settings, text, tiny_network};
use crate::pictures::{bmp, jpeg, move_in, png, pnm, webp};
use crate::process::Daemon;

/// Writers at work at once.
const WRITERS: u64 = 4;

/// What a run came to. The last two have to be 0.
#[derive(Debug, Default)]
pub struct Tally {
    pub files: u64,
    pub stalled: u64,
    pub killed: u64,
    pub stored: u64,
    pub partial: u64,
    pub missing: u64,
    pub seconds: f64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { files, stalled, killed, stored, partial, missing, seconds } = self;
        write!(
            f,
            "{files} files, {stalled} written with stalls, {killed} left by a killed writer: {stored} stored, {partial} \
             partial ones, {missing} whole ones missing, {seconds:.0} s"
        )
    }
}

#[derive(Default)]
struct Written {
    whole: BTreeSet<Hash>,
    stalled: u64,
    killed: u64,
}

/// Lets writers write so many files into a watched folder.
pub fn run(files: u64, seed: u64) -> Tally {
    let start = Instant::now();
    let scratch = Scratch::new();
    let folder = scratch.path().join("in");
    fs::create_dir(&folder).expect("a folder can be made");
    let (network, slots) = (tiny_network(scratch.path()), format!("replay.slots={}", files.max(64)));
    let mut arguments: Vec<String> = ["--watch", text(&folder)].map(str::to_owned).into();
    arguments.extend(settings([network.as_str(), &slots, "evaluate.holdout_ratio=0", "log.filter=error"]));
    let mut daemon = Daemon::start(&scratch.path().join("state"), &arguments);
    let written = Mutex::new(Written::default());
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (folder, written) = (&folder, &written);
            scope.spawn(move || {
                for number in (writer..files).step_by(WRITERS as usize) {
                    write(folder, number, &mut Seed(seed).random("writers", number), written);
                }
            });
        }
    });
    let Written { whole, stalled, killed } = written.into_inner().expect("no writer has panicked");
    daemon.wait("every whole file", |daemon| daemon.status()["buffer"]["used"].as_u64() >= Some(whole.len() as u64));
    // A partial one that was waiting for its writer would come now.
    thread::sleep(Duration::from_secs(3));
    assert_eq!(daemon.stop().0, Some(0));
    let stored = frames(&scratch.path().join("state/replay.buf"));
    let partial = stored.keys().filter(|hash| !whole.contains(*hash)).count() as u64;
    let missing = whole.iter().filter(|hash| !stored.contains_key(*hash)).count() as u64;
    Tally { files, stalled, killed, stored: stored.len() as u64, partial, missing, seconds: seconds(start) }
}

fn write(folder: &Path, number: u64, random: &mut Random, written: &Mutex<Written>) {
    type Encode = fn(u64) -> Vec<u8>;
    let formats: [(&str, Encode); 5] = [("jpg", jpeg), ("png", png), ("webp", webp), ("bmp", bmp), ("ppm", pnm)];
    let (ending, encode) = formats[random.below(5) as usize];
    let bytes = encode(number);
    let name = format!("{number:06}.{ending}");
    let cut = 1 + random.below(bytes.len() as u64 - 1) as usize;
    let mut now = Written::default();
    match random.below(3) {
        // Its writer is killed: the system closes the file, as if it were whole.
        0 => {
            let mut file = File::create(folder.join(name)).expect("a file can be made");
            file.write_all(&bytes[..cut]).expect("a file can be written");
            now.killed = 1;
        }
        1 => {
            let path = folder.join(name);
            let mut file = File::create(&path).expect("a file can be made");
            file.write_all(&bytes[..cut]).expect("a file can be written");
            if random.below(2) == 0 {
                // Closed and opened again, which looks like the end in between.
                drop(file);
                file = File::options().append(true).open(&path).expect("a file can be opened");
            }
            thread::sleep(Duration::from_micros(random.below(30_000)));
            file.write_all(&bytes[cut..]).expect("a file can be written");
            now.stalled = 1;
            now.whole.insert(hash_of(&bytes));
        }
        _ => {
            move_in(folder, &name, &bytes);
            now.whole.insert(hash_of(&bytes));
        }
    }
    let mut written = written.lock().expect("no writer has panicked");
    written.stalled += now.stalled;
    written.killed += now.killed;
    written.whole.extend(now.whole);
}

#[test]
fn half_written_files_are_never_stored() {
    let tally = run(120, 1);
    println!("{tally}");
    assert_eq!((tally.partial, tally.missing), (0, 0), "{tally}");
}
