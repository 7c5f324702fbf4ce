use crate::stream::{FrameId, SourceId};

use super::{HEADER, Identity, MOST_NUMBER, Shape, block, field, put, seeded_crc};

const MAGIC: [u8; 4] = *b"SLOT";
const VERSION: u8 = 1;
const LIVE: u8 = 1;
const CRC: usize = HEADER - 4;

/// What is known of a stored image besides its pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotMeta {
    pub id: FrameId,
    pub source: SourceId,
    /// The source's own number of the frame.
    pub source_sequence: u64,
    /// Nanoseconds since the Unix epoch.
    pub wall_time_ns: i64,
    /// First 16 bytes of the BLAKE3 hash of the bytes as they were received, before decoding.
    pub content_hash: [u8; 16],
    /// A number that belongs to the store's owner, such as the task of a probe.
    pub tag: u32,
}

/// The header of a live slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotHeader {
    /// Logical slot: which image of the buffer this is a copy of.
    pub logical: u32,
    /// The store's own sequence number: of two copies of a logical slot the later write is the newer.
    pub write: u64,
    /// Frames offered to the store when this one was, itself included.
    pub seen: u64,
    pub shape: Shape,
    pub payload_crc: u32,
    pub meta: SlotMeta,
}

/// What the first bytes of a physical slot say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderState {
    /// Never used, or wiped.
    Free,
    Live(SlotHeader),
    /// Neither: half-written, rotten, or another file's.
    Damaged,
}

impl SlotHeader {
    pub fn encode(&self, identity: &Identity, physical: u32) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        put(&mut out, 0, &MAGIC);
        out[4] = VERSION;
        out[5] = LIVE;
        put(&mut out, 8, &u64::from(self.logical).to_le_bytes());
        put(&mut out, 16, &self.write.to_le_bytes());
        put(&mut out, 24, &self.meta.source.0.to_le_bytes());
        put(&mut out, 28, &self.meta.tag.to_le_bytes());
        put(&mut out, 32, &self.meta.source_sequence.to_le_bytes());
        put(&mut out, 40, &self.meta.wall_time_ns.to_le_bytes());
        put(&mut out, 48, &self.meta.content_hash);
        put(&mut out, 64, &self.shape.encode());
        put(&mut out, 72, &(self.shape.bytes() as u32).to_le_bytes());
        put(&mut out, 76, &self.payload_crc.to_le_bytes());
        put(&mut out, 80, &self.meta.id.0.to_le_bytes());
        put(&mut out, 88, &self.seen.to_le_bytes());
        let crc = seeded_crc(identity, u64::from(physical), &out[..CRC]);
        put(&mut out, CRC, &crc.to_le_bytes());
        out
    }

    /// Reads the header of physical slot `physical` of the file `identity`. Any bytes are one of the three states.
    pub fn decode(bytes: &[u8], identity: &Identity, physical: u32) -> HeaderState {
        let Some(bytes) = block::<HEADER>(bytes) else {
            return HeaderState::Damaged;
        };
        if bytes.iter().all(|&byte| byte == 0) {
            return HeaderState::Free;
        }
        let valid = field(bytes, 0) == MAGIC
            && bytes[4] == VERSION
            && bytes[5] == LIVE
            && u32::from_le_bytes(field(bytes, CRC)) == seeded_crc(identity, u64::from(physical), &bytes[..CRC]);
        if !valid {
            return HeaderState::Damaged;
        }
        Self::decode_fields(bytes).map_or(HeaderState::Damaged, HeaderState::Live)
    }

    fn decode_fields(bytes: &[u8; HEADER]) -> Option<Self> {
        let shape = Shape::decode(field(bytes, 64))?;
        let numbers = [16, 80, 88].map(|offset| u64::from_le_bytes(field(bytes, offset)));
        if u32::from_le_bytes(field(bytes, 72)) as usize != shape.bytes() || numbers.iter().any(|n| *n > MOST_NUMBER) {
            return None;
        }
        Some(Self {
            logical: u32::try_from(u64::from_le_bytes(field(bytes, 8))).ok()?,
            write: u64::from_le_bytes(field(bytes, 16)),
            seen: u64::from_le_bytes(field(bytes, 88)),
            shape,
            payload_crc: u32::from_le_bytes(field(bytes, 76)),
            meta: SlotMeta {
                id: FrameId(u64::from_le_bytes(field(bytes, 80))),
                source: SourceId(u32::from_le_bytes(field(bytes, 24))),
                source_sequence: u64::from_le_bytes(field(bytes, 32)),
                wall_time_ns: i64::from_le_bytes(field(bytes, 40)),
                content_hash: field(bytes, 48),
                tag: u32::from_le_bytes(field(bytes, 28)),
            },
        })
    }
}

/// Checksum of the pixels in physical slot `physical`.
pub fn payload_crc(identity: &Identity, physical: u32, payload: &[u8]) -> u32 {
    seeded_crc(identity, u64::from(physical), payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> SlotHeader {
        let meta = SlotMeta {
            id: FrameId(11),
            source: SourceId(2),
            source_sequence: 3,
            wall_time_ns: -4,
            content_hash: [5; 16],
            tag: 6,
        };
        SlotHeader { logical: 7, write: 8, seen: 9, shape: Shape::new(8, 3).unwrap(), payload_crc: 10, meta }
    }

    #[test]
    fn it_comes_back_in_its_own_slot_of_its_own_file_only() {
        let bytes = header().encode(&[1; 16], 4);
        assert_eq!(SlotHeader::decode(&bytes, &[1; 16], 4), HeaderState::Live(header()));
        assert_eq!(SlotHeader::decode(&bytes, &[1; 16], 5), HeaderState::Damaged);
        assert_eq!(SlotHeader::decode(&bytes, &[2; 16], 4), HeaderState::Damaged);
        assert_eq!(SlotHeader::decode(&[0; HEADER], &[1; 16], 4), HeaderState::Free);
        assert_eq!(SlotHeader::decode(&bytes[..100], &[1; 16], 4), HeaderState::Damaged);
    }

    #[test]
    fn numbers_that_could_overflow_are_damage() {
        for write in [MOST_NUMBER, MOST_NUMBER + 1, u64::MAX] {
            let state = SlotHeader::decode(&SlotHeader { write, ..header() }.encode(&[1; 16], 4), &[1; 16], 4);
            assert_eq!(state == HeaderState::Damaged, write > MOST_NUMBER);
        }
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        for at in 0..HEADER {
            let mut bytes = header().encode(&[1; 16], 4);
            bytes[at] ^= 0x80;
            assert_eq!(SlotHeader::decode(&bytes, &[1; 16], 4), HeaderState::Damaged, "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_with_a_good_checksum_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), HEADER), start: bool) {
            if start {
                bytes[..6].copy_from_slice(b"SLOT\x01\x01");
            }
            let crc = seeded_crc(&[1; 16], 4, &bytes[..CRC]);
            bytes[CRC..].copy_from_slice(&crc.to_le_bytes());
            if let HeaderState::Live(header) = SlotHeader::decode(&bytes, &[1; 16], 4) {
                prop_assert!(header.shape.bytes() > 0);
            }
        }
    }
}
