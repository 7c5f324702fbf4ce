//! Named tensors as safetensors files in memory, both ways; any bytes give finite f32 tensors or a reason.
//!
//! The format's own reader takes a header of 100 MB and lets the last of two tensors of one name win. A checkpoint comes
//! from a disk that may be damaged or written by someone else, so both are refused before the header is read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::LearnError;

/// Values by name, f32: each a shape and its values in row-major order.
pub type Named = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Longest header, bytes.
const MOST_HEADER_BYTES: u64 = 1 << 20;
/// Most tensors of a file.
const MOST_TENSORS: usize = 4096;

fn bad(file: &'static str, error: impl ToString) -> LearnError {
    LearnError::BadFile { file, message: error.to_string() }
}

/// The bytes of a file; the same tensors give the same bytes.
///
/// # Errors
/// Where a shape does not fit its values.
pub fn serialise(file: &'static str, named: &Named) -> Result<Vec<u8>, LearnError> {
    let bytes: Vec<Vec<u8>> =
        named.values().map(|(_, values)| values.iter().flat_map(|value| value.to_le_bytes()).collect()).collect();
    let views: Result<Vec<_>, _> = named
        .iter()
        .zip(&bytes)
        .map(|((name, (shape, _)), bytes)| Ok((name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect();
    let views = views.map_err(|error: safetensors::SafeTensorError| bad(file, error))?;
    safetensors::serialize(views, None).map_err(|error| bad(file, error))
}

/// Reads a file whole: f32 throughout, every value finite, every name once.
///
/// # Errors
/// [`LearnError::BadFile`] or [`LearnError::BadTensor`], which name the file and what is wrong.
pub fn parse(file: &'static str, bytes: &[u8]) -> Result<Named, LearnError> {
    check_header(bytes).map_err(|message| bad(file, message))?;
    let tensors = SafeTensors::deserialize(bytes).map_err(|error| bad(file, error))?;
    let mut named = Named::new();
    for (name, view) in tensors.iter() {
        let refuse = |what: &str| Err(LearnError::BadTensor { file, message: format!("\"{name}\" {what}") });
        if view.dtype() != Dtype::F32 {
            return refuse("is not of 32-bit floats");
        }
        let values: Vec<f32> = view.data().as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect();
        if !values.iter().all(|value| value.is_finite()) {
            return refuse("holds a value that is not finite");
        }
        named.insert(name.to_owned(), (view.shape().to_vec(), values));
    }
    Ok(named)
}

/// What has to hold before the header is handed to the format's reader.
fn check_header(bytes: &[u8]) -> Result<(), String> {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err("it ends within the length of its header".into());
    };
    let length = u64::from_le_bytes(*length);
    if length > MOST_HEADER_BYTES {
        return Err(format!("its header claims {length} bytes; at most {MOST_HEADER_BYTES} are read"));
    }
    // Not beyond a 32-bit machine's addresses: it is at most a mebibyte.
    let Some(header) = rest.get(..length as usize) else {
        return Err("it ends within its header".into());
    };
    let mut json = serde_json::Deserializer::from_slice(header);
    json.deserialize_map(UniqueNames).map_err(|error| error.to_string())
}

/// Reads the names of a header and nothing else.
struct UniqueNames;

impl<'de> Visitor<'de> for UniqueNames {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut names = BTreeSet::new();
        while let Some((name, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
            if names.len() == MOST_TENSORS {
                return Err(serde::de::Error::custom(format!("more than {MOST_TENSORS} tensors")));
            }
            if names.contains(&name) {
                return Err(serde::de::Error::custom(format!("the tensor \"{name}\" is there twice")));
            }
            names.insert(name);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named() -> Named {
        Named::from([("a".into(), (vec![2], vec![1.0, 2.0])), ("b".into(), (vec![1, 1], vec![3.0]))])
    }

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
    }

    #[test]
    fn they_come_back() {
        assert_eq!(parse("x", &serialise("x", &named()).unwrap()).unwrap(), named());
        assert!(parse("x", &serialise("x", &Named::new()).unwrap()).unwrap().is_empty());
    }

    #[test]
    fn a_name_that_is_there_twice_is_refused() {
        let one = r#""a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
        let good = file(&format!("{{{one}}}"), &1f32.to_le_bytes());
        assert_eq!(parse("x", &good).unwrap()["a"].1, [1.0]);
        let twice = file(&format!("{{{one},{one}}}"), &1f32.to_le_bytes());
        assert!(parse("x", &twice).unwrap_err().to_string().contains("twice"));
    }

    #[test]
    fn a_header_that_asks_for_much_is_refused_unread() {
        for length in [u64::MAX, 100 << 20, MOST_HEADER_BYTES + 1] {
            let error = parse("x", &[&length.to_le_bytes()[..], b"{}"].concat()).unwrap_err();
            assert!(error.to_string().contains("claims"), "{error}");
        }
        let many: Vec<String> = (0..=MOST_TENSORS)
            .map(|i| format!("\"{i}\":{{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}"))
            .collect();
        let error = parse("x", &file(&format!("{{{}}}", many.join(",")), &[])).unwrap_err();
        assert!(error.to_string().contains("more than"), "{error}");
    }

    #[test]
    fn hostile_headers_are_reasons() {
        let entry = |shape: &str, from: u64, to: u64| {
            format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[{from},{to}]}}}}"#)
        };
        let hostile = [
            file(&entry("[2]", 0, 4), &[0; 4]),
            file(&entry("[1]", 4, 8), &[0; 8]),
            file(&entry("[1]", 0, 4), &[0; 8]),
            file(&entry("[18446744073709551615,18446744073709551615]", 0, 4), &[0; 4]),
            file(&entry("[4611686018427387905]", 0, 4), &[0; 4]),
            file(&entry("[-1]", 0, 4), &[0; 4]),
            file(&entry("[1]", 0, u64::MAX), &[0; 4]),
            file(&entry("[1]", 0, 4), &f32::INFINITY.to_le_bytes()),
            file("[]", &[]),
            file("{", &[]),
            Vec::new(),
            vec![0; 7],
            vec![0; 8],
        ];
        for bytes in hostile {
            assert!(parse("x", &bytes).is_err(), "{:?}", String::from_utf8_lossy(&bytes));
        }
    }
}
