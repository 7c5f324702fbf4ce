use std::os::unix::fs::symlink;

use proptest::prelude::*;
use serde_json::json;

use super::*;

const ONE: Keep = Keep { generations: 1, bytes: u64::MAX };
const WEIGHTS: &str = "model.safetensors";

fn open(folder: &Path) -> Generations {
    Generations::open(folder, Keep::default()).unwrap()
}

/// Content that tells the step.
fn write(generations: &Generations, step: u64) -> Result<Generation, CheckpointError> {
    let weights = vec![step as u8; 5_000];
    generations.write(step, &[(WEIGHTS, &weights), ("state.json", b"{}")], &json!({ "step": step }))
}

fn loaded_step(generations: &Generations) -> Option<u64> {
    let loaded = generations.newest_valid().unwrap().loaded?;
    assert_eq!(loaded.meta, json!({ "step": loaded.step }));
    assert_eq!(loaded.files[WEIGHTS], vec![loaded.step as u8; 5_000]);
    assert_eq!(loaded.files["state.json"], b"{}");
    assert_eq!(loaded.files.len(), 2);
    Some(loaded.step)
}

#[test]
fn the_newest_comes_back_and_the_oldest_go() {
    let folder = tempfile::tempdir().unwrap();
    let generations = open(folder.path());
    assert_eq!(loaded_step(&generations), None);
    for step in [1, 20, 300, 4_000, 50_000] {
        write(&generations, step).unwrap();
        assert_eq!(loaded_step(&generations), Some(step));
    }
    assert_eq!(generations.steps().unwrap(), [300, 4_000, 50_000]);
    assert_eq!(loaded_step(&open(folder.path())), Some(50_000));
}

#[test]
fn a_step_written_twice_is_the_second_one() {
    let folder = tempfile::tempdir().unwrap();
    let generations = open(folder.path());
    generations.write(7, &[("old", b"1")], &json!(null)).unwrap();
    write(&generations, 7).unwrap();
    assert_eq!(loaded_step(&generations), Some(7));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn after_a_roll_back_the_one_just_written_stays() {
    let folder = tempfile::tempdir().unwrap();
    let generations = open(folder.path());
    for step in [10, 20, 30, 15] {
        write(&generations, step).unwrap();
    }
    assert_eq!(generations.steps().unwrap(), [15, 20, 30]);
}

#[test]
fn a_kill_at_any_stage_leaves_the_old_or_the_new() {
    let mut stages = Vec::new();
    for kill_at in 0.. {
        let folder = tempfile::tempdir().unwrap();
        let generations = Generations::open(folder.path(), ONE).unwrap();
        write(&generations, 1).unwrap();
        let weights = vec![2; 5_000];
        let files: [(&str, &[u8]); 2] = [(WEIGHTS, &weights), ("state.json", b"{}")];
        let mut reached = Vec::new();
        let result = generations.write_in_stages(2, &files, &json!({ "step": 2 }), &mut |stage| {
            reached.push(stage);
            match reached.len() > kill_at {
                true => Err(CheckpointError::Name { name: "killed".into() }),
                false => Ok(()),
            }
        });
        let renamed = reached.contains(&Stage::Renamed);
        let again = Generations::open(folder.path(), ONE).unwrap();
        assert_eq!(loaded_step(&again), Some(if renamed { 2 } else { 1 }), "after {reached:?}");
        let left = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, again.steps().unwrap().len(), "something is left after {reached:?}");
        write(&again, 3).unwrap();
        assert_eq!(again.steps().unwrap(), [3]);
        stages = reached;
        if result.is_ok() {
            break;
        }
    }
    use Stage::*;
    let all =
        [FolderMade, FileWritten, FileWritten, FileWritten, ManifestWritten, FolderSynced, Renamed, Verified, Pruned];
    assert_eq!(stages, all);
}

/// A change to one file of a generation.
#[derive(Debug, Clone)]
enum Damage {
    Truncate(prop::sample::Index),
    Flip(prop::sample::Index, u8),
    Zero(prop::sample::Index),
    Append,
    Remove,
    Empty,
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        any::<prop::sample::Index>().prop_map(Damage::Truncate),
        (any::<prop::sample::Index>(), 0..8u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        any::<prop::sample::Index>().prop_map(Damage::Zero),
        Just(Damage::Append),
        Just(Damage::Remove),
        Just(Damage::Empty),
    ]
}

fn apply(path: &Path, damage: &Damage) {
    let mut bytes = fs::read(path).unwrap();
    match damage {
        Damage::Truncate(at) => bytes.truncate(at.index(bytes.len())),
        Damage::Flip(at, bit) => {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        Damage::Zero(at) => {
            let at = at.index(bytes.len());
            bytes[at..].fill(0);
        }
        Damage::Append => bytes.push(b'\n'),
        Damage::Empty => bytes.clear(),
        Damage::Remove => return fs::remove_file(path).unwrap(),
    }
    fs::write(path, bytes).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(
        std::env::var("LUMPD_CHECKPOINT_MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(60)
    ))]

    #[test]
    fn a_damaged_newest_falls_back_to_the_one_before(damage in damage(), file in 0..4usize) {
        let folder = tempfile::tempdir().unwrap();
        let generations = open(folder.path());
        write(&generations, 1).unwrap();
        let newest = write(&generations, 2).unwrap().path;
        let name = [MANIFEST, META, WEIGHTS, "state.json"][file];
        apply(&newest.join(name), &damage);
        let search = generations.newest_valid().unwrap();
        let loaded = search.loaded.unwrap();
        // White space at the end of the manifest changes nothing; all else is noticed.
        if loaded.step == 2 {
            prop_assert!(name == MANIFEST, "{damage:?} of {name} was not noticed");
        } else {
            prop_assert_eq!(search.skipped.len(), 1);
            prop_assert!(!newest.exists() && folder.path().join("quarantine/step-000000000002").exists());
        }
        let step = loaded.step;
        prop_assert_eq!(&loaded.files[WEIGHTS], &vec![step as u8; 5_000]);
        prop_assert_eq!(loaded.meta, json!({ "step": step }));
    }
}

#[test]
fn all_damaged_is_nothing_and_said() {
    let folder = tempfile::tempdir().unwrap();
    let generations = open(folder.path());
    for step in 1..=3 {
        let path = write(&generations, step).unwrap().path;
        fs::write(path.join(WEIGHTS), b"short").unwrap();
    }
    let search = generations.newest_valid().unwrap();
    assert_eq!(search.loaded, None);
    let reason = Reason::Length { name: WEIGHTS.into(), expected: 5_000, found: 5 };
    assert_eq!(search.skipped[0], ("step-000000000003".into(), reason));
    assert_eq!(search.skipped.len(), 3);
    for step in 4..10 {
        let path = write(&generations, step).unwrap().path;
        fs::remove_file(path.join(MANIFEST)).unwrap();
        generations.newest_valid().unwrap();
    }
    let quarantined = fs::read_dir(folder.path().join(QUARANTINE)).unwrap().count();
    assert_eq!(quarantined, MOST_QUARANTINED, "quarantine is bounded");
}

/// A manifest that is valid but for its names.
fn with_manifest(generations: &Generations, name: &str) -> Search {
    let path = write(generations, 9).unwrap().path;
    let manifest = Manifest::new(9, [(name, b"secret".as_slice()), (META, b"null")].into_iter());
    fs::write(path.join(MANIFEST), manifest.to_bytes()).unwrap();
    fs::write(path.join(META), b"null").unwrap();
    generations.newest_valid().unwrap()
}

#[test]
fn hostile_names_are_refused() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), b"secret").unwrap();
    let absolute = outside.path().join("secret").to_str().unwrap().to_owned();
    for name in
        [absolute.as_str(), "../secret", "a/../../secret", "..", ".hidden", "", "UPPER", "a\0b", &"a".repeat(65)]
    {
        let folder = tempfile::tempdir().unwrap();
        let generations = open(folder.path());
        let search = with_manifest(&generations, name);
        assert_eq!(search.loaded, None);
        assert_eq!(search.skipped[0].1, Reason::Name { name: name.into() });
        assert_eq!(generations.write(1, &[(name, b"")], &json!({})).unwrap_err().code(), "checkpoint-file-name");
    }
    let folder = tempfile::tempdir().unwrap();
    let generations = open(folder.path());
    let twice: [(&str, &[u8]); 2] = [("a", b""), ("a", b"")];
    assert_eq!(generations.write(1, &twice, &json!({})).unwrap_err().code(), "checkpoint-file-name");
    assert_eq!(generations.write(1, &[(META, b"")], &json!({})).unwrap_err().code(), "checkpoint-file-name");
    assert_eq!(generations.write(1, &[(MANIFEST, b"")], &json!({})).unwrap_err().code(), "checkpoint-file-name");
}

#[test]
fn links_are_not_followed() {
    let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let generations = open(folder.path());
    let path = write(&generations, 1).unwrap().path;
    fs::rename(path.join(WEIGHTS), outside.path().join("weights")).unwrap();
    symlink(outside.path().join("weights"), path.join(WEIGHTS)).unwrap();
    let search = generations.newest_valid().unwrap();
    assert_eq!(search.loaded, None);
    assert_eq!(search.skipped[0].1, Reason::NotAFile { name: WEIGHTS.into() });

    let elsewhere = open(outside.path());
    let real = write(&elsewhere, 2).unwrap().path;
    symlink(&real, folder.path().join("step-000000000002")).unwrap();
    assert_eq!(generations.newest_valid().unwrap(), Search::default());
    assert!(real.exists());
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let strange = ["step-1", "step-00000000000x", "notes", ".tmp-mine", "step-0000000000012"];
    for name in strange {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    fs::write(folder.path().join(".tmp-step-000000000001"), b"a file").unwrap();
    fs::create_dir(folder.path().join(".tmp-step-000000000005")).unwrap();
    let generations = Generations::open(folder.path(), ONE).unwrap();
    (1..=4).for_each(|step| _ = write(&generations, step + 1).unwrap());
    assert_eq!(loaded_step(&generations), Some(5));
    for name in strange {
        assert!(folder.path().join(name).exists(), "{name}");
    }
    assert!(folder.path().join(".tmp-step-000000000001").exists());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), strange.len() + 2);
}

#[test]
fn a_newer_format_is_skipped_and_not_moved() {
    let folder = tempfile::tempdir().unwrap();
    let generations = open(folder.path());
    write(&generations, 1).unwrap();
    let path = write(&generations, 2).unwrap().path;
    fs::write(path.join(MANIFEST), br#"{"format": 9, "shards": []}"#).unwrap();
    let search = generations.newest_valid().unwrap();
    assert_eq!(search.loaded.unwrap().step, 1);
    assert_eq!(search.skipped[0].1, Reason::Newer { format: 9 });
    assert!(path.exists());
}

#[test]
fn a_manifest_that_promises_too_much_costs_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let generations = open(folder.path());
    let path = write(&generations, 1).unwrap().path;
    // A sparse manifest of a terabyte.
    fs::OpenOptions::new().write(true).open(path.join(MANIFEST)).unwrap().set_len(1 << 40).unwrap();
    let search = generations.newest_valid().unwrap();
    assert!(matches!(search.skipped[0].1, Reason::Length { found, .. } if found == 1 << 40));
}

#[test]
fn bytes_bound_what_is_kept_and_the_newest_always_stays() {
    let folder = tempfile::tempdir().unwrap();
    let one = write(&open(folder.path()), 1).unwrap().path;
    let size = size(&one);
    // Two and a half of them.
    let keep = Keep { generations: 10, bytes: size * 5 / 2 };
    let generations = Generations::open(folder.path(), keep).unwrap();
    for step in 2..=6 {
        write(&generations, step).unwrap();
    }
    assert_eq!(generations.steps().unwrap(), [5, 6]);
    let tiny = Generations::open(folder.path(), Keep { generations: 10, bytes: 1 }).unwrap();
    write(&tiny, 7).unwrap();
    assert_eq!(tiny.steps().unwrap(), [7]);
    assert_eq!(loaded_step(&tiny), Some(7));
}

#[test]
fn what_its_reader_refuses_is_passed_over_and_put_aside() {
    let folder = tempfile::tempdir().unwrap();
    let generations = open(folder.path());
    (1..=3).for_each(|step| _ = write(&generations, step).unwrap());
    let refuse = |loaded: &Loaded| if loaded.step > 1 { Err(format!("not {}", loaded.step)) } else { Ok(()) };
    let search = generations.newest(refuse).unwrap();
    assert_eq!(search.loaded.unwrap().step, 1);
    assert_eq!(search.skipped[0].1, Reason::Refused { message: "not 3".into() });
    assert_eq!(generations.steps().unwrap(), [1]);
}

#[test]
fn one_can_go_back_to_a_valid_generation_only() {
    let folder = tempfile::tempdir().unwrap();
    let generations = open(folder.path());
    (1..=3).for_each(|step| _ = write(&generations, step).unwrap());
    fs::write(folder.path().join("step-000000000002").join(WEIGHTS), b"short").unwrap();
    let damaged: Vec<bool> = generations.verify().unwrap().iter().map(|found| found.damage.is_some()).collect();
    assert_eq!(damaged, [false, true, false]);
    assert_eq!(generations.go_back_to(9).unwrap_err().code(), "checkpoint-not-there");
    assert_eq!(generations.go_back_to(2).unwrap_err().code(), "checkpoint-unverified");
    assert_eq!(generations.steps().unwrap(), [1, 2, 3], "nothing is changed by what fails");
    assert_eq!(generations.go_back_to(1).unwrap(), [2, 3]);
    assert_eq!(loaded_step(&generations), Some(1));
    assert!(folder.path().join("quarantine/step-000000000003").exists());
}
