use super::*;
use crate::stream::{FrameId, Origin, Verdict};

fn draft(bytes: usize) -> Draft {
    Draft::new(Origin::Peer { name: "test".into(), sequence: 0 }, vec![0; bytes])
}

fn drain(intake: &mut Intake, max: usize) -> Vec<Frame> {
    match intake.next_batch(max, Duration::ZERO) {
        Next::Frames(frames) => frames,
        _ => Vec::new(),
    }
}

#[test]
fn a_flood_does_not_starve_the_light_sources() {
    let (mut intake, handle) = Intake::new();
    let limits = QueueLimits { bytes: 64 << 20 };
    let flood = handle.register(SourceId(0), "flood", limits);
    let light: Vec<_> = (1..10).map(|id| handle.register(SourceId(id), "light", limits)).collect();
    let mut receipts: Vec<_> = (0..1000).map(|_| flood.try_offer(draft(60_000)).unwrap()).collect();
    for inlet in &light {
        receipts.extend((0..10).map(|_| inlet.try_offer(draft(60_000)).unwrap()));
    }
    // Ten equal sources: by the time the flood has sent 11 frames every light source has sent its ten.
    let first: Vec<_> = drain(&mut intake, 110).iter().map(|frame| frame.source.0).collect();
    for id in 1..10 {
        assert!(first.iter().filter(|source| **source == id).count() >= 9, "source {id} got its share: {first:?}");
    }
}

#[test]
fn shares_are_counted_in_bytes() {
    let (mut intake, handle) = Intake::new();
    let limits = QueueLimits { bytes: 512 << 20 };
    let large = handle.register(SourceId(0), "large", limits);
    let small = handle.register(SourceId(1), "small", limits);
    let mut receipts: Vec<_> = (0..100).map(|_| large.try_offer(draft(1_000_000)).unwrap()).collect();
    receipts.extend((0..4000).map(|_| small.try_offer(draft(9_000)).unwrap()));
    let frames = drain(&mut intake, 1000);
    let bytes = |id| frames.iter().filter(|frame| frame.source.0 == id).map(|frame| frame.bytes.len()).sum::<usize>();
    assert!(bytes(0) < 2 * bytes(1) + 1_000_000 && bytes(1) < 2 * bytes(0) + 1_000_000, "{} {}", bytes(0), bytes(1));
}

#[test]
fn frames_of_one_source_keep_their_order() {
    let (mut intake, handle) = Intake::new();
    let inlet = handle.register(SourceId(1), "one", QueueLimits::default());
    let mut receipts = Vec::new();
    for sequence in 0..100 {
        let origin = Origin::Peer { name: "x".into(), sequence };
        receipts.push(inlet.try_offer(Draft::new(origin, vec![0; 9000 + 500 * (sequence as usize % 7)])).unwrap());
    }
    let mut seen = Vec::new();
    while seen.len() < 100 {
        seen.extend(drain(&mut intake, 7).into_iter().map(|frame| match frame.origin {
            Origin::Peer { sequence, .. } => sequence,
            Origin::File(_) => unreachable!("no files here"),
        }));
    }
    assert!(seen.is_sorted());
}

#[test]
fn room_comes_back_when_a_frame_is_settled_and_not_before() {
    let (mut intake, handle) = Intake::new();
    let inlet = handle.register(SourceId(1), "one", QueueLimits { bytes: 10_000 });
    let mut receipt = inlet.try_offer(draft(8_000)).unwrap();
    assert_eq!(inlet.try_offer(draft(8_000)).unwrap_err(), Rejected::Full);
    let mut frames = drain(&mut intake, 1);
    assert_eq!(inlet.try_offer(draft(8_000)).unwrap_err(), Rejected::Full);
    frames.remove(0).settle(Verdict::Accepted { id: FrameId(5), task: Some(1) });
    assert_eq!(receipt.try_verdict(), Some(Verdict::Accepted { id: FrameId(5), task: Some(1) }));
    let _second = inlet.try_offer(draft(8_000)).unwrap();
    let report = inlet.report();
    assert_eq!((report.received_frames, report.accepted_frames, report.dropped_frames), (2, 1, 2));
    assert_eq!((report.queued_frames, report.queued_bytes), (1, 8_000));
}

#[test]
fn a_frame_larger_than_the_queue_passes_alone() {
    let (mut intake, handle) = Intake::new();
    let inlet = handle.register(SourceId(1), "one", QueueLimits { bytes: 10_000 });
    let _large = inlet.try_offer(draft(50_000)).unwrap();
    assert_eq!(inlet.try_offer(draft(1)).unwrap_err(), Rejected::Full);
    assert_eq!(drain(&mut intake, 1).len(), 1);
}

#[test]
fn a_dropped_frame_is_answered_and_counted() {
    let (mut intake, handle) = Intake::new();
    let inlet = handle.register(SourceId(1), "one", QueueLimits::default());
    let mut receipt = inlet.try_offer(draft(10)).unwrap();
    drop(drain(&mut intake, 1));
    assert!(matches!(receipt.try_verdict(), Some(Verdict::Refused { code: codes::SHUTTING_DOWN, .. })));
    assert_eq!(handle.reports()[0].refused_frames[codes::SHUTTING_DOWN], 1);
}

#[test]
fn a_closed_intake_hands_out_what_waits_and_then_ends() {
    let (mut intake, handle) = Intake::new();
    let inlet = handle.register(SourceId(1), "one", QueueLimits::default());
    let _receipt = inlet.try_offer(draft(10)).unwrap();
    assert!(matches!(intake.next_batch(8, Duration::ZERO), Next::Frames(frames) if frames.len() == 1));
    assert!(matches!(intake.next_batch(8, Duration::ZERO), Next::Idle));
    handle.close();
    assert!(matches!(intake.next_batch(8, Duration::from_secs(60)), Next::End));
    assert_eq!(inlet.try_offer(draft(10)).unwrap_err(), Rejected::Closed);
}

#[tokio::test]
async fn a_full_queue_blocks_its_sender_until_there_is_room() {
    let (mut intake, handle) = Intake::new();
    let inlet = handle.register(SourceId(1), "one", QueueLimits { bytes: 10_000 });
    let _first = inlet.offer(draft(8_000)).await.unwrap();
    let waiting = tokio::spawn({
        let inlet = inlet.clone();
        async move { inlet.offer(draft(8_000)).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(inlet.report().received_frames, 1);
    drop(drain(&mut intake, 1));
    waiting.await.unwrap().unwrap();
    assert_eq!(inlet.report().received_frames, 2);
}

#[tokio::test]
async fn dropping_the_intake_frees_every_sender() {
    let (intake, handle) = Intake::new();
    let inlet = handle.register(SourceId(1), "one", QueueLimits { bytes: 10_000 });
    let receipt = inlet.offer(draft(8_000)).await.unwrap();
    drop(intake);
    assert_eq!(inlet.offer(draft(8_000)).await.unwrap_err(), Rejected::Closed);
    assert!(matches!(receipt.await, Verdict::Refused { code: codes::SHUTTING_DOWN, .. }));
}
