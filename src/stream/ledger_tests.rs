use super::*;

fn database(folder: &Path) -> Arc<Database> {
    Arc::new(Database::create(&folder.join("state.redb")).unwrap())
}

fn entry(path: &str, size: u64) -> Entry {
    (path.into(), Fingerprint { inode: 7, size, mtime_ns: -3 })
}

const SOURCE: SourceId = SourceId(1);

#[test]
fn the_number_of_a_source_is_the_same_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    {
        let ledger = Ledger::new(database(folder.path())).unwrap();
        assert_eq!(ledger.source_id("line").unwrap(), SourceId(1));
        assert_eq!(ledger.source_id("door").unwrap(), SourceId(2));
    }
    let ledger = Ledger::new(database(folder.path())).unwrap();
    assert_eq!(ledger.source_id("door").unwrap(), SourceId(2));
    assert_eq!(ledger.source_id("roof").unwrap(), SourceId(3));
    assert_eq!(ledger.source_id("line").unwrap(), SourceId(1));
}

#[test]
fn what_became_of_a_file_survives_a_restart_until_the_file_changes() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = Outcome::Refused { code: "not-an-image", detail: "it is text".into() };
    {
        let ledger = Ledger::new(database(folder.path())).unwrap();
        let entries = [(entry("a", 1), Outcome::Taken(FrameId(9))), (entry("b", 2), refusal)];
        ledger.mark(SOURCE, &[entry("a", 1), entry("b", 2), entry("c", 3)], Company::Others).unwrap();
        ledger.record(SOURCE, &entries).unwrap();
    }
    let ledger = Ledger::new(database(folder.path())).unwrap();
    let files = [entry("a", 1), entry("b", 2), entry("c", 3), entry("d", 4), entry("a", 5)];
    let refused = FileState::Refused { code: "not-an-image".into(), detail: "it is text".into() };
    let expected = [FileState::Taken(FrameId(9)), refused, FileState::Tried(1), FileState::Unknown, FileState::Unknown];
    assert_eq!(ledger.look_up(SOURCE, &files).unwrap(), expected);
    assert_eq!(ledger.look_up(SourceId(2), &files[..1]).unwrap(), [FileState::Unknown]);
}

#[test]
fn marks_add_up_until_something_is_decided_or_the_file_changes() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::new(database(folder.path())).unwrap();
    let file = [entry("a", 1)];
    for (company, marks) in [(Company::Others, 1), (Company::Alone, 3), (Company::Alone, 5)] {
        ledger.mark(SOURCE, &file, company).unwrap();
        assert_eq!(ledger.look_up(SOURCE, &file).unwrap(), [FileState::Tried(marks)]);
    }
    ledger.mark(SOURCE, &[entry("a", 2)], Company::Others).unwrap();
    assert_eq!(ledger.look_up(SOURCE, &[entry("a", 2)]).unwrap(), [FileState::Tried(1)]);
    ledger.record(SOURCE, &[(entry("a", 2), Outcome::Undecided)]).unwrap();
    assert_eq!(ledger.look_up(SOURCE, &[entry("a", 2)]).unwrap(), [FileState::Unknown]);
}

#[test]
fn pruning_forgets_exactly_the_files_that_are_gone() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::new(database(folder.path())).unwrap();
    let entries: Vec<_> = (0..2500).map(|at| (entry(&format!("{at:04}"), 1), Outcome::Taken(FrameId(at)))).collect();
    ledger.record(SOURCE, &entries).unwrap();
    ledger.record(SourceId(2), &entries[..3]).unwrap();
    let odd = |path: &Path| path.to_str().unwrap().parse::<u64>().unwrap() % 2 == 1;
    assert_eq!(ledger.prune(SOURCE, odd).unwrap(), 1250);
    for ((entry, _), at) in entries.iter().zip(0..) {
        let expected = if at % 2 == 1 { FileState::Unknown } else { FileState::Taken(FrameId(at)) };
        assert_eq!(ledger.look_up(SOURCE, std::slice::from_ref(entry)).unwrap(), [expected]);
    }
    assert_eq!(ledger.look_up(SourceId(2), &[entries[1].0.clone()]).unwrap(), [FileState::Taken(FrameId(1))]);
}
