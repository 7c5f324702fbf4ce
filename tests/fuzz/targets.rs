//! The parsers, samples of what they take, and how to repair the checksums of what was changed.

use std::io::Cursor;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::{fs, io};

use image::{DynamicImage, ImageBuffer, ImageFormat, Luma, Rgb, Rgba};
use lumpd::config::{DecodeSettings, LearnSettings, Seed};
use lumpd::decode::{DecodeError, Decoder};
use lumpd::encoder::Preset;
use lumpd::learn::checkpoint::{Generations, Keep};
use lumpd::learn::{MODEL_FILE, Trainer};
use lumpd::replay::{Backing, FrameStore, Purpose, SlotMeta, Wanted};
use lumpd::stream::wire::{self, ClientFrame, Message, Reply};
use lumpd::stream::{FrameId, SourceId};

/// Whether the bytes were taken as valid; an error is a finding.
pub type Parse = Box<dyn FnMut(&[u8]) -> Result<bool, String>>;

/// A parser under test.
pub struct Target {
    pub name: &'static str,
    pub new: fn() -> Parse,
    pub samples: fn() -> Vec<Vec<u8>>,
    pub repair: fn(&mut Vec<u8>),
    /// As many as take a second or less.
    pub executions_in_tests: u64,
}

/// All of them. The store's is a whole file: geometry, superblocks and slots.
pub const TARGETS: &[Target] = &[
    Target {
        name: "wire",
        new: wire,
        samples: wire_samples,
        repair: |bytes| repair_wire(bytes),
        executions_in_tests: 20_000,
    },
    Target {
        name: "store",
        new: store,
        samples: store_samples,
        repair: |bytes| repair_store(bytes),
        executions_in_tests: 4_000,
    },
    Target {
        name: "manifest",
        new: manifest,
        samples: manifest_samples,
        repair: repair_manifest,
        executions_in_tests: 600,
    },
    Target { name: "weights", new: weights, samples: weights_samples, repair: |_| {}, executions_in_tests: 500 },
    Target {
        name: "decode",
        new: decode,
        samples: decode_samples,
        repair: |bytes| repair_png(bytes),
        executions_in_tests: 4_000,
    },
];

fn wire() -> Parse {
    Box::new(|bytes| {
        let limit = 1 << 20;
        Ok(match wire::decode(bytes, limit) {
            Ok(Some((message, length))) => {
                // What was read can be written again, and read again.
                let again =
                    wire::encode(&message).map_err(|error| format!("what was read cannot be written: {error}"))?;
                match wire::decode(&again, limit.max(again.len())) {
                    Ok(Some((same, _))) if same == message && length <= bytes.len() => true,
                    other => return Err(format!("{message:?} comes back as {other:?}")),
                }
            }
            Ok(None) | Err(_) => false,
        })
    })
}

fn wire_samples() -> Vec<Vec<u8>> {
    let frame = |label: Option<&str>, captured_at_ns| ClientFrame {
        sequence: 7,
        captured_at_ns,
        label: label.map(str::to_owned),
        image: vec![1, 2, 3, 4].into(),
    };
    let notice = wire::Notice {
        code: "too-large".into(),
        detail: "a picture of 9 x 9".into(),
        retry_after: Some(std::time::Duration::from_millis(20)),
    };
    let messages = [
        Message::Frame(frame(None, None)),
        Message::Frame(frame(Some("stop sign"), Some(-5))),
        Message::Ack { sequence: 1, reply: Reply::Accepted { id: FrameId(4), task: Some(2) } },
        Message::Ack { sequence: 2, reply: Reply::Duplicate { id: FrameId(4) } },
        Message::Ack { sequence: 3, reply: Reply::Refused(notice.clone()) },
        Message::Error(notice),
        Message::Ping,
        Message::Pong,
    ];
    messages.iter().map(|message| wire::encode(message).expect("a sample can be written")).collect()
}

/// Makes the length what follows, and both checksums right.
fn repair_wire(bytes: &mut [u8]) {
    if bytes.len() < 20 {
        return;
    }
    let payload = bytes.len() - 20;
    bytes[8..12].copy_from_slice(&(payload as u32).to_le_bytes());
    let head = crc32fast::hash(&bytes[..12]).to_le_bytes();
    bytes[12..16].copy_from_slice(&head);
    let body = crc32fast::hash(&bytes[16..16 + payload]).to_le_bytes();
    bytes[16 + payload..].copy_from_slice(&body);
}

/// A store in memory.
#[derive(Clone)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Backing for Memory {
    fn path(&self) -> &Path {
        Path::new("memory")
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.lock().expect("one thread").len() as u64)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let bytes = self.0.lock().expect("one thread");
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let found = bytes.get(start..).and_then(|bytes| bytes.get(..into.len()));
        into.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, from: &[u8]) -> io::Result<()> {
        let mut bytes = self.0.lock().expect("one thread");
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let place = bytes.get_mut(start..).and_then(|bytes| bytes.get_mut(..from.len()));
        place.ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(from);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.0.lock().expect("one thread").resize(usize::try_from(length).map_err(io::Error::other)?, 0);
        Ok(())
    }
}

const WANTED: Wanted = Wanted { purpose: Purpose::Probes, policy: 0, slots: 2, spares: 1, side: 8, channels: 3 };
const IDENTITY: [u8; 16] = [7; 16];
const PAGE: usize = 4096;

fn image(id: u64) -> Vec<u8> {
    (0..192).map(|at| (at as u64 * id) as u8).collect()
}

fn store() -> Parse {
    Box::new(|bytes| {
        let memory = Memory(Arc::new(Mutex::new(expand(bytes))));
        let Ok((mut store, _)) = FrameStore::open(memory, &WANTED) else { return Ok(false) };
        let reader = store.reader();
        let ids = reader.ids();
        for &id in &ids {
            let _ = reader.get(id);
        }
        let meta = SlotMeta {
            id: FrameId(1 << 61),
            source: SourceId(1),
            source_sequence: 0,
            wall_time_ns: 0,
            content_hash: [0; 16],
            tag: 0,
        };
        // It has to be of use still, whatever was in it.
        let used = store.put(0, meta, &image(9)).and_then(|_| store.commit());
        used.map_err(|error| format!("an opened store cannot be written: {error}"))?;
        match reader.get(meta.id) {
            Some(stored) if stored.pixels == image(9) => Ok(!ids.is_empty()),
            other => Err(format!("an opened store gives {other:?}")),
        }
    })
}

/// Where the parts of a file are that are not zeros: the geometry twice, the superblocks, the slots.
fn parts() -> Vec<(usize, usize)> {
    let slots = (0..3).map(|slot| ((4 + slot) * PAGE, 128 + 192));
    [(0, 256), (PAGE, 256), (2 * PAGE, 256), (3 * PAGE, 256)].into_iter().chain(slots).collect()
}

/// A file without its zeros, so that a change is a change of something: the parts one after the other.
fn condense(file: &[u8]) -> Vec<u8> {
    parts().into_iter().flat_map(|(at, length)| file[at..at + length].to_vec()).collect()
}

fn expand(condensed: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 7 * PAGE];
    let mut rest = condensed;
    for (at, length) in parts() {
        let (part, more) = rest.split_at(length.min(rest.len()));
        file[at..at + part.len()].copy_from_slice(part);
        rest = more;
    }
    // What is too long makes the file too long.
    file.extend_from_slice(rest);
    file
}

fn store_samples() -> Vec<Vec<u8>> {
    let memory = Memory(Arc::new(Mutex::new(Vec::new())));
    let geometry = WANTED.geometry(IDENTITY).expect("a small store");
    let mut store = FrameStore::create(memory.clone(), geometry).expect("memory has room");
    let mut samples = Vec::new();
    for id in 1..=5_u64 {
        let meta = SlotMeta {
            id: FrameId(id),
            source: SourceId(1),
            source_sequence: id,
            wall_time_ns: -1,
            content_hash: [id as u8; 16],
            tag: 2,
        };
        store.put(id as usize % 2, meta, &image(id)).expect("a slot is free");
        store.commit().expect("memory can be written");
        samples.push(condense(&memory.0.lock().expect("one thread")));
    }
    samples
}

fn seeded_crc(identity: &[u8], place: u64, bytes: &[u8]) -> [u8; 4] {
    let mut crc = crc32fast::Hasher::new();
    crc.update(identity);
    crc.update(&place.to_le_bytes());
    crc.update(bytes);
    crc.finalize().to_le_bytes()
}

/// Makes every checksum right: of each block under its own place, and of the pixels.
fn repair_store(bytes: &mut [u8]) {
    let whole: usize = parts().iter().map(|(_, length)| length).sum();
    if bytes.len() != whole {
        return;
    }
    let mut at = 0;
    for (index, (_, length)) in parts().into_iter().enumerate() {
        let part = &mut bytes[at..at + length];
        at += length;
        match index {
            0 | 3 => {
                let crc = seeded_crc(&[0; 16], u64::MAX - 2, &part[..252]);
                part[252..].copy_from_slice(&crc);
            }
            1 | 2 => {
                let crc = seeded_crc(&IDENTITY, u64::MAX - (index as u64 - 1), &part[..252]);
                part[252..].copy_from_slice(&crc);
            }
            _ if part[..128].iter().any(|byte| *byte != 0) => {
                let place = index as u64 - 4;
                let crc = seeded_crc(&IDENTITY, place, &part[128..]);
                part[76..80].copy_from_slice(&crc);
                let crc = seeded_crc(&IDENTITY, place, &part[..124]);
                part[124..128].copy_from_slice(&crc);
            }
            _ => {}
        }
    }
}

/// One generation in a folder, whose manifest is replaced.
fn manifest() -> Parse {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let generations = Generations::open(folder.path(), Keep::default()).expect("a folder of its own");
    let path = generations.write(1, &[("a", b"1"), ("b", b"22")], &serde_json::json!({})).expect("room").path;
    Box::new(move |bytes| {
        let _ = &folder;
        fs::write(path.join("MANIFEST.json"), bytes).map_err(|error| error.to_string())?;
        let found = generations.verify().map_err(|error| error.to_string())?;
        match found.as_slice() {
            [one] => Ok(one.damage.is_none()),
            other => Err(format!("{other:?}")),
        }
    })
}

fn manifest_samples() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let generations = Generations::open(folder.path(), Keep::default()).expect("a folder of its own");
    let meta = serde_json::json!({});
    let path = generations.write(1, &[("a", b"1"), ("b", b"22")], &meta).expect("room").path;
    vec![fs::read(path.join("MANIFEST.json")).expect("it was written")]
}

/// Makes its own hash right, where it is a manifest at all.
fn repair_manifest(bytes: &mut Vec<u8>) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Some(at) = text.rfind("\"blake3\": \"") else { return };
    let start = at + 11;
    let Some(length) = text[start..].find('"') else { return };
    let empty = [&text[..start], &text[start + length..]].concat();
    let hash = blake3::hash(empty.as_bytes()).to_hex();
    *bytes = [&text[..start], hash.as_str(), &text[start + length..]].concat().into_bytes();
}

fn trainer() -> Trainer {
    let preset = Preset { width: 1, side: 8, ..Preset::load("resnet18-w16").expect("it is built in") };
    Trainer::new(preset, &LearnSettings::default(), &candle_core::Device::Cpu, Seed(1)).expect("a tiny network")
}

/// The file of the weights, in a state that is valid otherwise.
fn weights() -> Parse {
    let mut trainer = trainer();
    let mut files = trainer.save().expect("a processor does not fail");
    Box::new(move |bytes| {
        files.iter_mut().filter(|(name, _)| name == MODEL_FILE).for_each(|(_, file)| *file = bytes.to_vec());
        Ok(trainer.restore(&files).is_ok())
    })
}

fn weights_samples() -> Vec<Vec<u8>> {
    let files = trainer().save().expect("a processor does not fail");
    files.into_iter().filter(|(name, _)| name == MODEL_FILE).map(|(_, bytes)| bytes).collect()
}

fn decode() -> Parse {
    let decoder = Decoder::new(&DecodeSettings { max_side_pixels: 256, max_pixels: 65_536, ..Default::default() });
    Box::new(move |bytes| match decoder.decode(bytes) {
        Ok(image) if image.pixels().len() == (image.width() * image.height() * 3) as usize => Ok(true),
        Ok(image) => Err(format!("{} x {} with {} bytes", image.width(), image.height(), image.pixels().len())),
        Err(error @ DecodeError::DecoderPanicked { .. }) => Err(error.to_string()),
        Err(_) => Ok(false),
    })
}

fn decode_samples() -> Vec<Vec<u8>> {
    let photo = ImageBuffer::from_fn(23, 17, |x, y| Rgb([(x * 11) as u8, (y * 13) as u8, (x * y) as u8]));
    let encoded = |image: DynamicImage, format| {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).expect("a picture can be encoded");
        bytes.into_inner()
    };
    let formats = [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Pnm];
    let mut samples: Vec<Vec<u8>> = formats.map(|format| encoded(photo.clone().into(), format)).into();
    let alpha = ImageBuffer::from_fn(9, 9, |x, y| Rgba([x as u8, y as u8, 3, (x * 20) as u8]));
    samples.extend([ImageFormat::Png, ImageFormat::WebP].map(|format| encoded(alpha.clone().into(), format)));
    let deep = ImageBuffer::<Luma<u16>, _>::from_fn(9, 9, |x, y| Luma([(x * y * 700) as u16]));
    samples.push(encoded(deep.into(), ImageFormat::Png));
    for (progressive, sampling) in [
        (false, jpeg_encoder::SamplingFactor::F_1_1),
        (false, jpeg_encoder::SamplingFactor::F_2_2),
        (true, jpeg_encoder::SamplingFactor::F_2_1),
    ] {
        let mut bytes = Vec::new();
        let mut encoder = jpeg_encoder::Encoder::new(&mut bytes, 80);
        encoder.set_progressive(progressive);
        encoder.set_sampling_factor(sampling);
        encoder.set_restart_interval(2);
        encoder.encode(photo.as_raw(), 23, 17, jpeg_encoder::ColorType::Rgb).expect("a picture can be encoded");
        samples.push(bytes);
    }
    samples
}

/// Makes the checksum of every chunk right, where it is a PNG file.
fn repair_png(bytes: &mut [u8]) {
    if !bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        return;
    }
    let mut at = 8;
    while let Some(head) = bytes.get(at..at + 8) {
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let Some(body) = bytes.get(at + 4..at + 8 + length) else { return };
        let crc = crc32fast::hash(body).to_be_bytes();
        let Some(place) = bytes.get_mut(at + 8 + length..at + 12 + length) else { return };
        place.copy_from_slice(&crc);
        at += 12 + length;
    }
}
