//! Arrays of numbers in a MATLAB level 5 MAT-file, packed by zlib or not: as much of the format as a dataset of images needs.
//!
//! The file is a header of 128 bytes and a row of elements, each a tag (type, bytes), its data, and padding to 8 bytes; small
//! elements keep up to 4 bytes within the tag. An array (miMATRIX) holds its flags, dimensions, name and values, column-major.
//! Source: The MathWorks, "MAT-File Format", level 5.

use std::io::Read;

const INT8: u32 = 1;
const UINT8: u32 = 2;
const INT16: u32 = 3;
const UINT16: u32 = 4;
const INT32: u32 = 5;
const UINT32: u32 = 6;
const DOUBLE: u32 = 9;
const MATRIX: u32 = 14;
const COMPRESSED: u32 = 15;
const HEADER: usize = 128;

/// No published array of images is larger.
const MOST_BYTES: u64 = 4 << 30;

/// An array: its name, its dimensions, and its values in column-major order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Array {
    pub name: String,
    pub dimensions: Vec<usize>,
    pub values: Values,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Values {
    Bytes(Vec<u8>),
    Numbers(Vec<f64>),
}

struct Element<'a> {
    kind: u32,
    data: &'a [u8],
}

/// Every array of numbers in the file.
///
/// # Errors
/// What is wrong, in words.
pub(super) fn arrays(file: &[u8]) -> Result<Vec<Array>, String> {
    match file.get(126..HEADER) {
        Some(b"IM") => {}
        Some(b"MI") => return Err("is big-endian, which no published file is".into()),
        _ => return Err("has no header of a MATLAB level 5 file".into()),
    }
    let mut found = Vec::new();
    let mut rest = &file[HEADER..];
    while !rest.is_empty() {
        let element;
        (element, rest) = next(rest, false)?;
        match element.kind {
            COMPRESSED => {
                let mut unpacked = Vec::new();
                let reader = flate2::read::ZlibDecoder::new(element.data);
                reader
                    .take(MOST_BYTES)
                    .read_to_end(&mut unpacked)
                    .map_err(|error| format!("holds an element that cannot be unpacked: {error}"))?;
                let (inner, _) = next(&unpacked, true)?;
                if inner.kind == MATRIX {
                    found.extend(array(inner.data)?);
                }
            }
            MATRIX => found.extend(array(element.data)?),
            _ => {}
        }
    }
    Ok(found)
}

/// The first element and what follows it. Compressed elements are not padded.
fn next(bytes: &[u8], last: bool) -> Result<(Element<'_>, &[u8]), String> {
    let cut = || "is cut short within an element".to_owned();
    let number = |at: usize| bytes.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let (first, second) = (number(0).ok_or_else(cut)?, number(4));
    if first >> 16 != 0 {
        let length = (first >> 16) as usize;
        let data = bytes.get(4..4 + length.min(4)).ok_or_else(cut)?;
        return Ok((Element { kind: first & 0xffff, data }, bytes.get(8..).unwrap_or_default()));
    }
    let length = second.ok_or_else(cut)? as usize;
    let data = bytes.get(8..).and_then(|rest| rest.get(..length)).ok_or_else(cut)?;
    let padded = if first == COMPRESSED || last { length } else { length.next_multiple_of(8) };
    Ok((Element { kind: first, data }, bytes.get(8 + padded..).unwrap_or_default()))
}

/// The array within a miMATRIX; none where it is of something else than numbers.
fn array(bytes: &[u8]) -> Result<Option<Array>, String> {
    let (flags, rest) = next(bytes, false)?;
    // Classes 6 to 15 are numbers; cells, structures, text and sparse arrays are below.
    if !flags.data.first().is_some_and(|class| (6..=15).contains(class)) {
        return Ok(None);
    }
    let (dimensions, rest) = next(rest, false)?;
    let (name, rest) = next(rest, false)?;
    let (values, _) = next(rest, false)?;
    let dimensions: Vec<usize> =
        dimensions.data.as_chunks::<4>().0.iter().map(|size| u32::from_le_bytes(*size) as usize).collect();
    let name = String::from_utf8_lossy(name.data).into_owned();
    let count = dimensions.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
    let values = values_of(&values).ok_or_else(|| format!("array {name:?} is of a type of number {}", values.kind))?;
    let length = match &values {
        Values::Bytes(values) => values.len(),
        Values::Numbers(values) => values.len(),
    };
    if count != Some(length) {
        return Err(format!("array {name:?} of {dimensions:?} has {length} values"));
    }
    Ok(Some(Array { name, dimensions, values }))
}

fn values_of(element: &Element<'_>) -> Option<Values> {
    let data = element.data;
    Some(match element.kind {
        UINT8 => Values::Bytes(data.to_vec()),
        INT8 => Values::Numbers(data.iter().map(|byte| f64::from(*byte as i8)).collect()),
        UINT16 => Values::Numbers(data.as_chunks().0.iter().map(|v| f64::from(u16::from_le_bytes(*v))).collect()),
        INT16 => Values::Numbers(data.as_chunks().0.iter().map(|v| f64::from(i16::from_le_bytes(*v))).collect()),
        UINT32 => Values::Numbers(data.as_chunks().0.iter().map(|v| f64::from(u32::from_le_bytes(*v))).collect()),
        INT32 => Values::Numbers(data.as_chunks().0.iter().map(|v| f64::from(i32::from_le_bytes(*v))).collect()),
        DOUBLE => Values::Numbers(data.as_chunks().0.iter().map(|v| f64::from_le_bytes(*v)).collect()),
        _ => return None,
    })
}
