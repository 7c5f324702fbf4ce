use super::{BLOCK, Identity, MOST_NUMBER, block, field, put, seeded_crc};

const MAGIC: [u8; 8] = *b"LUMPSUPR";
const CRC: usize = BLOCK - 4;

/// What cannot be counted again from the slots.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Number of the newest frame offered.
    pub last_frame: u64,
    /// Frames offered.
    pub seen: u64,
    /// Frames stored.
    pub accepted: u64,
    /// Frames that another one replaced.
    pub evicted: u64,
    /// Slots whose checksum failed.
    pub damaged: u64,
    /// Frames removed on request.
    pub forgotten: u64,
    /// Number of the newest frame when the file was made by a resize; 0 where it was not.
    pub resized_at: u64,
}

/// The state of a commit, beside the slots themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Superblock {
    /// 1 more than the other superblock's.
    pub sequence: u64,
    /// The last write of the last commit that was known to be on the disk when this one was *written*. Not of its own
    /// commit: this block may reach the disk before the slots it travels with.
    pub durable_write: u64,
    /// The last write number given out.
    pub last_write: u64,
    pub counters: Counters,
}

impl Superblock {
    pub fn encode(&self, identity: &Identity) -> [u8; BLOCK] {
        let mut out = [0; BLOCK];
        put(&mut out, 0, &MAGIC);
        put(&mut out, 8, identity);
        for (index, number) in self.numbers().into_iter().enumerate() {
            put(&mut out, 24 + 8 * index, &number.to_le_bytes());
        }
        let crc = seeded_crc(identity, place(self.sequence), &out[..CRC]);
        put(&mut out, CRC, &crc.to_le_bytes());
        out
    }

    /// None where the bytes are not a superblock of this file, or one whose place is the other page (`odd`: page 1).
    pub fn decode(bytes: &[u8], identity: &Identity, odd: bool) -> Option<Self> {
        let bytes: &[u8; BLOCK] = block(bytes)?;
        let number = |index: usize| u64::from_le_bytes(field(bytes, 24 + 8 * index));
        let sequence = number(0);
        let valid = field(bytes, 0) == MAGIC
            && field(bytes, 8) == *identity
            && (sequence % 2 == 1) == odd
            && (0..9).all(|index| number(index) <= MOST_NUMBER)
            && u32::from_le_bytes(field(bytes, CRC)) == seeded_crc(identity, place(sequence), &bytes[..CRC]);
        valid.then(|| Self {
            sequence,
            durable_write: number(1),
            last_write: number(2),
            counters: Counters {
                last_frame: number(3),
                seen: number(4),
                accepted: number(5),
                evicted: number(6),
                damaged: number(7),
                forgotten: number(8),
                resized_at: number(9),
            },
        })
    }

    fn numbers(&self) -> [u64; 10] {
        let Counters { last_frame, seen, accepted, evicted, damaged, forgotten, resized_at } = self.counters;
        let (sequence, durable, last) = (self.sequence, self.durable_write, self.last_write);
        [sequence, durable, last, last_frame, seen, accepted, evicted, damaged, forgotten, resized_at]
    }
}

/// Place of the checksum: 2^64 - 1 for page 1, 2^64 - 2 for page 2.
fn place(sequence: u64) -> u64 {
    if sequence % 2 == 1 { u64::MAX } else { u64::MAX - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn superblock() -> Superblock {
        let counters =
            Counters { last_frame: 5, seen: 6, accepted: 7, evicted: 8, damaged: 9, forgotten: 10, resized_at: 11 };
        Superblock { sequence: 3, durable_write: 2, last_write: 4, counters }
    }

    #[test]
    fn it_comes_back_from_its_own_page_and_file_only() {
        let bytes = superblock().encode(&[1; 16]);
        assert_eq!(Superblock::decode(&bytes, &[1; 16], true), Some(superblock()));
        assert_eq!(Superblock::decode(&bytes, &[1; 16], false), None);
        assert_eq!(Superblock::decode(&bytes, &[2; 16], true), None);
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        for at in 0..BLOCK {
            let mut bytes = superblock().encode(&[1; 16]);
            bytes[at] ^= 1;
            assert_eq!(Superblock::decode(&bytes, &[1; 16], true), None, "byte {at}");
        }
    }

    #[test]
    fn numbers_that_could_overflow_are_damage() {
        for last_write in [MOST_NUMBER, MOST_NUMBER + 1, u64::MAX] {
            let bytes = Superblock { last_write, ..superblock() }.encode(&[1; 16]);
            assert_eq!(Superblock::decode(&bytes, &[1; 16], true).is_some(), last_write == MOST_NUMBER);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), odd: bool) {
            prop_assert_eq!(Superblock::decode(&bytes, &[9; 16], odd), None);
        }
    }
}
