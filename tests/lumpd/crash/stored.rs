//! What a store holds, read from its bytes by this test alone (the layout is drawn in `lumpd::replay`'s source): no code of
//! the daemon's has a say in it.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// First 16 bytes of the BLAKE3 hash of the bytes as they were sent.
pub type Hash = [u8; 16];

const FIRST_SLOT: u64 = 4 * 4096;

pub fn hash_of(bytes: &[u8]) -> Hash {
    blake3::hash(bytes).as_bytes()[..16].try_into().expect("16 of 32 bytes")
}

/// The frames of a file by the hash of their bytes; more than one where it was stored twice. Of each logical slot the copy
/// written last counts.
pub fn frames(store: &Path) -> BTreeMap<Hash, Vec<u64>> {
    let file = File::open(store).unwrap_or_else(|error| panic!("{}: {error}", store.display()));
    let mut geometry = [0; 256];
    file.read_exact_at(&mut geometry, 0).expect("a store has a geometry");
    let number = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let (slots, stride) = (number(&geometry, 72), number(&geometry, 80));
    let mut newest: BTreeMap<u64, (u64, Hash, u64)> = BTreeMap::new();
    for slot in 0..slots {
        let mut header = [0; 128];
        file.read_exact_at(&mut header, FIRST_SLOT + slot * stride).expect("a store has all its slots");
        if header[..4] != *b"SLOT" {
            continue;
        }
        let (logical, write, frame) = (number(&header, 8), number(&header, 16), number(&header, 80));
        let hash = header[48..64].try_into().expect("16 bytes");
        if newest.get(&logical).is_none_or(|(older, ..)| *older < write) {
            newest.insert(logical, (write, hash, frame));
        }
    }
    let mut frames: BTreeMap<Hash, Vec<u64>> = BTreeMap::new();
    newest.into_values().for_each(|(_, hash, frame)| frames.entry(hash).or_default().push(frame));
    frames
}
