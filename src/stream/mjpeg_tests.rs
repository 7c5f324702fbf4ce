use jpeg_encoder::{ColorType, Encoder};

use super::*;

fn picture(shade: u8, thumbnail: Option<&[u8]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, 80);
    if let Some(thumbnail) = thumbnail {
        let segment: Vec<u8> = [b"Exif\0\0", thumbnail].concat();
        encoder.add_app_segment(1, segment).unwrap();
    }
    let pixels: Vec<u8> = (0..48 * 32 * 3).map(|at| (at as u8).wrapping_mul(31) ^ shade).collect();
    encoder.encode(&pixels, 48, 32, ColorType::Rgb).unwrap();
    bytes
}

async fn split(stream: &[u8], max_bytes: usize) -> (Vec<Bytes>, u64) {
    let mut splitter = Splitter::new(stream, max_bytes);
    let mut pictures = Vec::new();
    while let Some(picture) = splitter.next_picture().await.unwrap() {
        pictures.push(picture);
    }
    (pictures, splitter.damaged())
}

#[tokio::test]
async fn concatenated_pictures_come_out_one_by_one() {
    let pictures: Vec<_> = (0..50).map(|shade| picture(shade * 5, None)).collect();
    assert_eq!(split(&pictures.concat(), 1 << 20).await, (pictures.into_iter().map(Bytes::from).collect(), 0));
}

#[tokio::test]
async fn a_thumbnail_is_part_of_its_picture() {
    let whole = picture(9, Some(&picture(1, None)));
    let (pictures, damaged) = split(&[&whole[..], &whole].concat(), 1 << 20).await;
    assert_eq!((pictures.len(), damaged), (2, 0));
    assert_eq!(pictures[1], whole);
}

#[tokio::test]
async fn bytes_between_pictures_are_ignored() {
    let one = picture(9, None);
    let stream = [b"garbage\xff", &one[..], &[0; 100], &one[..], b"\xff"].concat();
    assert_eq!(split(&stream, 1 << 20).await, (vec![one.clone().into(), one.into()], 0));
}

/// Where the cut falls into a header segment whose length happens to end at a marker of the next picture, the two cannot be
/// told apart: then they come out as one, but the bytes of the whole one are never lost.
#[tokio::test]
async fn a_picture_cut_anywhere_costs_itself_only() {
    let (one, two) = (picture(9, None), picture(77, None));
    let scan = one.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
    for cut in 2..one.len() - 1 {
        let (pictures, damaged) = split(&[&one[..cut], &two[..]].concat(), 1 << 20).await;
        assert!(pictures.len() == 1 && pictures[0].ends_with(&two), "cut at {cut}: {pictures:?}");
        if cut > scan + 16 {
            assert_eq!((pictures[0].len(), damaged), (two.len(), 1), "cut at {cut}");
        }
    }
}

#[tokio::test]
async fn a_damaged_picture_does_not_yield_its_thumbnail() {
    let (whole, next) = (picture(9, Some(&picture(1, None))), picture(77, None));
    let (pictures, damaged) = split(&[&whole[..whole.len() - 40], &next[..]].concat(), 1 << 20).await;
    assert_eq!((pictures, damaged), (vec![next.into()], 1));
}

#[tokio::test]
async fn a_picture_over_the_limit_is_skipped() {
    let (small, mut large) = (picture(9, None), picture(1, None));
    large.splice(2..2, [0xff, 0xfe, 0xff, 0xff].into_iter().chain([0; 65533]));
    let (pictures, damaged) = split(&[&small[..], &large, &small].concat(), small.len()).await;
    assert_eq!(pictures, [Bytes::from(small.clone()), Bytes::from(small)]);
    assert!(damaged >= 1);
}

/// Arrives in pieces of any size: one byte at a time.
#[tokio::test]
async fn pieces_of_one_byte_make_the_same_pictures() {
    let one = picture(3, Some(&picture(1, None)));
    let stream = [&one[..], &one].concat();
    let (client, mut server) = tokio::io::duplex(1);
    let writer = tokio::spawn(async move {
        tokio::io::AsyncWriteExt::write_all(&mut server, &stream).await.unwrap();
    });
    let mut splitter = Splitter::new(client, 1 << 20);
    assert_eq!(splitter.next_picture().await.unwrap().unwrap(), one);
    assert_eq!(splitter.next_picture().await.unwrap().unwrap(), one);
    assert_eq!(splitter.next_picture().await.unwrap(), None);
    writer.await.unwrap();
}
