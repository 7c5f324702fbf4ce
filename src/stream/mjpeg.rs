//! Splits a stream of concatenated JPEGs, as `ffmpeg -f image2pipe -c:v mjpeg -` writes them, into pictures.
//!
//! A picture that is damaged or larger than the limit is skipped to the next start of one, and counted. Memory is bounded by
//! the limit. Whether the pictures can be decoded is not looked at.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::jpeg::{Progress, Walker};

const START: [u8; 2] = [0xff, 0xd8];
const CHUNK: usize = 64 << 10;

/// Reads one picture after another.
#[derive(Debug)]
pub struct Splitter<R> {
    reader: R,
    max_bytes: usize,
    buffer: Vec<u8>,
    /// Bytes of the buffer that the walker has seen.
    walked: usize,
    walker: Walker,
    damaged: u64,
    ended: bool,
}

impl<R: AsyncRead + Unpin> Splitter<R> {
    /// Pictures of more than `max_bytes` are skipped.
    pub fn new(reader: R, max_bytes: usize) -> Self {
        Self { reader, max_bytes, buffer: Vec::new(), walked: 0, walker: Walker::default(), damaged: 0, ended: false }
    }

    /// Pictures skipped so far: broken, cut short, or too large.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    /// The next whole picture; `None` at the end of the stream.
    ///
    /// # Errors
    /// Those of the reader.
    pub async fn next_picture(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(picture) = self.split() {
                return Ok(Some(picture));
            }
            if self.ended {
                return Ok(None);
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        let before = self.buffer.len();
        self.buffer.reserve(CHUNK);
        self.ended = (&mut self.reader).take(CHUNK as u64).read_buf(&mut self.buffer).await? == 0;
        debug_assert!(self.ended || self.buffer.len() > before);
        Ok(())
    }

    /// A whole picture from what is in the buffer.
    fn split(&mut self) -> Option<Bytes> {
        while self.find_start() {
            let progress = self.walker.push(&self.buffer[self.walked..]);
            self.walked = self.buffer.len();
            match progress {
                Progress::End(length) if length <= self.max_bytes => {
                    let rest = self.buffer.split_off(length);
                    let picture = std::mem::replace(&mut self.buffer, rest);
                    self.restart();
                    return Some(picture.into());
                }
                Progress::End(length) => self.skip(length),
                Progress::Broken { resume } => self.skip(resume),
                Progress::More if self.ended || self.buffer.len() > self.max_bytes => self.skip(self.walker.resume()),
                Progress::More => return None,
            }
        }
        None
    }

    /// Drops what precedes a start of a picture; false where there is none yet.
    fn find_start(&mut self) -> bool {
        if self.walked > 0 {
            return true;
        }
        let start = self.buffer.windows(2).position(|pair| pair == START);
        // The last byte may be the first half of a start.
        self.buffer.drain(..start.unwrap_or(self.buffer.len().saturating_sub(1)));
        start.is_some()
    }

    fn skip(&mut self, bytes: usize) {
        self.damaged += 1;
        self.buffer.drain(..bytes.min(self.buffer.len()));
        self.restart();
    }

    fn restart(&mut self) {
        self.walked = 0;
        self.walker = Walker::default();
    }
}

#[cfg(test)]
#[path = "mjpeg_tests.rs"]
mod tests;
