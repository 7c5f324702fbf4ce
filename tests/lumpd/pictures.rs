//! Pictures to feed: every number another one, in every format that is taken.

use std::fs::{self, File};
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};

/// Width and height, pixels: not the encoder's, so that resizing is part of every test.
const SIDE: u32 = 48;

/// Blocks of colour that depend on the number alone.
pub fn picture(number: u64) -> RgbImage {
    RgbImage::from_fn(SIDE, SIDE, |x, y| {
        let block = u64::from(y / 8 * 6 + x / 8);
        let bits = mix(number.wrapping_mul(1_000_003).wrapping_add(block));
        let [red, green, blue, ..] = bits.to_le_bytes();
        Rgb([red, green, blue])
    })
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
fn mix(number: u64) -> u64 {
    let z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn encoded(number: u64, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    DynamicImage::ImageRgb8(picture(number)).write_to(&mut bytes, format).expect("a picture can be encoded");
    bytes.into_inner()
}

pub fn png(number: u64) -> Vec<u8> {
    encoded(number, ImageFormat::Png)
}

pub fn webp(number: u64) -> Vec<u8> {
    encoded(number, ImageFormat::WebP)
}

pub fn bmp(number: u64) -> Vec<u8> {
    encoded(number, ImageFormat::Bmp)
}

pub fn pnm(number: u64) -> Vec<u8> {
    encoded(number, ImageFormat::Pnm)
}

pub fn jpeg(number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    jpeg_encoder::Encoder::new(&mut bytes, 90)
        .encode(picture(number).as_raw(), SIDE as u16, SIDE as u16, jpeg_encoder::ColorType::Rgb)
        .expect("a picture can be encoded");
    bytes
}

/// Writes a file that has stood still for an hour, so that a scan takes it at once.
pub fn put(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("a folder can be made");
    fs::write(&path, bytes).expect("a file can be written");
    let old = SystemTime::now() - Duration::from_secs(3600);
    File::options().append(true).open(&path).and_then(|file| file.set_modified(old)).expect("its time can be set");
    path
}

/// Writes a file under a name that is not looked at, and renames it.
pub fn move_in(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let part = put(folder, &format!("{name}.part"), bytes);
    let path = folder.join(name);
    fs::rename(part, &path).expect("a file can be renamed");
    path
}

/// A folder of PNG files with the pictures of these numbers, named in their order.
pub fn folder_of(folder: &Path, numbers: impl IntoIterator<Item = u64>) {
    for number in numbers {
        put(folder, &format!("{number:05}.png"), &png(number));
    }
}
