//! Whether an encoded image is there to its end, told from its structure alone.
//!
//! Decoders accept files that are cut short: BMP rows that are missing become black, a PNG without its last chunks is fine once
//! the pixels are there, a WebP may end within its last chunk. A frame that was still being written must not be learned from.

use super::DecodeError;
use super::format::Format;
use crate::stream::jpeg;

/// # Errors
/// [`DecodeError::Truncated`]. Bytes after the end are not looked at: writers pad.
pub fn check_complete(format: Format, bytes: &[u8]) -> Result<(), DecodeError> {
    let missing = match format {
        Format::Jpeg => jpeg::picture_length(bytes).is_none().then(|| "no end marker".to_owned()),
        Format::Png => png_end(bytes).is_none().then(|| "no IEND chunk".to_owned()),
        Format::WebP => short_of(webp_length(bytes), bytes),
        Format::Bmp => short_of(bmp_length(bytes), bytes),
        Format::Pnm => short_of(pnm_length(bytes), bytes),
    };
    match missing {
        None => Ok(()),
        Some(detail) => Err(DecodeError::Truncated { format: format.name(), detail }),
    }
}

/// What is missing of the length that the header states; a header that is cut itself is missing, too.
fn short_of(length: Option<u64>, bytes: &[u8]) -> Option<String> {
    match length {
        None => Some("the header ends early".into()),
        Some(length) if (bytes.len() as u64) < length => Some(format!("{} of {length} bytes are there", bytes.len())),
        Some(_) => None,
    }
}

/// Offset after the IEND chunk (PNG specification, 5.3).
fn png_end(bytes: &[u8]) -> Option<usize> {
    let mut at = 8;
    loop {
        let length = u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?) as usize;
        let kind = bytes.get(at + 4..at + 8)?;
        // Length, kind and checksum around the data.
        let end = at.checked_add(length)?.checked_add(12)?;
        if end > bytes.len() {
            return None;
        }
        if kind == b"IEND" {
            return Some(end);
        }
        at = end;
    }
}

/// Bytes of the RIFF container (WebP container specification): the size stated and the 8 bytes before it.
fn webp_length(bytes: &[u8]) -> Option<u64> {
    Some(u64::from(le_u32(bytes, 4)?) + 8)
}

/// Bytes up to the end of the pixels. The file size in the header is not trusted: many writers leave it 0.
fn bmp_length(bytes: &[u8]) -> Option<u64> {
    const RGB: u32 = 0;
    const BITFIELDS: u32 = 3;
    const ALPHA_BITFIELDS: u32 = 6;
    let offset = u64::from(le_u32(bytes, 10)?);
    if le_u32(bytes, 14)? == 12 {
        // OS/2: 16-bit dimensions.
        let (width, height) = (le_u16(bytes, 18)?, le_u16(bytes, 20)?);
        return bmp_rows(offset, width.into(), height.into(), le_u16(bytes, 24)?);
    }
    let width = u64::from((le_u32(bytes, 18)? as i32).unsigned_abs());
    // A negative height says that rows come from the top.
    let height = u64::from((le_u32(bytes, 22)? as i32).unsigned_abs());
    match le_u32(bytes, 30)? {
        RGB | BITFIELDS | ALPHA_BITFIELDS => bmp_rows(offset, width, height, le_u16(bytes, 28)?),
        // Compressed rows have no length of their own; where their size is 0 the decoder has to find the end.
        _ => Some(offset.saturating_add(le_u32(bytes, 34)?.into())),
    }
}

/// Rows are padded to four bytes.
fn bmp_rows(offset: u64, width: u64, height: u64, bits: u16) -> Option<u64> {
    let row = width.checked_mul(bits.into())?.div_ceil(32).checked_mul(4)?;
    offset.checked_add(row.checked_mul(height)?)
}

/// Bytes up to the last sample of a binary image (netpbm's pbm(5), pgm(5), ppm(5), pam(5)); for the textual ones, whose samples
/// have no fixed length, up to the first sample: their decoder counts them.
fn pnm_length(bytes: &[u8]) -> Option<u64> {
    if bytes.get(1) == Some(&b'7') {
        return pam_length(bytes);
    }
    let mut numbers = PnmNumbers { bytes, at: 2 };
    let kind = *bytes.get(1)?;
    let (width, height) = (numbers.next()?, numbers.next()?);
    let max = if matches!(kind, b'1' | b'4') { 1 } else { numbers.next()? };
    // One white space separates the header from the samples.
    let start = numbers.at as u64 + 1;
    let row = match kind {
        b'4' => width.div_ceil(8),
        b'5' => width.checked_mul(sample_bytes(max))?,
        b'6' => width.checked_mul(3 * sample_bytes(max))?,
        _ => 0,
    };
    start.checked_add(row.checked_mul(height)?)
}

fn sample_bytes(max: u64) -> u64 {
    if max > 255 { 2 } else { 1 }
}

fn pam_length(bytes: &[u8]) -> Option<u64> {
    const END: &[u8] = b"ENDHDR\n";
    let head = bytes.windows(END.len()).position(|window| window == END)?;
    let text = String::from_utf8_lossy(&bytes[..head]);
    let field = |name: &str| {
        let mut lines = text.lines().map(str::split_whitespace);
        lines.find_map(|mut words| (words.next()? == name).then(|| words.next()?.parse::<u64>().ok())?)
    };
    let samples = field("WIDTH")?.checked_mul(field("HEIGHT")?)?.checked_mul(field("DEPTH")?)?;
    samples.checked_mul(sample_bytes(field("MAXVAL")?))?.checked_add((head + END.len()) as u64)
}

/// Numbers between white space and comments.
struct PnmNumbers<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl PnmNumbers<'_> {
    fn next(&mut self) -> Option<u64> {
        loop {
            match self.bytes.get(self.at)? {
                b'#' => self.at += self.bytes[self.at..].iter().position(|byte| *byte == b'\n')?,
                byte if byte.is_ascii_whitespace() => self.at += 1,
                _ => break,
            }
        }
        let digits = self.bytes[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let text = std::str::from_utf8(&self.bytes[self.at..self.at + digits]).ok()?;
        self.at += digits;
        text.parse().ok()
    }
}

fn le_u16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|field| u16::from_le_bytes(*field))
}

fn le_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|field| u32::from_le_bytes(*field))
}
