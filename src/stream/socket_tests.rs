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
