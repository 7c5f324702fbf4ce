//! Hostile and odd images that this test makes itself, through every inlet: none ends the daemon, no damaged one is stored,
//! no odd one is turned away that is a picture.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::Cursor;
use std::time::Instant;

use image::{DynamicImage, GrayImage, ImageBuffer, ImageFormat, Luma, Rgb, Rgba};
use lumpd::stream::wire::{self, ClientFrame, Message, Reply};

use super::stored::{frames, hash_of};
use super::{Scratch, free_port, resident, seconds, settings, text, tiny_network};
use crate::pictures::{bmp, jpeg, picture, png, pnm, put, webp};
use crate::process::Daemon;

/// What has to become of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stored,
    Refused,
    /// Either is right, as long as nothing breaks.
    Either,
}

/// One file.
struct Sample {
    name: String,
    bytes: Vec<u8>,
    fate: Fate,
}

/// What a run came to. `wrong` has to be empty.
#[derive(Debug, Default)]
pub struct Tally {
    pub files: usize,
    pub inlets: usize,
    pub stored: u64,
    pub refused: BTreeMap<String, u64>,
    pub wrong: Vec<String>,
    /// Peak resident memory of the daemon, bytes.
    pub peak: u64,
    pub seconds: f64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { files, inlets, stored, refused, wrong, peak, seconds } = self;
        let peak = peak >> 20;
        write!(
            f,
            "{files} files through {inlets} inlets: {stored} stored, refused {refused:?}, {} wrong, peak memory {peak} MiB, \
             {seconds:.0} s",
            wrong.len()
        )
    }
}

fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).expect("a picture can be encoded");
    bytes.into_inner()
}

/// A chunk of a PNG file.
fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let body = [kind.as_slice(), data].concat();
    [&(data.len() as u32).to_be_bytes(), body.as_slice(), &crc32fast::hash(&body).to_be_bytes()].concat()
}

/// A PNG file of a header of its own and the data of a small one.
fn png_that_claims(width: u32, height: u32) -> Vec<u8> {
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    let whole = png(1);
    let end = 8 + 25;
    [&whole[..8], &chunk(b"IHDR", &header), &whole[end..]].concat()
}

/// The small PNG file with a chunk more after its header.
fn png_with(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let whole = png(2);
    [&whole[..33], &chunk(kind, data), &whole[33..]].concat()
}

fn jpeg_of(kind: jpeg_encoder::ColorType, channels: usize) -> Vec<u8> {
    let pixels: Vec<u8> = (0..48 * 48 * channels).map(|i| (i * 7) as u8).collect();
    let mut bytes = Vec::new();
    jpeg_encoder::Encoder::new(&mut bytes, 90).encode(&pixels, 48, 48, kind).expect("a picture can be encoded");
    bytes
}

/// An animation of two frames, in WebP's container.
fn animated_webp() -> Vec<u8> {
    let still = webp(3);
    let data = &still[12..];
    let frame = [&[0; 6][..], &[47, 0, 0, 47, 0, 0], &[100, 0, 0], &[0], data].concat();
    let part = |kind: &[u8; 4], data: &[u8]| {
        let padding = vec![0; data.len() % 2];
        [kind.as_slice(), &(data.len() as u32).to_le_bytes(), data, &padding].concat()
    };
    let body = [
        b"WEBP".to_vec(),
        part(b"VP8X", &[2, 0, 0, 0, 47, 0, 0, 47, 0, 0]),
        part(b"ANIM", &[0, 0, 0, 0, 0, 0]),
        part(b"ANMF", &frame),
        part(b"ANMF", &frame),
    ]
    .concat();
    part(b"RIFF", &body)
}

fn samples() -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut add = |name: &str, fate: Fate, bytes: Vec<u8>| samples.push(Sample { name: name.into(), bytes, fate });
    for (format, whole) in [("jpg", jpeg(10)), ("png", png(11)), ("webp", webp(12)), ("bmp", bmp(13)), ("ppm", pnm(14))]
    {
        for tenth in 0..10 {
            add(&format!("cut-{tenth}.{format}"), Fate::Refused, whole[..whole.len() * tenth / 10].to_vec());
        }
        add(&format!("cut-by-one.{format}"), Fate::Refused, whole[..whole.len() - 1].to_vec());
        add(&format!("followed-by-more.{format}"), Fate::Either, [whole.as_slice(), b"more"].concat());
        let mut middle = whole.clone();
        let half = whole.len() / 2;
        middle[half..(half + 64).min(whole.len())].fill(0xFF);
        add(&format!("overwritten.{format}"), Fate::Either, middle);
    }
    for (name, width, height) in [
        ("bomb-60000", 60_000, 60_000),
        ("bomb-most", u32::MAX, u32::MAX),
        ("bomb-1x65535", 1, 65_535),
        ("bomb-65535x1", 65_535, 1),
        ("bomb-0", 0, 0),
        ("bomb-8192", 8_192, 8_192),
        ("wrong-size", 4_000, 4_000),
    ] {
        add(&format!("{name}.png"), Fate::Refused, png_that_claims(width, height));
    }
    add("bomb.ppm", Fate::Refused, b"P6 60000 60000 255\n".to_vec());
    add("bomb-most.ppm", Fate::Refused, b"P6 4294967295 4294967295 65535\n\0\0\0".to_vec());
    add("bomb-long-number.ppm", Fate::Refused, [b"P6 ".as_slice(), &[b'9'; 100_000], b" 1 255\n"].concat());
    let mut wide = bmp(15);
    wide[18..22].copy_from_slice(&i32::MAX.to_le_bytes());
    add("bomb.bmp", Fate::Refused, wide);
    let mut negative = bmp(16);
    negative[18..22].copy_from_slice(&i32::MIN.to_le_bytes());
    add("negative.bmp", Fate::Refused, negative);
    let mut tall = jpeg(17);
    let frame = tall.windows(2).position(|pair| pair == [0xFF, 0xC0]).expect("a baseline JPEG");
    tall[frame + 5..frame + 9].fill(0xFF);
    add("bomb.jpg", Fate::Refused, tall);
    let mut lying = jpeg(18);
    let table = lying.windows(2).position(|pair| pair == [0xFF, 0xDB]).expect("a quantisation table");
    lying[table + 2..table + 4].fill(0xFF);
    add("wrong-length.jpg", Fate::Refused, lying);
    let mut lying = png(19);
    lying[33..37].copy_from_slice(&0x7FFF_FFFF_u32.to_be_bytes());
    add("wrong-length.png", Fate::Refused, lying);
    let mut lying = webp(20);
    lying[4..8].fill(0xFF);
    add("wrong-length.webp", Fate::Either, lying);
    add(
        "deflate-bomb-text.png",
        Fate::Either,
        png_with(b"zTXt", &[b"a\0\0".as_slice(), &[0x78, 0x9C], &[0; 50_000]].concat()),
    );
    add(
        "colour-profile.png",
        Fate::Either,
        png_with(b"iCCP", &[b"x\0\0".as_slice(), &[0x78, 0x9C, 3, 0, 0, 0, 0, 1]].concat()),
    );

    add(
        "sixteen-bits.png",
        Fate::Stored,
        encoded(
            ImageBuffer::<Rgb<u16>, _>::from_fn(40, 30, |x, y| Rgb([x as u16 * 900, y as u16 * 900, 7])),
            ImageFormat::Png,
        ),
    );
    add(
        "grey-sixteen-bits.png",
        Fate::Stored,
        encoded(ImageBuffer::<Luma<u16>, _>::from_fn(40, 30, |x, y| Luma([(x * y) as u16 * 50])), ImageFormat::Png),
    );
    add(
        "alpha.png",
        Fate::Stored,
        encoded(ImageBuffer::from_fn(40, 30, |x, y| Rgba([9, x as u8, y as u8, (x * 6) as u8])), ImageFormat::Png),
    );
    add(
        "alpha.webp",
        Fate::Stored,
        encoded(ImageBuffer::from_fn(40, 30, |x, y| Rgba([9, y as u8, x as u8, (y * 8) as u8])), ImageFormat::WebP),
    );
    add("grey.png", Fate::Stored, encoded(GrayImage::from_fn(40, 30, |x, y| Luma([(x * y) as u8])), ImageFormat::Png));
    add("one-pixel.png", Fate::Stored, encoded(ImageBuffer::from_pixel(1, 1, Rgb([1_u8, 2, 3])), ImageFormat::Png));
    add(
        "one-line.png",
        Fate::Stored,
        encoded(ImageBuffer::from_fn(8_000, 1, |x, _| Rgb([x as u8, 2, 3])), ImageFormat::Png),
    );
    add(
        "one-column.png",
        Fate::Stored,
        encoded(ImageBuffer::from_fn(1, 8_000, |_, y| Rgb([y as u8, 2, 4])), ImageFormat::Png),
    );
    add("cmyk.jpg", Fate::Stored, jpeg_of(jpeg_encoder::ColorType::Cmyk, 4));
    add("ycck.jpg", Fate::Stored, jpeg_of(jpeg_encoder::ColorType::CmykAsYcck, 4));
    add("grey.jpg", Fate::Stored, jpeg_of(jpeg_encoder::ColorType::Luma, 1));
    add("animated.webp", Fate::Either, animated_webp());
    add("animated.png", Fate::Either, png_with(b"acTL", &[0, 0, 0, 2, 0, 0, 0, 0]));
    add("wrong-ending.txt", Fate::Stored, encoded(picture(21), ImageFormat::Png));
    add("not-a-picture.png", Fate::Refused, vec![0x5A; 3_000]);
    add("empty.png", Fate::Refused, Vec::new());
    samples
}

/// Sends every sample through the folder, the sockets and HTTP, each to a daemon of its own memory.
pub fn run() -> Tally {
    let start = Instant::now();
    let samples = samples();
    let mut tally = Tally { files: samples.len(), inlets: 4, ..Tally::default() };
    for inlet in ["folder", "unix", "tcp", "http"] {
        through(inlet, &samples, &mut tally);
    }
    tally.seconds = seconds(start);
    tally
}

fn through(inlet: &str, samples: &[Sample], tally: &mut Tally) {
    let scratch = Scratch::new();
    let (folder, socket, port) = (scratch.path().join("in"), scratch.path().join("frames.sock"), free_port());
    fs::create_dir(&folder).expect("a folder can be made");
    let (network, tcp) = (tiny_network(scratch.path()), format!("127.0.0.1:{port}"));
    let mut arguments: Vec<String> =
        ["--watch", text(&folder), "--unix", text(&socket), "--tcp", &tcp].map(str::to_owned).into();
    arguments.extend(settings([network.as_str(), "evaluate.holdout_ratio=0", "log.filter=error"]));
    if inlet == "folder" {
        samples.iter().for_each(|sample| _ = put(&folder, &sample.name, &sample.bytes));
    }
    let mut daemon = Daemon::start(&scratch.path().join("state"), &arguments);
    match inlet {
        "folder" => {
            // Two of them have the same bytes: an empty file and one cut at nothing.
            daemon.wait("every file to be decided", |daemon| {
                let source = daemon.source("watch-1");
                let refused: u64 =
                    source["refused"].as_object().map_or(0, |codes| codes.values().filter_map(|n| n.as_u64()).sum());
                source["accepted"].as_u64().unwrap_or(0) + source["duplicates"].as_u64().unwrap_or(0) + refused
                    >= samples.len() as u64
            });
            let source = daemon.source("watch-1");
            for (code, count) in source["refused"].as_object().expect("a table") {
                *tally.refused.entry(code.clone()).or_default() += count.as_u64().unwrap_or(0);
            }
        }
        "http" => {
            for sample in samples {
                let answer = daemon.post_image("/v1/images", &sample.bytes);
                if answer.status >= 500 {
                    tally.wrong.push(format!("http {}: status {}", sample.name, answer.status));
                }
                if answer.status >= 400 {
                    let code = answer.json()["code"].as_str().unwrap_or("?").to_owned();
                    *tally.refused.entry(code).or_default() += 1;
                }
            }
        }
        _ => {
            let stream: Box<dyn ReadWrite> = match inlet {
                "unix" => Box::new(std::os::unix::net::UnixStream::connect(&socket).expect("it listens")),
                _ => Box::new(std::net::TcpStream::connect(&tcp).expect("it listens")),
            };
            over_socket(stream, samples, tally);
        }
    }
    tally.peak = tally.peak.max(resident(daemon.pid(), true));
    assert_eq!(daemon.stop().0, Some(0), "{inlet}");
    let stored = frames(&scratch.path().join("state/replay.buf"));
    tally.stored += stored.len() as u64;
    for Sample { name, bytes, fate } in samples {
        let there = stored.contains_key(&hash_of(bytes));
        match fate {
            Fate::Stored if !there => tally.wrong.push(format!("{inlet} {name}: not stored")),
            Fate::Refused if there => tally.wrong.push(format!("{inlet} {name}: stored")),
            _ => {}
        }
    }
}

trait ReadWrite: std::io::Read + std::io::Write {}
impl<T: std::io::Read + std::io::Write> ReadWrite for T {}

/// One after the other; each has to be answered.
fn over_socket(mut stream: Box<dyn ReadWrite>, samples: &[Sample], tally: &mut Tally) {
    for (number, sample) in samples.iter().enumerate() {
        let sequence = number as u64;
        let frame = ClientFrame { sequence, captured_at_ns: None, label: None, image: sample.bytes.clone().into() };
        let message = wire::encode(&Message::Frame(frame)).expect("a small frame can be encoded");
        stream.write_all(&message).expect("the daemon reads on");
        let mut bytes = Vec::new();
        let answer = loop {
            if let Some((answer, _)) = wire::decode(&bytes, wire::MAX_REPLY_BYTES).expect("a whole answer") {
                break answer;
            }
            let mut part = [0; 2048];
            let count = stream.read(&mut part).expect("the daemon answers");
            assert!(count > 0, "the connection was closed at {}", sample.name);
            bytes.extend_from_slice(&part[..count]);
        };
        match answer {
            Message::Ack { sequence: answered, reply } if answered == sequence => {
                if let Reply::Refused(notice) = reply {
                    *tally.refused.entry(notice.code).or_default() += 1;
                }
            }
            other => tally.wrong.push(format!("{}: {other:?}", sample.name)),
        }
    }
}

#[test]
fn hostile_and_odd_images_do_no_harm_through_any_inlet() {
    let tally = run();
    println!("{tally}");
    assert!(tally.wrong.is_empty(), "{:#?}", tally.wrong);
    assert!(!tally.refused.contains_key("decoder-panicked"), "{tally}");
    assert!(tally.peak <= 256 << 20, "{tally}");
}
