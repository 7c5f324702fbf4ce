//! The file, byte by byte, as [`format`](super::format) draws it.

mod geometry;
mod slot;
mod superblock;

pub use geometry::{Geometry, GeometryError, MOST_SLOTS, Purpose, Shape};
pub use slot::{HeaderState, SlotHeader, SlotMeta, payload_crc};
pub use superblock::{Counters, Superblock};

/// Bytes of a page of the format.
pub const PAGE: u64 = 4096;
/// Bytes of a slot's header.
pub const HEADER: usize = 128;
/// Bytes of a geometry or a superblock.
pub const BLOCK: usize = 256;
/// Where the two copies of the geometry are.
pub const GEOMETRY_OFFSETS: [u64; 2] = [0, 3 * PAGE];
/// Where the first slot is.
pub const SLOTS_OFFSET: u64 = 4 * PAGE;

/// Highest write, frame and count that a file may hold: no store gets there in its life, and what is counted on from there
/// never overflows. Beyond it a block is damaged, whatever its checksum says.
const MOST_NUMBER: u64 = 1 << 62;

/// 16 random bytes of one file.
pub type Identity = [u8; 16];

/// Where the superblock of this sequence number is.
pub fn superblock_offset(sequence: u64) -> u64 {
    if sequence % 2 == 1 { PAGE } else { 2 * PAGE }
}

/// CRC of `bytes` in the place `place` of the file `identity`.
fn seeded_crc(identity: &Identity, place: u64, bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(identity);
    crc.update(&place.to_le_bytes());
    crc.update(bytes);
    crc.finalize()
}

/// The `N` bytes at a constant offset of a block whose length is fixed by its type.
fn field<const N: usize, const LENGTH: usize>(block: &[u8; LENGTH], offset: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&block[offset..offset + N]);
    bytes
}

fn put<const LENGTH: usize>(block: &mut [u8; LENGTH], offset: usize, bytes: &[u8]) {
    block[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// The first `LENGTH` bytes, where there are so many.
fn block<const LENGTH: usize>(bytes: &[u8]) -> Option<&[u8; LENGTH]> {
    bytes.first_chunk()
}
