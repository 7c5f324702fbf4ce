use proptest::prelude::*;

use super::*;

const LIMIT: usize = 1 << 20;

fn notices() -> impl Strategy<Value = Notice> {
    ("[a-z-]{0,64}", "\\PC{0,200}", proptest::option::of(1..u32::MAX)).prop_map(|(code, detail, retry)| Notice {
        code,
        detail,
        retry_after: retry.map(|ms| Duration::from_millis(ms.into())),
    })
}

fn messages() -> impl Strategy<Value = Message> {
    let captured = proptest::option::of(i64::MIN + 1..=i64::MAX);
    let label = proptest::option::of("[a-z0-9 ]{1,64}");
    let image = proptest::collection::vec(any::<u8>(), 0..300);
    let frame = (any::<u64>(), captured, label, image).prop_map(|(sequence, captured_at_ns, label, image)| {
        Message::Frame(ClientFrame { sequence, captured_at_ns, label, image: image.into() })
    });
    let reply = prop_oneof![
        (any::<u64>(), proptest::option::of(1..u32::MAX))
            .prop_map(|(id, task)| Reply::Accepted { id: FrameId(id), task }),
        any::<u64>().prop_map(|id| Reply::Duplicate { id: FrameId(id) }),
        notices().prop_map(Reply::Refused),
    ];
    prop_oneof![
        frame,
        (any::<u64>(), reply).prop_map(|(sequence, reply)| Message::Ack { sequence, reply }),
        notices().prop_map(Message::Error),
        Just(Message::Ping),
        Just(Message::Pong),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(message in messages()) {
        let bytes = encode(&message).unwrap();
        let (read, used) = decode(&bytes, LIMIT).unwrap().unwrap();
        prop_assert_eq!(read, message);
        prop_assert_eq!(used, bytes.len());
    }

    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode(&bytes, LIMIT);
    }

    /// Garbage behind correct checksums: what a hostile client would send.
    #[test]
    fn a_garbage_payload_never_panics(kind in 1..=5_u8, payload in proptest::collection::vec(any::<u8>(), 0..200)) {
        let kind = [Kind::Frame, Kind::Ack, Kind::Error, Kind::Ping, Kind::Pong][usize::from(kind) - 1];
        let _ = Message::parse(kind, payload.into());
    }

    #[test]
    fn every_damaged_byte_is_detected(message in messages(), at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
        let mut bytes = encode(&message).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        prop_assert!(decode(&bytes, LIMIT).is_err(), "byte {} of {:?}", at, message);
    }

    #[test]
    fn a_message_cut_short_waits_for_more(message in messages(), at in any::<prop::sample::Index>()) {
        let bytes = encode(&message).unwrap();
        let cut = at.index(bytes.len());
        prop_assert!(matches!(decode(&bytes[..cut], LIMIT), Ok(None)));
    }
}

#[test]
fn a_length_over_the_limit_is_refused_by_its_header_alone() {
    let header = Header::write(Kind::Frame, u32::MAX as usize).unwrap();
    assert!(matches!(decode(&header, LIMIT), Err(WireError::TooLong { length: 0xffff_ffff, limit: LIMIT })));
}

#[test]
fn a_frame_is_laid_out_as_drawn() {
    let frame = ClientFrame {
        sequence: 0x0102,
        captured_at_ns: Some(3),
        label: Some("cat".into()),
        image: Bytes::from_static(&[0xff, 0xd8]),
    };
    let bytes = encode(&Message::Frame(frame)).unwrap();
    assert_eq!(&bytes[..12], b"LMPD\x01\x01\x00\x00\x16\x00\x00\x00");
    assert_eq!(&bytes[16..24], [2, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(&bytes[24..32], [3, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(&bytes[32..38], b"\x03cat\xff\xd8");
    assert_eq!(bytes.len(), 16 + 22 + 4);
}

#[test]
fn texts_too_long_for_the_wire_are_cut_at_a_character() {
    let notice = Notice { code: "x".into(), detail: "ä".repeat(2000), retry_after: None };
    let bytes = encode(&Message::Error(notice)).unwrap();
    let Some((Message::Error(read), _)) = decode(&bytes, LIMIT).unwrap() else { panic!("an error frame") };
    assert_eq!(read.detail, "ä".repeat(MAX_DETAIL_BYTES / 2));
}

#[tokio::test]
async fn a_header_that_claims_much_costs_little() {
    // 1 MiB announced, ten bytes sent, end: the reader must not have filled a megabyte, and must say that it was cut.
    let mut bytes = Header::write(Kind::Frame, LIMIT).unwrap().to_vec();
    bytes.extend([7; 10]);
    assert!(matches!(read(&mut &bytes[..], LIMIT).await, Err(WireError::Cut)));
}
