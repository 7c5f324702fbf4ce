use image::{ExtendedColorType, ImageEncoder};
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};

use super::*;

const FORMATS: [ImageFormat; 4] = [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Pnm];

fn decoder() -> Decoder {
    Decoder::new(&DecodeSettings::default())
}

fn photo(width: u32, height: u32) -> image::RgbImage {
    image::RgbImage::from_fn(width, height, |x, y| {
        image::Rgb([(x * 5 + y) as u8, (y * 3) as u8, (x ^ y).wrapping_mul(37) as u8])
    })
}

fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn jpeg(width: u16, height: u16, progressive: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, 90);
    encoder.set_progressive(progressive);
    encoder.set_sampling_factor(SamplingFactor::F_2_2);
    encoder.encode(photo(width.into(), height.into()).as_raw(), width, height, ColorType::Rgb).unwrap();
    bytes
}

fn code(bytes: &[u8]) -> &'static str {
    decoder().decode(bytes).unwrap_err().code()
}

#[test]
fn lossless_formats_give_their_exact_pixels() {
    let photo = photo(37, 23);
    for format in FORMATS {
        let image = decoder().decode(&encoded(photo.clone(), format)).unwrap();
        assert_eq!((image.width(), image.height()), (37, 23), "{format:?}");
        assert_eq!(image.pixels(), photo.as_raw(), "{format:?}");
    }
}

#[test]
fn a_header_says_how_many_pixels_come() {
    for file in FORMATS.iter().map(|format| encoded(photo(61, 47), *format)).chain([jpeg(61, 47, true)]) {
        assert_eq!(claimed_pixels(&file), Some(61 * 47));
        assert_eq!(claimed_pixels(&file[..10]), None);
    }
    assert_eq!(claimed_pixels(b"{\"id\": 3}"), None);
}

#[test]
fn jpeg_gives_nearly_its_pixels() {
    let photo = photo(64, 48);
    let mut bytes = Vec::new();
    Encoder::new(&mut bytes, 100).encode(photo.as_raw(), 64, 48, ColorType::Rgb).unwrap();
    let image = decoder().decode(&bytes).unwrap();
    let worst = image.pixels().iter().zip(photo.as_raw()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(worst <= 8, "{worst}");
}

#[test]
fn every_truncation_of_every_format_is_refused() {
    let mut files: Vec<_> = FORMATS.iter().map(|format| encoded(photo(61, 47), *format)).collect();
    files.extend([jpeg(61, 47, false), jpeg(61, 47, true)]);
    for format in [ImageFormat::Png, ImageFormat::Bmp] {
        files.push(encoded(DynamicImage::from(photo(61, 47)).to_rgba8(), format));
    }
    files.push(encoded(DynamicImage::from(photo(61, 47)).to_luma8(), ImageFormat::Pnm));
    for file in files {
        assert!(decoder().decode(&file).is_ok());
        let step = (file.len() / 150).max(1);
        let tail = file.len().saturating_sub(40)..file.len();
        for cut in (1..file.len()).step_by(step).chain(tail) {
            assert!(decoder().decode(&file[..cut]).is_err(), "{:02x?}: {cut} of {}", &file[..4], file.len());
        }
    }
}

#[test]
fn a_cut_image_is_called_truncated() {
    for file in FORMATS.iter().map(|format| encoded(photo(61, 47), *format)).chain([jpeg(61, 47, false)]) {
        assert_eq!(code(&file[..file.len() / 2]), "truncated-image", "{:02x?}", &file[..4]);
        assert_eq!(code(&file[..file.len() - 1]), "truncated-image", "{:02x?}", &file[..4]);
    }
}

#[test]
fn bytes_after_the_end_are_padding() {
    for file in FORMATS.iter().map(|format| encoded(photo(61, 47), *format)).chain([jpeg(61, 47, false)]) {
        assert!(decoder().decode(&[&file[..], &[0; 1000]].concat()).is_ok(), "{:02x?}", &file[..4]);
    }
}

#[test]
fn the_end_of_a_thumbnail_is_not_the_end_of_the_picture() {
    let thumbnail = jpeg(16, 16, false);
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, 90);
    encoder.add_app_segment(1, [b"Exif\0\0", &thumbnail[..]].concat()).unwrap();
    encoder.encode(photo(61, 47).as_raw(), 61, 47, ColorType::Rgb).unwrap();
    assert_eq!(decoder().decode(&bytes).unwrap().width(), 61);
    for cut in 2..bytes.len() {
        assert!(decoder().decode(&bytes[..cut]).is_err(), "{cut} of {}", bytes.len());
    }
    // Several pictures in one file (MPO): the first counts.
    assert_eq!(decoder().decode(&[&bytes[..], &thumbnail].concat()).unwrap().width(), 61);
}

#[test]
fn not_strict_takes_what_is_there_of_a_cut_jpeg() {
    let lenient = Decoder::new(&DecodeSettings { strict: false, ..DecodeSettings::default() });
    let file = jpeg(61, 47, false);
    assert_eq!(lenient.decode(&file[..file.len() * 3 / 4]).unwrap().height(), 47);
}

fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut chunk = [&b"IHDR"[..], &width.to_be_bytes(), &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    let checksum = crc32fast::hash(&chunk);
    chunk.extend(checksum.to_be_bytes());
    let end = [0, 0, 0, 0, b'I', b'E', b'N', b'D', 0xae, 0x42, 0x60, 0x82];
    [&b"\x89PNG\r\n\x1a\n\0\0\0\x0d"[..], &chunk, &[0, 0, 0, 0], b"IDAT\x35\xaf\x06\x1e", &end].concat()
}

#[test]
fn bombs_are_refused_by_their_headers() {
    assert_eq!(code(&png_header(60_000, 60_000)), "too-large");
    assert_eq!(code(&png_header(1, 65_535)), "too-large");
    // Within both sides, over the number of pixels.
    assert_eq!(code(&png_header(8000, 8000)), "too-large");
    let message = decoder().decode(&png_header(60_000, 60_000)).unwrap_err().to_string();
    assert!(message.contains("60000x60000") && message.contains("max_side_pixels = 8192"), "{message}");

    let mut large = jpeg(16, 16, false);
    let frame = large.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    large[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xff, 0, 1]);
    assert_eq!(code(&large), "too-large");

    let mut bmp = encoded(photo(16, 16), ImageFormat::Bmp);
    bmp[18..22].copy_from_slice(&60_000_i32.to_le_bytes());
    assert_eq!(code(&bmp), "too-large");
    assert_eq!(code(b"P6\n60000 60000\n255\n"), "too-large");
    assert!(decoder().decode(b"P5\n99999999999 1\n255\n0").is_err());
}

#[test]
fn grey_alpha_and_deep_pixels_become_rgb() {
    let grey = image::GrayImage::from_fn(9, 7, |x, y| image::Luma([(x * y) as u8]));
    for format in FORMATS {
        let image = decoder().decode(&encoded(DynamicImage::from(grey.clone()).to_rgb8(), format)).unwrap();
        assert!(image.pixels().chunks(3).zip(grey.as_raw()).all(|(rgb, grey)| rgb == [*grey; 3]), "{format:?}");
    }
    let image = decoder().decode(&encoded(grey, ImageFormat::Png)).unwrap();
    assert_eq!(image.pixels().len(), 9 * 7 * 3);

    let deep = image::ImageBuffer::<image::Rgb<u16>, _>::from_pixel(3, 3, image::Rgb([0xffff, 0x8080, 0]));
    assert_eq!(decoder().decode(&encoded(deep, ImageFormat::Png)).unwrap().pixels()[..3], [255, 128, 0]);

    let mut clear = image::RgbaImage::from_pixel(2, 1, image::Rgba([200, 100, 50, 0]));
    clear.put_pixel(1, 0, image::Rgba([200, 100, 50, 128]));
    for format in [ImageFormat::Png, ImageFormat::WebP] {
        let image = decoder().decode(&encoded(clear.clone(), format)).unwrap();
        assert_eq!(image.pixels(), [0, 0, 0, 100, 50, 25], "{format:?}");
    }
}

#[test]
fn grey_and_cmyk_jpegs_become_rgb() {
    let mut grey = Vec::new();
    Encoder::new(&mut grey, 100).encode(&[77; 64], 8, 8, ColorType::Luma).unwrap();
    assert!(decoder().decode(&grey).unwrap().pixels().iter().all(|value| value.abs_diff(77) <= 2));
    for colour in [ColorType::Cmyk, ColorType::CmykAsYcck] {
        let mut cmyk = Vec::new();
        let ink: Vec<u8> = [0, 0, 0, 0].repeat(64);
        Encoder::new(&mut cmyk, 100).encode(&ink, 8, 8, colour).unwrap();
        assert_eq!(decoder().decode(&cmyk).unwrap().pixels().len(), 8 * 8 * 3, "{colour:?}");
    }
}

#[test]
fn what_is_no_image_is_named() {
    assert_eq!(code(b""), "empty");
    assert_eq!(code(b"hello"), "not-an-image");
    assert_eq!(code(b"BMW is no bitmap"), "not-an-image");
    assert_eq!(code(b"\xff\xd8"), "truncated-image");
    for (bytes, name) in [
        (&b"GIF89a......"[..], "GIF"),
        (b"II*\0........", "TIFF"),
        (b"\0\0\0\x18ftypheic....", "HEIC"),
        (b"\0\0\0\x18ftypavif....", "AVIF"),
    ] {
        let error = decoder().decode(bytes).unwrap_err();
        assert_eq!(error, DecodeError::UnsupportedFormat { format: name });
    }
    let small = Decoder::new(&DecodeSettings { max_bytes: 10, ..DecodeSettings::default() });
    assert_eq!(small.decode(&[0xff; 11]).unwrap_err(), DecodeError::TooManyBytes { bytes: 11, limit: 10 });
}

#[test]
fn the_name_of_a_file_counts_for_nothing_and_damage_for_much() {
    let mut bytes = Vec::new();
    let rgb = photo(20, 20);
    image::codecs::png::PngEncoder::new(&mut bytes).write_image(&rgb, 20, 20, ExtendedColorType::Rgb8).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    assert_eq!(code(&bytes), "corrupt-image");
}

#[test]
fn random_damage_never_gets_past_the_limits() {
    // A fixed sequence: the same damage in every run.
    let mut state = 1_u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    for file in FORMATS.iter().map(|format| encoded(photo(31, 17), *format)).chain([jpeg(31, 17, true)]) {
        for _ in 0..300 {
            let mut damaged = file.clone();
            for _ in 0..=random() % 4 {
                let at = random() % damaged.len();
                damaged[at] = random() as u8;
            }
            if let Ok(image) = decoder().decode(&damaged) {
                assert!(image.width() <= 8192 && image.height() <= 8192);
            }
        }
    }
}
