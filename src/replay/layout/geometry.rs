use super::{BLOCK, HEADER, Identity, PAGE, SLOTS_OFFSET, block, field, put, seeded_crc};

const MAGIC: [u8; 16] = *b"\x89RPLY\r\n\x1a\n\0\0\0\0\0\0\0";
const MAJOR: u16 = 1;
/// 1: superblocks say when the file was resized. Files of minor 0 have a zero there, and open as they are.
const MINOR: u16 = 1;
const UNSIGNED_BYTE: u8 = 1;
const PLACE: u64 = u64::MAX - 2;
const CRC: usize = BLOCK - 4;
const MOST_SIDE: usize = 4096;

/// Most logical slots of a store.
pub const MOST_SLOTS: usize = 1 << 28;

/// What a store is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Replay,
    Probes,
}

/// Shape of every image of a store: (side, side, channels), one byte each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    side: u16,
    channels: u8,
}

impl Shape {
    /// None where a side is not in 1..=4096 or channels not in 1..=4.
    pub fn new(side: usize, channels: usize) -> Option<Self> {
        let valid = (1..=MOST_SIDE).contains(&side) && (1..=4).contains(&channels);
        valid.then_some(Self { side: side as u16, channels: channels as u8 })
    }

    pub fn side(self) -> usize {
        usize::from(self.side)
    }

    pub fn channels(self) -> usize {
        usize::from(self.channels)
    }

    /// Bytes of one image: at most 4096 * 4096 * 4, so that a u32 holds it.
    pub fn bytes(self) -> usize {
        self.side() * self.side() * self.channels()
    }

    /// The six bytes of the shape and the element's type, as the geometry and every slot header hold them.
    pub(super) fn encode(self) -> [u8; 6] {
        let side = self.side.to_le_bytes();
        [side[0], side[1], side[0], side[1], self.channels, UNSIGNED_BYTE]
    }

    pub(super) fn decode(bytes: [u8; 6]) -> Option<Self> {
        let height = u16::from_le_bytes([bytes[0], bytes[1]]);
        let width = u16::from_le_bytes([bytes[2], bytes[3]]);
        let shape = Self::new(usize::from(height), usize::from(bytes[4]))?;
        (height == width && bytes[5] == UNSIGNED_BYTE).then_some(shape)
    }
}

/// What never changes during the life of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    pub purpose: Purpose,
    /// Number of the policy (see `policies`), 0 where the caller chooses the slots.
    pub policy: u16,
    pub identity: Identity,
    pub shape: Shape,
    slots: u32,
    spares: u32,
}

/// Why bytes are not a geometry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GeometryError {
    /// Not the magic number.
    Foreign,
    /// The checksum fails, or a length contradicts another.
    Damaged,
    /// A later format, or a feature this program does not know.
    Newer { major: u16, features: u64 },
}

impl Geometry {
    /// None where `slots` is not in 1..=`MOST_SLOTS` or `spares` not in 1..=slots + 65536.
    pub fn new(
        purpose: Purpose,
        policy: u16,
        shape: Shape,
        slots: usize,
        spares: usize,
        identity: Identity,
    ) -> Option<Self> {
        let valid = (1..=MOST_SLOTS).contains(&slots) && (1..=slots + (1 << 16)).contains(&spares);
        valid.then_some(Self { purpose, policy, identity, shape, slots: slots as u32, spares: spares as u32 })
    }

    /// Logical slots: the images kept.
    pub fn slots(&self) -> usize {
        self.slots as usize
    }

    /// Most frames of one commit.
    pub fn spares(&self) -> usize {
        self.spares as usize
    }

    /// Slots of the file: a replaced image stays until the commit that replaces it.
    pub fn physical_slots(&self) -> usize {
        self.slots() + self.spares()
    }

    /// Bytes from one slot to the next.
    pub fn stride(&self) -> u64 {
        ((HEADER + self.shape.bytes()) as u64).next_multiple_of(PAGE)
    }

    /// At most 2^30 slots of at most 2^27 bytes: far from overflow.
    pub fn file_length(&self) -> u64 {
        SLOTS_OFFSET + self.physical_slots() as u64 * self.stride()
    }

    /// Where a physical slot begins.
    pub fn slot_offset(&self, physical: u32) -> u64 {
        SLOTS_OFFSET + u64::from(physical) * self.stride()
    }

    pub fn encode(&self) -> [u8; BLOCK] {
        let mut out = [0; BLOCK];
        put(&mut out, 0, &MAGIC);
        put(&mut out, 16, &MAJOR.to_le_bytes());
        put(&mut out, 18, &MINOR.to_le_bytes());
        put(&mut out, 20, &self.purpose.number().to_le_bytes());
        put(&mut out, 22, &self.policy.to_le_bytes());
        put(&mut out, 48, &self.identity);
        put(&mut out, 64, &u64::from(self.slots).to_le_bytes());
        put(&mut out, 72, &(self.physical_slots() as u64).to_le_bytes());
        put(&mut out, 80, &self.stride().to_le_bytes());
        put(&mut out, 88, &(self.shape.bytes() as u32).to_le_bytes());
        put(&mut out, 92, &(HEADER as u32).to_le_bytes());
        put(&mut out, 96, &self.shape.encode());
        put(&mut out, 104, &self.file_length().to_le_bytes());
        let crc = seeded_crc(&[0; 16], PLACE, &out[..CRC]);
        put(&mut out, CRC, &crc.to_le_bytes());
        out
    }

    /// # Errors
    /// Any bytes give an error or a geometry whose every number agrees with the others.
    pub fn decode(bytes: &[u8]) -> Result<Self, GeometryError> {
        let bytes: &[u8; BLOCK] = block(bytes).ok_or(GeometryError::Damaged)?;
        if field(bytes, 0) != MAGIC {
            return Err(GeometryError::Foreign);
        }
        if u32::from_le_bytes(field(bytes, CRC)) != seeded_crc(&[0; 16], PLACE, &bytes[..CRC]) {
            return Err(GeometryError::Damaged);
        }
        // The version comes before all other fields: a later format may use them otherwise.
        let major = u16::from_le_bytes(field(bytes, 16));
        let features = u64::from_le_bytes(field(bytes, 24)) | u64::from_le_bytes(field(bytes, 32));
        if major != MAJOR || features != 0 {
            return Err(GeometryError::Newer { major, features });
        }
        Self::decode_fields(bytes).ok_or(GeometryError::Damaged)
    }

    fn decode_fields(bytes: &[u8; BLOCK]) -> Option<Self> {
        let slots = u64::from_le_bytes(field(bytes, 64));
        let physical = u64::from_le_bytes(field(bytes, 72));
        let geometry = Self::new(
            Purpose::from_number(u16::from_le_bytes(field(bytes, 20)))?,
            u16::from_le_bytes(field(bytes, 22)),
            Shape::decode(field(bytes, 96))?,
            usize::try_from(slots).ok()?,
            usize::try_from(physical.checked_sub(slots)?).ok()?,
            field(bytes, 48),
        )?;
        let agrees = u64::from_le_bytes(field(bytes, 80)) == geometry.stride()
            && u32::from_le_bytes(field(bytes, 88)) as usize == geometry.shape.bytes()
            && u32::from_le_bytes(field(bytes, 92)) as usize == HEADER
            && u64::from_le_bytes(field(bytes, 104)) == geometry.file_length();
        agrees.then_some(geometry)
    }
}

impl Purpose {
    fn number(self) -> u16 {
        match self {
            Self::Replay => 1,
            Self::Probes => 2,
        }
    }

    fn from_number(number: u16) -> Option<Self> {
        [Self::Replay, Self::Probes].into_iter().find(|purpose| purpose.number() == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn geometry() -> Geometry {
        Geometry::new(Purpose::Replay, 1, Shape::new(32, 3).unwrap(), 100, 8, [7; 16]).unwrap()
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let good = geometry().encode();
        assert_eq!(Geometry::decode(&good), Ok(geometry()));
        for at in 0..BLOCK {
            let mut bad = good;
            bad[at] ^= 0x10;
            assert!(Geometry::decode(&bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn an_unknown_feature_is_refused_and_a_compatible_one_ignored() {
        for (offset, refused) in [(24, true), (32, true), (40, false)] {
            let mut bytes = geometry().encode();
            bytes[offset] = 4;
            let crc = seeded_crc(&[0; 16], PLACE, &bytes[..CRC]);
            put(&mut bytes, CRC, &crc.to_le_bytes());
            let newer = matches!(Geometry::decode(&bytes), Err(GeometryError::Newer { features: 4, .. }));
            assert_eq!(newer, refused, "offset {offset}");
        }
    }

    proptest! {
        #[test]
        fn a_geometry_comes_back(slots in 1usize..1 << 20, spares in 1usize..65_536, side in 1usize..4097, channels in 1usize..5) {
            let shape = Shape::new(side, channels).unwrap();
            let geometry = Geometry::new(Purpose::Probes, 0, shape, slots, spares, [3; 16]).unwrap();
            prop_assert_eq!(Geometry::decode(&geometry.encode()), Ok(geometry));
            prop_assert!(geometry.stride() >= (HEADER + shape.bytes()) as u64);
        }

        #[test]
        fn garbage_with_a_good_checksum_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), BLOCK), keep in 16usize..64) {
            bytes[..keep].copy_from_slice(&geometry().encode()[..keep]);
            let crc = seeded_crc(&[0; 16], PLACE, &bytes[..CRC]);
            bytes[CRC..].copy_from_slice(&crc.to_le_bytes());
            if let Ok(geometry) = Geometry::decode(&bytes) {
                prop_assert!(geometry.file_length() > SLOTS_OFFSET);
            }
        }

        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Geometry::decode(&bytes);
        }
    }
}
