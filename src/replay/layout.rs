//! The file, byte by byte.
//!
//! All numbers are little-endian. Pages are 4096 bytes, whatever the machine's.
//!
//! ```text
//! page 0      geometry          written once
//! page 1      superblock A      of odd sequence numbers
//! page 2      superblock B      of even sequence numbers
//! page 3      geometry          the same bytes again
//! page 4 ...  physical slots    (logical slots + spares) x stride, stride = round_up(128 + payload, 4096)
//!
//! geometry, 256 bytes                              superblock, 256 bytes
//!   0  magic "\x89RPLY\r\n\x1a\n", 7 x 0   16        0  magic "LUMPSUPR"            8
//!  16  format, major                       u16       8  identity                   16
//!  18  format, minor                       u16      24  sequence                   u64
//!  20  purpose: 1 replay, 2 probes         u16      32  durable write              u64
//!  22  policy: 0 caller, 1 reservoir,      u16      40  last write                 u64
//!      2 fifo                                       48  last frame                 u64
//!  24  features, incompatible              u64      56  seen                       u64
//!  32  features, incompatible to write     u64      64  accepted                   u64
//!  40  features, compatible                u64      72  evicted                    u64
//!  48  identity of the file                16       80  dropped as damaged         u64
//!  64  logical slots                       u64      88  forgotten                  u64
//!  72  physical slots                      u64      96  zero                       156
//!  80  stride                              u64     252  CRC of 0..252              u32
//!  88  payload length                      u32
//!  92  slot header length (128)            u32
//!  96  height, width                   2 x u16
//! 100  channels                            u8
//! 101  type: 1 unsigned byte               u8
//! 102  zero                                u16
//! 104  file length                         u64
//! 112  zero                                140
//! 252  CRC of 0..252                       u32
//!
//! slot, header 128 bytes
//!   0  magic "SLOT"                        u32      64  height, width          2 x u16
//!   4  version (1)                         u8       68  channels                   u8
//!   5  state (1 live)                      u8       69  type                       u8
//!   6  flags (0)                           u16      70  zero                       u16
//!   8  logical slot                        u64      72  payload length             u32
//!  16  write: the store's own sequence     u64      76  payload CRC                u32
//!  24  source                              u32      80  frame                      u64
//!  28  tag                                 u32      88  seen when it was offered   u64
//!  32  the source's sequence number        u64      96  zero                       28
//!  40  wall time, ns since 1970            i64     124  CRC of 0..124              u32
//!  48  content hash, first 16 of BLAKE3     16     128  payload: height, width, channel
//! ```
//!
//! A free slot's header is 128 zeros. Sequences, writes, frames and counts are at most 2^62.
//!
//! The CRC is the IEEE one of `crc32fast` (the polynomial of zlib and PNG), which is faster here than the Castagnoli
//! one. Every CRC starts with 24 bytes that are not in the place it guards: the identity of the file, then the number
//! of the physical slot (u64; for superblocks 2^64 - 1 and 2^64 - 2, for the geometry 2^64 - 3 with an identity of
//! zeros). So blocks of an older file in the same place, and writes that went to another slot, never pass for valid.
//!
//! Unknown incompatible features refuse the file; unknown bits of the other two words: the second refuses it too, as
//! this program has no read-only mode, the third is ignored.

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
