//! The start: which file is this, and which copies of which slots count.
//!
//! Of every logical slot the copy with the highest write number and a valid header counts. The pixels of copies that
//! were known to be on the disk are checked when they are first read; those of later ones are checked here, because the
//! header of an unfinished write may have reached the disk without its pixels, and an older, acknowledged copy is then
//! still there.

use super::ReplayError;
use super::backing::Backing;
use super::file::Wanted;
use super::index::Entry;
use super::layout::{
    BLOCK, Counters, GEOMETRY_OFFSETS, Geometry, GeometryError, HEADER, HeaderState, PAGE, SlotHeader, Superblock,
    payload_crc,
};
use super::policies;
use super::shared::{Recovery, Shared};

/// What a scan found.
#[derive(Debug)]
pub(super) struct Found {
    pub live: Vec<(u32, Entry)>,
    pub free: Vec<u32>,
    /// Physical slots to wipe: older copies, unfinished and damaged ones.
    pub stale: Vec<u32>,
    pub superblock: Superblock,
    pub counters: Counters,
    pub last_write: u64,
    pub recovery: Recovery,
}

impl Found {
    /// What a scan of a new file would find.
    pub fn empty(geometry: &Geometry) -> Self {
        Self {
            live: Vec::new(),
            free: (0..geometry.physical_slots() as u32).collect(),
            stale: Vec::new(),
            superblock: Superblock::default(),
            counters: Counters::default(),
            last_write: 0,
            recovery: Recovery::default(),
        }
    }
}

/// Reads the geometry from either copy and holds it against what is wanted.
pub(super) fn geometry<B: Backing>(backing: &B, wanted: &Wanted) -> Result<Geometry, ReplayError> {
    let geometry = made_geometry(backing)?;
    require_wanted(backing, &geometry, wanted)?;
    require_length(backing, &geometry)?;
    Ok(geometry)
}

/// The geometry of the file, whatever it was made for.
pub(super) fn any_geometry<B: Backing>(backing: &B) -> Result<Geometry, ReplayError> {
    let geometry = made_geometry(backing)?;
    require_length(backing, &geometry)?;
    Ok(geometry)
}

fn made_geometry<B: Backing>(backing: &B) -> Result<Geometry, ReplayError> {
    let path = backing.path();
    let copies = GEOMETRY_OFFSETS.map(|offset| {
        let mut bytes = [0; BLOCK];
        // A file too short for a geometry has none.
        backing.read_at(offset, &mut bytes).map_err(|_| GeometryError::Foreign)?;
        Geometry::decode(&bytes)
    });
    match copies {
        [Ok(geometry), _] | [_, Ok(geometry)] => Ok(geometry),
        // Said of either copy that can be read.
        [Err(GeometryError::Newer { major, features }), _] | [_, Err(GeometryError::Newer { major, features })] => {
            Err(ReplayError::NewerFormat { path: path.into(), major, features })
        }
        [Err(GeometryError::Foreign), Err(GeometryError::Foreign)] => Err(ReplayError::NotAStore { path: path.into() }),
        _ => Err(ReplayError::DamagedGeometry { path: path.into() }),
    }
}

fn require_length<B: Backing>(backing: &B, geometry: &Geometry) -> Result<(), ReplayError> {
    let path = backing.path();
    let found =
        backing.length().map_err(|source| ReplayError::Io { operation: "measure", path: path.into(), source })?;
    let expected = geometry.file_length();
    if found != expected {
        return Err(ReplayError::Length { path: path.into(), expected, found });
    }
    Ok(())
}

/// Spares may differ: they only bound a commit.
fn require_wanted<B: Backing>(backing: &B, made: &Geometry, wanted: &Wanted) -> Result<(), ReplayError> {
    let differs = [
        (format!("{:?}", made.purpose), format!("{:?}", wanted.purpose)),
        (format!("{} px images", made.shape.side()), format!("{} px images", wanted.side)),
        (format!("{} channels", made.shape.channels()), format!("{} channels", wanted.channels)),
        (format!("{} slots", made.slots()), format!("{} slots", wanted.slots)),
        (
            format!("the policy {}", policies::name(made.policy)),
            format!("the policy {}", policies::name(wanted.policy)),
        ),
    ];
    match differs.into_iter().find(|(made, wanted)| made != wanted) {
        Some((made, wanted)) => Err(ReplayError::OtherGeometry { path: backing.path().into(), made, wanted }),
        None => Ok(()),
    }
}

/// Reads every header, and the pixels of unfinished writes. Changes nothing.
pub(super) fn scan<B: Backing>(shared: &Shared<B>) -> Result<Found, ReplayError> {
    let superblock = newest_superblock(shared);
    let mut found = Found::empty(&shared.geometry);
    found.free.clear();
    found.recovery.counters_lost = superblock.is_none();
    found.superblock = superblock.unwrap_or_default();
    found.counters = found.superblock.counters;
    found.last_write = found.superblock.last_write;
    let mut best: Vec<Option<(u64, Entry)>> = vec![None; shared.geometry.slots()];
    for physical in 0..shared.geometry.physical_slots() as u32 {
        match read_header(shared, physical) {
            HeaderState::Free => found.free.push(physical),
            HeaderState::Damaged => {
                found.recovery.damaged += 1;
                found.stale.push(physical);
            }
            HeaderState::Live(header) => consider(shared, physical, &header, &mut best, &mut found),
        }
    }
    found.live = best.into_iter().enumerate().filter_map(|(slot, best)| Some((slot as u32, best?.1))).collect();
    found.recovery.live = found.live.len();
    found.counters.damaged += found.recovery.damaged as u64;
    found.counters.accepted = found.counters.accepted.max(found.live.len() as u64);
    report(shared, &found.recovery);
    Ok(found)
}

fn consider<B: Backing>(
    shared: &Shared<B>,
    physical: u32,
    header: &SlotHeader,
    best: &mut [Option<(u64, Entry)>],
    found: &mut Found,
) {
    // Unfinished writes count here too: their numbers must not be given out again.
    found.last_write = found.last_write.max(header.write);
    found.counters.seen = found.counters.seen.max(header.seen);
    found.counters.last_frame = found.counters.last_frame.max(header.meta.id.0);
    if header.write > found.superblock.durable_write && !pixels_are_whole(shared, physical, header) {
        found.recovery.unfinished += 1;
        found.stale.push(physical);
        return;
    }
    let entry = Entry { physical, payload_crc: header.payload_crc, meta: header.meta };
    // `read_header` has checked that the slot exists.
    let place = &mut best[header.logical as usize];
    match place {
        Some((write, _)) if *write >= header.write => found.stale.push(physical),
        _ => found.stale.extend(place.replace((header.write, entry)).map(|(_, older)| older.physical)),
    }
}

fn newest_superblock<B: Backing>(shared: &Shared<B>) -> Option<Superblock> {
    let read = |page: u64| {
        let mut bytes = [0; BLOCK];
        shared.backing.read_at(page * PAGE, &mut bytes).ok()?;
        Superblock::decode(&bytes, &shared.geometry.identity, page == 1)
    };
    [read(1), read(2)].into_iter().flatten().max_by_key(|superblock| superblock.sequence)
}

/// A slot that cannot be read, or whose header does not fit the geometry, is damaged: one bad sector costs one image.
pub(super) fn read_header<B: Backing>(shared: &Shared<B>, physical: u32) -> HeaderState {
    let geometry = &shared.geometry;
    let mut bytes = [0; HEADER];
    if shared.backing.read_at(geometry.slot_offset(physical), &mut bytes).is_err() {
        return HeaderState::Damaged;
    }
    match SlotHeader::decode(&bytes, &geometry.identity, physical) {
        HeaderState::Live(header) if header.shape != geometry.shape || header.logical as usize >= geometry.slots() => {
            HeaderState::Damaged
        }
        state => state,
    }
}

pub(super) fn pixels_are_whole<B: Backing>(shared: &Shared<B>, physical: u32, header: &SlotHeader) -> bool {
    #[cfg(test)]
    if shared.planted == Some(super::shared::PlantedBug::NoPayloadCrc) {
        return true;
    }
    let geometry = &shared.geometry;
    let mut pixels = vec![0; geometry.shape.bytes()];
    shared.backing.read_at(geometry.slot_offset(physical) + HEADER as u64, &mut pixels).is_ok()
        && payload_crc(&geometry.identity, physical, &pixels) == header.payload_crc
}

fn report<B: Backing>(shared: &Shared<B>, recovery: &Recovery) {
    let path = shared.backing.path().display();
    let &Recovery { live, unfinished, damaged, counters_lost } = recovery;
    if damaged > 0 || counters_lost {
        tracing::warn!(%path, live, unfinished, damaged, counters_lost, "damage was found in the store and left out");
    } else {
        tracing::info!(%path, live, unfinished, "the store is open");
    }
}
