use std::thread::JoinHandle;

use tokio::net::UnixStream;

use super::*;
use crate::stream::client::{Address, Client, ClientError};
use crate::stream::wire::Reply;
use crate::stream::{FrameId, Intake, IntakeHandle, Next, QueueLimits, SourceId};

const MAX_BYTES: usize = 1 << 20;

/// A socket, its source running, and a consumer that numbers frames and refuses those that start with 'x'.
struct Rig {
    folder: tempfile::TempDir,
    handle: IntakeHandle,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<Result<(), StreamError>>,
    consumer: JoinHandle<Vec<Option<String>>>,
}

impl Rig {
    fn start(limits: SocketLimits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (mut intake, handle) = Intake::new();
        let inlet = handle.register(SourceId(1), "socket", QueueLimits { bytes: 64 << 10 });
        let socket = Socket::unix(&folder.path().join("in.sock"), MAX_BYTES).unwrap().with_limits(limits);
        let stop = CancellationToken::new();
        let running = tokio::spawn(Box::new(socket).run(inlet, stop.clone()));
        let consumer = std::thread::spawn(move || {
            let mut labels = Vec::new();
            loop {
                match intake.next_batch(16, Duration::from_secs(60)) {
                    Next::Frames(frames) => frames.into_iter().for_each(|frame| {
                        labels.push(frame.label.clone());
                        let id = FrameId(labels.len() as u64);
                        let refused = frame.bytes.starts_with(b"x");
                        frame.settle(if refused {
                            Verdict::refused("bad", "x")
                        } else {
                            Verdict::Accepted { id, task: None }
                        });
                    }),
                    Next::Idle => {}
                    Next::End => return labels,
                }
            }
        });
        Self { folder, handle, stop, running, consumer }
    }

    fn address(&self) -> Address {
        Address::Unix(self.folder.path().join("in.sock"))
    }

    async fn raw(&self) -> UnixStream {
        UnixStream::connect(self.folder.path().join("in.sock")).await.unwrap()
    }

    /// What the server says to these bytes, up to its end of the connection.
    async fn answer_to(&self, bytes: &[u8]) -> Notice {
        let mut stream = self.raw().await;
        stream.write_all(bytes).await.unwrap();
        match wire::read(&mut stream, MAX_BYTES).await.unwrap() {
            Some(Message::Error(notice)) => {
                assert!(wire::read(&mut stream, MAX_BYTES).await.unwrap().is_none(), "closed after the error");
                notice
            }
            other => panic!("{other:?} is no error frame"),
        }
    }

    fn refused(&self, code: &str) -> u64 {
        self.handle.reports()[0].refused_frames.get(code).copied().unwrap_or(0)
    }

    async fn stop(self) -> Vec<Option<String>> {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
        assert!(!self.folder.path().join("in.sock").exists(), "the socket file is removed");
        self.handle.close();
        tokio::task::spawn_blocking(|| self.consumer.join().unwrap()).await.unwrap()
    }
}

fn frame(image: &[u8]) -> Vec<u8> {
    let image = bytes::Bytes::copy_from_slice(image);
    wire::encode(&Message::Frame(ClientFrame { sequence: 1, captured_at_ns: None, label: None, image })).unwrap()
}

#[tokio::test]
async fn frames_are_answered_through_a_queue_much_smaller_than_they_are() {
    let rig = Rig::start(SocketLimits::default());
    let mut client = Client::connect(&rig.address()).await.unwrap();
    let mut answers = Vec::new();
    for at in 0..500 {
        let image = if at % 10 == 0 { vec![b'x'; 3000] } else { vec![b'a'; 3000] };
        answers.extend(client.send(image.into(), Some(format!("class {}", at % 3)), Some(at)).await.unwrap().replies);
    }
    answers.extend(client.finish().await.unwrap());
    answers.sort_by_key(|(sequence, _)| *sequence);
    assert_eq!(answers.iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(), (0..500).collect::<Vec<_>>());
    for (sequence, reply) in &answers {
        assert_eq!(matches!(reply, Reply::Refused(notice) if notice.code == "bad"), sequence % 10 == 0);
    }
    let labels = rig.stop().await;
    assert_eq!((labels.len(), labels[4].as_deref()), (500, Some("class 1")));
}

#[tokio::test]
async fn tcp_serves_the_same_and_only_on_loopback() {
    let outside = "0.0.0.0:0".parse().unwrap();
    assert_eq!(Socket::tcp(outside, MAX_BYTES).unwrap_err().code(), "not-loopback");
    let socket = Socket::tcp("127.0.0.1:0".parse().unwrap(), MAX_BYTES).unwrap();
    let address = socket.address().unwrap();
    assert_eq!(Socket::tcp(address, MAX_BYTES).unwrap_err().code(), "address-in-use");
    let (mut intake, handle) = Intake::new();
    let stop = CancellationToken::new();
    let inlet = handle.register(SourceId(1), "tcp", QueueLimits::default());
    let running = tokio::spawn(Box::new(socket).run(inlet, stop.clone()));
    let mut client = Client::connect(&Address::Tcp(address)).await.unwrap();
    client.send(vec![1].into(), None, None).await.unwrap();
    let consumer = tokio::task::spawn_blocking(move || {
        if let Next::Frames(frames) = intake.next_batch(1, Duration::from_secs(60)) {
            frames.into_iter().for_each(|frame| frame.settle(Verdict::Duplicate { id: FrameId(4) }));
        }
    });
    assert_eq!(client.replies().await.unwrap(), [(0, Reply::Duplicate { id: FrameId(4) })]);
    consumer.await.unwrap();
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn damage_is_named_counted_and_ends_its_connection_only() {
    let rig = Rig::start(SocketLimits::default());
    let mut good = Client::connect(&rig.address()).await.unwrap();
    good.send(vec![1].into(), None, None).await.unwrap();
    assert_eq!(rig.answer_to(b"GET / HTTP/1.1\r\n\r\n").await.code, "wire-magic");
    let mut damaged = frame(&[5; 100]);
    damaged[60] ^= 1;
    assert_eq!(rig.answer_to(&damaged).await.code, "wire-payload-checksum");
    damaged = frame(&[5; 100]);
    damaged[8] ^= 1;
    assert_eq!(rig.answer_to(&damaged).await.code, "wire-header-checksum");
    let ping = wire::encode(&Message::Pong).unwrap();
    assert_eq!(rig.answer_to(&ping).await.code, "wire-type");
    for code in ["wire-magic", "wire-payload-checksum", "wire-header-checksum", "wire-type"] {
        assert_eq!(rig.refused(code), 1, "{code}");
    }
    good.send(vec![1].into(), None, None).await.unwrap();
    good.finish().await.unwrap();
    assert_eq!(rig.stop().await.len(), 2);
}

#[tokio::test]
async fn a_frame_over_the_limit_is_refused_before_its_bytes_come() {
    let rig = Rig::start(SocketLimits::default());
    let header = &frame(&vec![0; 2 * MAX_BYTES])[..wire::HEADER_BYTES];
    let notice = rig.answer_to(header).await;
    assert!(notice.code == "too-many-bytes" && notice.detail.contains("limit"), "{notice:?}");
    rig.stop().await;
}

#[tokio::test]
async fn slow_clients_are_closed() {
    let short = Duration::from_millis(30);
    let rig = Rig::start(SocketLimits { first_byte: short, message: short, ..SocketLimits::default() });
    assert_eq!(rig.answer_to(b"").await.code, "wire-timeout");
    assert_eq!(rig.answer_to(b"LMP").await.code, "wire-timeout");
    assert_eq!(rig.answer_to(&frame(&[1; 100])[..50]).await.code, "wire-timeout");
    assert_eq!(rig.refused("wire-timeout"), 3);
    rig.stop().await;
}

#[tokio::test]
async fn a_connection_too_many_is_turned_away_and_a_stop_is_said() {
    let rig = Rig::start(SocketLimits { connections: 1, ..SocketLimits::default() });
    let mut first = rig.raw().await;
    first.write_all(&wire::encode(&Message::Ping).unwrap()).await.unwrap();
    assert_eq!(wire::read(&mut first, MAX_BYTES).await.unwrap(), Some(Message::Pong));
    let mut second = rig.raw().await;
    let Some(Message::Error(notice)) = wire::read(&mut second, MAX_BYTES).await.unwrap() else { panic!("turned away") };
    assert_eq!(notice.code, "too-many-connections");
    rig.stop().await;
    let Some(Message::Error(notice)) = wire::read(&mut first, MAX_BYTES).await.unwrap() else { panic!("told") };
    assert_eq!(notice.code, crate::stream::codes::SHUTTING_DOWN);
}

#[tokio::test]
async fn one_peer_may_not_take_every_connection() {
    let rig = Rig::start(SocketLimits { connections: 8, connections_per_peer: 2, ..SocketLimits::default() });
    let open = |mut stream: UnixStream| async move {
        stream.write_all(&wire::encode(&Message::Ping).unwrap()).await.unwrap();
        (wire::read(&mut stream, MAX_BYTES).await.unwrap(), stream)
    };
    // This process is one peer.
    let (first, _held) = open(rig.raw().await).await;
    let (second, given_up) = open(rig.raw().await).await;
    assert_eq!((first, second), (Some(Message::Pong), Some(Message::Pong)));
    let mut third = rig.raw().await;
    let Some(Message::Error(notice)) = wire::read(&mut third, MAX_BYTES).await.unwrap() else { panic!("turned away") };
    assert!(notice.code == "too-many-connections" && notice.detail.contains("2 of this peer"), "{notice:?}");
    drop(given_up);
    let again = async {
        loop {
            let mut stream = rig.raw().await;
            // May be turned away, and closed, before it has written.
            let _ = stream.write_all(&wire::encode(&Message::Ping).unwrap()).await;
            if wire::read(&mut stream, MAX_BYTES).await.is_ok_and(|message| message == Some(Message::Pong)) {
                return;
            }
        }
    };
    timeout(Duration::from_secs(20), again).await.expect("its place comes back");
    rig.stop().await;
}

#[tokio::test]
async fn with_drop_newest_a_full_queue_answers_at_once_with_a_hint_and_counts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.sock");
    let (mut intake, handle) = Intake::new();
    let inlet = handle.register(SourceId(1), "socket", QueueLimits { bytes: 20 << 10 });
    let socket = Socket::unix(&path, MAX_BYTES).unwrap().when_full(WhenFull::DropNewest);
    let stop = CancellationToken::new();
    let running = tokio::spawn(Box::new(socket).run(inlet, stop.clone()));
    let mut stream = UnixStream::connect(&path).await.unwrap();
    // Each takes a little more than 9 KiB with its overhead: two fit.
    let send = |sequence: u64| {
        let frame = ClientFrame { sequence, captured_at_ns: None, label: None, image: vec![1; 8 << 10].into() };
        wire::encode(&Message::Frame(frame)).unwrap()
    };
    for sequence in 1..=5 {
        stream.write_all(&send(sequence)).await.unwrap();
    }
    for expected in 3..=5 {
        let answer = wire::read(&mut stream, MAX_BYTES).await.unwrap();
        let Some(Message::Ack { sequence, reply: Reply::Refused(notice) }) = answer else {
            panic!("a refusal of {expected}, not {answer:?}")
        };
        assert_eq!((sequence, notice.code.as_str()), (expected, "queue-full"));
        assert_eq!(notice.retry_after, Some(Duration::from_secs(1)));
    }
    let Next::Frames(frames) = intake.next_batch(16, Duration::from_secs(20)) else { panic!("two frames") };
    assert_eq!(frames.len(), 2);
    frames.into_iter().for_each(|frame| frame.settle(Verdict::Accepted { id: FrameId(1), task: None }));
    for _ in 1..=2 {
        let answer = wire::read(&mut stream, MAX_BYTES).await.unwrap();
        assert!(matches!(answer, Some(Message::Ack { reply: Reply::Accepted { .. }, .. })), "{answer:?}");
    }
    let report = handle.reports().remove(0);
    assert_eq!((report.dropped_frames, report.accepted_frames, report.received_frames), (3, 2, 2));
    // Room has come back, and what was dropped is taken when it comes again.
    stream.write_all(&send(3)).await.unwrap();
    let again = tokio::task::spawn_blocking(move || (intake.next_batch(16, Duration::from_secs(20)), intake));
    let (next, intake) = again.await.unwrap();
    assert!(matches!(&next, Next::Frames(frames) if frames.len() == 1), "{next:?}");
    stop.cancel();
    drop((next, intake));
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_frame_that_is_skipped_is_checked_all_the_same() {
    async fn skip(bytes: Vec<u8>) -> Result<u64, WireError> {
        let mut reader = &bytes[1..];
        let header = wire::read_header(&mut reader, bytes[0], MAX_BYTES).await?;
        wire::skip_frame(&mut reader, header).await
    }
    let whole = frame(&[3; 10_000]);
    skip(whole.clone()).await.unwrap();
    let mut bad = whole.clone();
    bad[5_000] ^= 1;
    assert_eq!(skip(bad).await.unwrap_err().code(), "wire-payload-checksum");
    assert_eq!(skip(whole[..5_000].to_vec()).await.unwrap_err().code(), "wire-cut");
}

#[test]
fn only_the_socket_of_a_dead_process_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let (_listener, file) = bind_unix(&path).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o660);
    assert_eq!(bind_unix(&path).unwrap_err().code(), "socket-in-use");
    drop(file);
    assert!(!path.exists());
    std::fs::write(&path, "precious").unwrap();
    assert_eq!(bind_unix(&path).unwrap_err().code(), "not-a-socket");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[tokio::test]
async fn a_client_without_a_daemon_is_told_so() {
    let address: Address = "/nonexistent/in.sock".parse().unwrap();
    assert!(matches!(Client::connect(&address).await, Err(ClientError::Connect { .. })));
    assert_eq!("tcp:127.0.0.1:7".parse::<Address>().unwrap(), "127.0.0.1:7".parse().unwrap());
}
