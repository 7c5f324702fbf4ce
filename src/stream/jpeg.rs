//! Finds where a JPEG ends by walking its markers (ITU-T T.81, annex B): segments are skipped by their lengths, so that the
//! thumbnail inside an EXIF segment is never taken for a picture, and entropy-coded data is searched for markers only.
//!
//! Knows nothing of what the segments mean; that is the decoder's.

/// What the bytes so far amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The picture goes on.
    More,
    /// The picture ends before this offset from its start.
    End(usize),
    /// No JPEG goes on like this. Another picture may start at or after `resume`.
    Broken { resume: usize },
}

/// Walks one JPEG, fed in pieces of any size.
#[derive(Debug, Clone)]
pub struct Walker {
    state: State,
    /// Offset of the next byte.
    at: usize,
    /// Where the length of the last segment began: a wrong one may have swallowed the start of the next picture.
    segment: usize,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Start,
    StartCode,
    Marker,
    Code,
    LengthHigh { scan: bool },
    LengthLow { scan: bool, high: u8 },
    Segment { scan: bool, left: usize },
    Entropy,
    EntropyCode,
}

impl Default for Walker {
    fn default() -> Self {
        Self { state: State::Start, at: 0, segment: 0 }
    }
}

impl Walker {
    /// Walks on through the bytes that follow those pushed before. Offsets count from the first byte ever pushed. After
    /// anything but [`Progress::More`] the walk is over.
    pub fn push(&mut self, mut bytes: &[u8]) -> Progress {
        while let Some((&byte, rest)) = bytes.split_first() {
            match self.state {
                State::Segment { scan, left } => {
                    let step = left.min(bytes.len());
                    self.at += step;
                    bytes = &bytes[step..];
                    self.state = Self::within(scan, left - step);
                    continue;
                }
                State::Entropy => {
                    let step = bytes.iter().position(|byte| *byte == 0xff).unwrap_or(bytes.len());
                    if step > 0 {
                        self.at += step;
                        bytes = &bytes[step..];
                        continue;
                    }
                }
                _ => {}
            }
            match self.step(byte) {
                Progress::More => self.at += 1,
                over => return over,
            }
            bytes = rest;
        }
        Progress::More
    }

    fn step(&mut self, byte: u8) -> Progress {
        self.state = match (self.state, byte) {
            (State::Start, 0xff) => State::StartCode,
            (State::StartCode, 0xd8) => State::Marker,
            (State::Marker, 0xff) => State::Code,
            (State::Code | State::EntropyCode, 0xd9) => return Progress::End(self.at + 1),
            // Bytes 0xff may fill up the space before a marker.
            (State::Code, 0xff) => State::Code,
            (State::Code, 0x01 | 0xd0..=0xd7) => State::Marker,
            (State::Entropy, _) => State::EntropyCode,
            (State::EntropyCode, 0xff) => State::EntropyCode,
            // A stuffed zero and the restart markers belong to the data.
            (State::EntropyCode, 0x00 | 0x01 | 0xd0..=0xd7) => State::Entropy,
            (State::Code | State::EntropyCode, 0x02..=0xbf | 0xd8) | (State::Code, 0x00) => return self.broken(),
            (State::Code | State::EntropyCode, code) => State::LengthHigh { scan: code == 0xda },
            (State::LengthHigh { scan }, high) => {
                self.segment = self.at;
                State::LengthLow { scan, high }
            }
            (State::LengthLow { scan, high }, low) => {
                let Some(left) = usize::from(u16::from_be_bytes([high, low])).checked_sub(2) else {
                    return self.broken();
                };
                Self::within(scan, left)
            }
            _ => return self.broken(),
        };
        Progress::More
    }

    fn within(scan: bool, left: usize) -> State {
        match (left, scan) {
            (0, true) => State::Entropy,
            (0, false) => State::Marker,
            _ => State::Segment { scan, left },
        }
    }

    fn broken(&self) -> Progress {
        let resume = match self.state {
            // The marker's first byte may be the first byte of the next picture.
            State::Code | State::EntropyCode => self.at - 1,
            _ => self.segment.max(1),
        };
        Progress::Broken { resume }
    }

    /// Where to look for the next picture if this one never ends.
    pub(super) fn resume(&self) -> usize {
        match self.state {
            State::Entropy | State::EntropyCode => self.at.saturating_sub(1).max(1),
            _ => self.segment.max(1),
        }
    }
}

/// Length of the JPEG at the front of `bytes`, its end marker included; `None` where it is cut short or broken.
///
/// ```
/// use lumpd::stream::jpeg::picture_length;
/// // Start, a comment that holds an end marker, the end, padding.
/// let bytes = [0xff, 0xd8, 0xff, 0xfe, 0, 4, 0xff, 0xd9, 0xff, 0xd9, 0, 0];
/// assert_eq!(picture_length(&bytes), Some(10));
/// assert_eq!(picture_length(&bytes[..9]), None);
/// ```
pub fn picture_length(bytes: &[u8]) -> Option<usize> {
    match Walker::default().push(bytes) {
        Progress::End(length) => Some(length),
        Progress::More | Progress::Broken { .. } => None,
    }
}
