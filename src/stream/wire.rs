//! The wire format of the sockets, byte by byte. All numbers are little-endian; CRC-32 is that of IEEE 802.3.
//!
//! Every message:
//!
//! ```text
//! offset  bytes
//!      0      4  magic "LMPD" (0x44504d4c)
//!      4      1  version, 1
//!      5      1  type: 1 frame, 2 ack, 3 error, 4 ping, 5 pong
//!      6      2  flags, 0
//!      8      4  length of the payload, L
//!     12      4  CRC-32 of bytes 0..12
//!     16      L  payload
//!   16+L      4  CRC-32 of the payload
//! ```
//!
//! Payload of a frame (client to server):
//!
//! ```text
//!      0      8  sequence: the client's number of this frame, any; the ack repeats it
//!      8      8  captured at, nanoseconds since the Unix epoch, signed; the smallest number where unknown
//!     16      1  length of the label, N, 0 to 64
//!     17      N  label, UTF-8 (for evaluation only)
//!   17+N   rest  the encoded image
//! ```
//!
//! Payload of an ack (server to client, in the order of decision):
//!
//! ```text
//!      0      8  sequence
//!      8      8  frame id, 0 where refused
//!     16      4  number of the open task, 0 where none
//!     20      4  milliseconds after which a later try may do, 0 where it never will
//!     24      1  status: 1 accepted, 2 duplicate, 3 refused
//!     25      1  length of the code, C
//!     26      2  length of the detail, D
//!     28    C+D  code and detail, UTF-8; both empty unless refused
//! ```
//!
//! Payload of an error (server to client; it concerns the connection, which is then closed): bytes 20.. of an ack, status 3.
//! Ping and pong have empty payloads. A client may have many frames in flight; the server stops reading at its window.
//!
//! This file only parses and writes bytes; it never allocates by a length that has not arrived. `socket` and `client` speak it.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::frame::{FrameId, MAX_LABEL_BYTES, Verdict};

/// Bytes of a message before its payload.
pub const HEADER_BYTES: usize = 16;
/// Bytes of a frame's payload before label and image.
pub const FRAME_HEAD_BYTES: usize = 17;

const MAGIC: [u8; 4] = *b"LMPD";
const VERSION: u8 = 1;
const CRC_BYTES: usize = 4;
const ACK_HEAD_BYTES: usize = 28;
/// Longest code and detail of a refusal; longer ones are cut when written.
const MAX_CODE_BYTES: usize = 64;
const MAX_DETAIL_BYTES: usize = 1024;
/// Largest payload that a client accepts from a server.
pub const MAX_REPLY_BYTES: usize = ACK_HEAD_BYTES + MAX_CODE_BYTES + MAX_DETAIL_BYTES;
const UNKNOWN_TIME: i64 = i64::MIN;
/// Room taken before bytes have arrived, however long a message says it is.
const FIRST_ALLOCATION: usize = 64 << 10;

/// Why bytes are not a message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    #[error("the bytes do not start with the magic LMPD: this is no lumpd client, or it lost its place; connect again")]
    BadMagic,
    #[error("version {0} of the wire format is not known here (this side speaks 1); update the older side")]
    BadVersion(u8),
    #[error("the checksum of the header is wrong: bytes were damaged on the way; send again")]
    BadHeaderChecksum,
    #[error("the checksum of the payload is wrong: bytes were damaged on the way; send again")]
    BadPayloadChecksum,
    #[error("message type {0} is not known or not expected here")]
    BadType(u8),
    #[error("flags {0:#06x} are not known here; set them to 0")]
    BadFlags(u16),
    #[error("a payload of {length} bytes is over the limit of {limit}; send a smaller image")]
    TooLong { length: usize, limit: usize },
    #[error("the payload is malformed: {0}")]
    Malformed(&'static str),
    #[error("the connection ended in the middle of a message")]
    Cut,
    #[error("{what} within {} s; send whole messages, and a ping where there is nothing to send", .limit.as_secs_f64())]
    Slow { what: &'static str, limit: Duration },
    #[error("reading or writing the connection failed: {0}")]
    Io(#[from] std::io::Error),
}

impl WireError {
    /// Stable name for metrics, logs and error frames.
    pub fn code(&self) -> &'static str {
        match self {
            Self::BadMagic => "wire-magic",
            Self::BadVersion(_) => "wire-version",
            Self::BadHeaderChecksum => "wire-header-checksum",
            Self::BadPayloadChecksum => "wire-payload-checksum",
            Self::BadType(_) => "wire-type",
            Self::BadFlags(_) => "wire-flags",
            Self::TooLong { .. } => "too-many-bytes",
            Self::Malformed(_) => "wire-malformed",
            Self::Cut => "wire-cut",
            Self::Slow { .. } => "wire-timeout",
            Self::Io(_) => "wire-io",
        }
    }
}

/// Types of message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Frame = 1,
    Ack = 2,
    Error = 3,
    Ping = 4,
    Pong = 5,
}

/// The first 16 bytes of a message, verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    /// Bytes of the payload.
    pub length: usize,
}

impl Header {
    /// # Errors
    /// Whatever is wrong with it, the first thing that differs; a length over `limit` before anything is allocated.
    pub fn parse(bytes: &[u8; HEADER_BYTES], limit: usize) -> Result<Self, WireError> {
        if bytes[..4] != MAGIC {
            return Err(WireError::BadMagic);
        }
        let [.., c0, c1, c2, c3] = *bytes;
        if crc32fast::hash(&bytes[..12]) != u32::from_le_bytes([c0, c1, c2, c3]) {
            return Err(WireError::BadHeaderChecksum);
        }
        if bytes[4] != VERSION {
            return Err(WireError::BadVersion(bytes[4]));
        }
        let kind = match bytes[5] {
            1 => Kind::Frame,
            2 => Kind::Ack,
            3 => Kind::Error,
            4 => Kind::Ping,
            5 => Kind::Pong,
            other => return Err(WireError::BadType(other)),
        };
        let flags = u16::from_le_bytes([bytes[6], bytes[7]]);
        if flags != 0 {
            return Err(WireError::BadFlags(flags));
        }
        let length = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) as usize;
        if length > limit {
            return Err(WireError::TooLong { length, limit });
        }
        Ok(Self { kind, length })
    }

    fn write(kind: Kind, length: usize) -> Result<[u8; HEADER_BYTES], WireError> {
        let too_long = WireError::TooLong { length, limit: u32::MAX as usize };
        let length = u32::try_from(length).map_err(|_| too_long)?;
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = VERSION;
        bytes[5] = kind as u8;
        bytes[8..12].copy_from_slice(&length.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..12]);
        bytes[12..].copy_from_slice(&checksum.to_le_bytes());
        Ok(bytes)
    }
}

/// What a client sends of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFrame {
    pub sequence: u64,
    pub captured_at_ns: Option<i64>,
    pub label: Option<String>,
    pub image: Bytes,
}

impl ClientFrame {
    fn parse(payload: Bytes) -> Result<Self, WireError> {
        let mut fields = Fields(&payload);
        let sequence = fields.u64()?;
        let captured_at_ns = Some(fields.i64()?).filter(|time| *time != UNKNOWN_TIME);
        let label_bytes = usize::from(fields.u8()?);
        if label_bytes > MAX_LABEL_BYTES {
            return Err(WireError::Malformed("the label is longer than 64 bytes"));
        }
        let label = fields.text(label_bytes)?;
        let label = (!label.is_empty()).then(|| label.to_owned());
        Ok(Self { sequence, captured_at_ns, label, image: payload.slice(FRAME_HEAD_BYTES + label_bytes..) })
    }

    /// The payload up to the image.
    fn head(&self) -> Result<Vec<u8>, WireError> {
        let label = self.label.as_deref().unwrap_or_default();
        if label.len() > MAX_LABEL_BYTES {
            return Err(WireError::Malformed("the label is longer than 64 bytes"));
        }
        let mut head = Vec::with_capacity(FRAME_HEAD_BYTES + label.len());
        head.extend(self.sequence.to_le_bytes());
        head.extend(self.captured_at_ns.unwrap_or(UNKNOWN_TIME).to_le_bytes());
        head.push(label.len() as u8);
        head.extend(label.as_bytes());
        Ok(head)
    }
}

/// A [`Verdict`] as a client reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Accepted { id: FrameId, task: Option<u32> },
    Duplicate { id: FrameId },
    Refused(Notice),
}

/// Why something was refused, and whether to try again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub code: String,
    pub detail: String,
    pub retry_after: Option<Duration>,
}

impl From<Verdict> for Reply {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Accepted { id, task } => Self::Accepted { id, task },
            Verdict::Duplicate { id } => Self::Duplicate { id },
            Verdict::Refused { code, detail, retry_after } => {
                Self::Refused(Notice { code: code.to_owned(), detail, retry_after })
            }
        }
    }
}

impl Notice {
    fn parse(fields: &mut Fields<'_>) -> Result<(u8, Self), WireError> {
        let retry_ms = fields.u32()?;
        let status = fields.u8()?;
        let (code, detail) = (usize::from(fields.u8()?), usize::from(fields.u16()?));
        let (code, detail) = (fields.text(code)?.to_owned(), fields.text(detail)?.to_owned());
        if !fields.0.is_empty() {
            return Err(WireError::Malformed("bytes follow the end of the payload"));
        }
        let retry_after = (retry_ms > 0).then(|| Duration::from_millis(retry_ms.into()));
        Ok((status, Self { code, detail, retry_after }))
    }

    fn write(&self, status: u8, payload: &mut Vec<u8>) {
        let retry_ms = self.retry_after.map_or(0, |wait| u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1));
        let code = &self.code[..self.code.floor_char_boundary(MAX_CODE_BYTES)];
        let detail = &self.detail[..self.detail.floor_char_boundary(MAX_DETAIL_BYTES)];
        payload.extend(retry_ms.to_le_bytes());
        payload.push(status);
        payload.push(code.len() as u8);
        payload.extend((detail.len() as u16).to_le_bytes());
        payload.extend(code.as_bytes());
        payload.extend(detail.as_bytes());
    }
}

/// A whole message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    Frame(ClientFrame),
    Ack { sequence: u64, reply: Reply },
    Error(Notice),
    Ping,
    Pong,
}

impl Message {
    /// A verified payload as the message its header announced.
    ///
    /// # Errors
    /// [`WireError::Malformed`]; never panics, whatever the bytes.
    pub fn parse(kind: Kind, payload: Bytes) -> Result<Self, WireError> {
        match kind {
            Kind::Frame => Ok(Self::Frame(ClientFrame::parse(payload)?)),
            Kind::Ack => parse_ack(&payload),
            Kind::Error => match Notice::parse(&mut Fields(&payload))? {
                (3, notice) => Ok(Self::Error(notice)),
                _ => Err(WireError::Malformed("the status of an error is not 3")),
            },
            Kind::Ping if payload.is_empty() => Ok(Self::Ping),
            Kind::Pong if payload.is_empty() => Ok(Self::Pong),
            Kind::Ping | Kind::Pong => Err(WireError::Malformed("ping and pong have no payload")),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Frame(_) => Kind::Frame,
            Self::Ack { .. } => Kind::Ack,
            Self::Error(_) => Kind::Error,
            Self::Ping => Kind::Ping,
            Self::Pong => Kind::Pong,
        }
    }

    /// The payload in two parts, the second being a frame's image, which is not copied.
    fn payload(&self) -> Result<(Vec<u8>, Bytes), WireError> {
        Ok(match self {
            Self::Frame(frame) => (frame.head()?, frame.image.clone()),
            Self::Ack { sequence, reply } => (write_ack(*sequence, reply), Bytes::new()),
            Self::Error(notice) => {
                let mut payload = Vec::new();
                notice.write(3, &mut payload);
                (payload, Bytes::new())
            }
            Self::Ping | Self::Pong => (Vec::new(), Bytes::new()),
        })
    }
}

fn parse_ack(payload: &[u8]) -> Result<Message, WireError> {
    let mut fields = Fields(payload);
    let (sequence, id, task) = (fields.u64()?, FrameId(fields.u64()?), fields.u32()?);
    let (status, notice) = Notice::parse(&mut fields)?;
    let reply = match status {
        1 => Reply::Accepted { id, task: (task > 0).then_some(task) },
        2 => Reply::Duplicate { id },
        3 => Reply::Refused(notice),
        _ => return Err(WireError::Malformed("the status of an ack is none of 1, 2, 3")),
    };
    Ok(Message::Ack { sequence, reply })
}

fn write_ack(sequence: u64, reply: &Reply) -> Vec<u8> {
    let (id, task, status) = match reply {
        Reply::Accepted { id, task } => (id.0, task.unwrap_or(0), 1),
        Reply::Duplicate { id } => (id.0, 0, 2),
        Reply::Refused(_) => (0, 0, 3),
    };
    let mut payload = Vec::with_capacity(ACK_HEAD_BYTES);
    payload.extend(sequence.to_le_bytes());
    payload.extend(id.to_le_bytes());
    payload.extend(task.to_le_bytes());
    let silent = Notice { code: String::new(), detail: String::new(), retry_after: None };
    let notice = if let Reply::Refused(notice) = reply { notice } else { &silent };
    notice.write(status, &mut payload);
    payload
}

/// Reads fields off the front of a slice; a slice too short is [`WireError::Malformed`].
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (field, rest) = self.0.split_first_chunk().ok_or(WireError::Malformed("the payload is too short"))?;
        self.0 = rest;
        Ok(*field)
    }

    fn text(&mut self, bytes: usize) -> Result<&'a str, WireError> {
        let (text, rest) = self.0.split_at_checked(bytes).ok_or(WireError::Malformed("the payload is too short"))?;
        self.0 = rest;
        std::str::from_utf8(text).map_err(|_| WireError::Malformed("a text is not UTF-8"))
    }

    fn u8(&mut self) -> Result<u8, WireError> {
        self.take().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16, WireError> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, WireError> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, WireError> {
        self.take().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Result<i64, WireError> {
        self.take().map(i64::from_le_bytes)
    }
}

/// A message at the front of `bytes` and how many bytes it took; `None` where more bytes are needed.
///
/// # Errors
/// Any [`WireError`] but those of the connection.
pub fn decode(bytes: &[u8], limit: usize) -> Result<Option<(Message, usize)>, WireError> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let header = Header::parse(head, limit)?;
    let Some((payload, rest)) = rest.split_at_checked(header.length) else { return Ok(None) };
    let Some((checksum, _)) = rest.split_first_chunk::<CRC_BYTES>() else { return Ok(None) };
    if crc32fast::hash(payload) != u32::from_le_bytes(*checksum) {
        return Err(WireError::BadPayloadChecksum);
    }
    let message = Message::parse(header.kind, Bytes::copy_from_slice(payload))?;
    Ok(Some((message, HEADER_BYTES + header.length + CRC_BYTES)))
}

/// A message as bytes.
///
/// # Errors
/// A label over 64 bytes, a payload over 4 GiB.
pub fn encode(message: &Message) -> Result<Vec<u8>, WireError> {
    let (head, image) = message.payload()?;
    let mut bytes = Header::write(message.kind(), head.len() + image.len())?.to_vec();
    bytes.extend_from_slice(&head);
    bytes.extend_from_slice(&image);
    bytes.extend(checksum(&head, &image));
    Ok(bytes)
}

fn checksum(head: &[u8], image: &[u8]) -> [u8; CRC_BYTES] {
    let mut crc = crc32fast::Hasher::new();
    crc.update(head);
    crc.update(image);
    crc.finalize().to_le_bytes()
}

/// Writes a message without copying its image. Does not flush.
///
/// # Errors
/// As [`encode`], and those of the connection.
pub async fn write<W: AsyncWrite + Unpin>(writer: &mut W, message: &Message) -> Result<(), WireError> {
    let (head, image) = message.payload()?;
    let header = Header::write(message.kind(), head.len() + image.len())?;
    let checksum = checksum(&head, &image);
    for part in [&header[..], &head, &image, &checksum] {
        writer.write_all(part).await?;
    }
    Ok(())
}

/// Reads the rest of a header whose first byte has arrived.
///
/// # Errors
/// As [`Header::parse`], and those of the connection.
pub async fn read_header<R: AsyncRead + Unpin>(reader: &mut R, first: u8, limit: usize) -> Result<Header, WireError> {
    let mut bytes = [first; HEADER_BYTES];
    reader.read_exact(&mut bytes[1..]).await.map_err(cut)?;
    Header::parse(&bytes, limit)
}

/// Reads and verifies a payload. Memory grows as bytes arrive: a header alone claims at most 64 KiB.
///
/// # Errors
/// As [`Message::parse`], a wrong checksum, and those of the connection.
pub async fn read_payload<R: AsyncRead + Unpin>(reader: &mut R, header: Header) -> Result<Message, WireError> {
    let mut payload = Vec::with_capacity(header.length.min(FIRST_ALLOCATION));
    reader.take(header.length as u64).read_to_end(&mut payload).await?;
    if payload.len() < header.length {
        return Err(WireError::Cut);
    }
    let mut checksum = [0; CRC_BYTES];
    reader.read_exact(&mut checksum).await.map_err(cut)?;
    if crc32fast::hash(&payload) != u32::from_le_bytes(checksum) {
        return Err(WireError::BadPayloadChecksum);
    }
    Message::parse(header.kind, payload.into())
}

/// Reads and verifies the payload of a frame that is not wanted, in bounded memory; its sequence number.
///
/// # Errors
/// As [`read_payload`], the image's own fields left aside.
pub async fn skip_frame<R: AsyncRead + Unpin>(reader: &mut R, header: Header) -> Result<u64, WireError> {
    let mut crc = crc32fast::Hasher::new();
    let mut first = [0; FRAME_HEAD_BYTES];
    if header.length < first.len() {
        return Err(WireError::Malformed("the payload is too short"));
    }
    reader.read_exact(&mut first).await.map_err(cut)?;
    crc.update(&first);
    let (mut left, mut piece) = (header.length - first.len(), [0; 4096]);
    while left > 0 {
        let count = left.min(piece.len());
        reader.read_exact(&mut piece[..count]).await.map_err(cut)?;
        crc.update(&piece[..count]);
        left -= count;
    }
    let mut checksum = [0; CRC_BYTES];
    reader.read_exact(&mut checksum).await.map_err(cut)?;
    if crc.finalize() != u32::from_le_bytes(checksum) {
        return Err(WireError::BadPayloadChecksum);
    }
    Fields(&first).u64()
}

/// Reads a message; `None` at a clean end of the connection.
///
/// # Errors
/// As [`read_header`] and [`read_payload`].
pub async fn read<R: AsyncRead + Unpin>(reader: &mut R, limit: usize) -> Result<Option<Message>, WireError> {
    let mut first = [0];
    if reader.read(&mut first).await? == 0 {
        return Ok(None);
    }
    let header = read_header(reader, first[0], limit).await?;
    read_payload(reader, header).await.map(Some)
}

fn cut(error: std::io::Error) -> WireError {
    if error.kind() == std::io::ErrorKind::UnexpectedEof { WireError::Cut } else { WireError::Io(error) }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
