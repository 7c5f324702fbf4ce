use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Name of the list within a generation.
pub const MANIFEST: &str = "MANIFEST.json";
/// Name of the caller's metadata within a generation.
pub const META: &str = "meta.json";
/// Most files of a generation.
pub const MOST_FILES: usize = 256;

const FORMAT: u32 = 1;
const MOST_MANIFEST_BYTES: u64 = 1 << 20;
const MOST_NAME: usize = 64;

/// What is wrong with a stored generation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    #[error("{name} cannot be read: {message}")]
    Unreadable { name: String, message: String },
    #[error("{name} is not a regular file")]
    NotAFile { name: String },
    #[error("{MANIFEST} is damaged: {message}")]
    Manifest { message: String },
    #[error("format {format} is of a newer lumpd")]
    Newer { format: u32 },
    #[error("{name:?} is not a name of a checkpoint's file")]
    Name { name: String },
    #[error("{name} has {found} bytes and not {expected}")]
    Length { name: String, expected: u64, found: u64 },
    #[error("the content of {name} is not what was written")]
    Content { name: String },
    #[error("it says step {found}")]
    Step { found: u64 },
    #[error("it cannot be taken up: {message}")]
    Refused { message: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    bytes: u64,
    blake3: String,
}

/// The files of a generation. Whole numbers and strings only, so that it is written the same way again and its own hash
/// can be checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: u32,
    step: u64,
    files: BTreeMap<String, Entry>,
    /// BLAKE3 of the manifest with this field empty.
    blake3: String,
}

/// The one field that every format has.
#[derive(Deserialize)]
struct AnyFormat {
    format: u32,
}

/// Whether `name` may name a file of a generation: no path, nothing hidden, nothing reserved.
pub fn is_file_name(name: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'_' | b'-');
    (1..=MOST_NAME).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('.')
}

impl Manifest {
    pub fn new<'a>(step: u64, files: impl Iterator<Item = (&'a str, &'a [u8])>) -> Self {
        let entry = |bytes: &[u8]| Entry { bytes: bytes.len() as u64, blake3: hash(bytes) };
        let files = files.map(|(name, bytes)| (name.to_owned(), entry(bytes))).collect();
        let mut manifest = Self { format: FORMAT, step, files, blake3: String::new() };
        manifest.blake3 = manifest.own_hash();
        manifest
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    fn own_hash(&self) -> String {
        hash(&Self { blake3: String::new(), ..self.clone() }.to_bytes())
    }

    /// Reads the manifest of the generation in `folder`.
    ///
    /// # Errors
    /// Any bytes give a manifest with an intact hash and allowed names, or a reason.
    pub fn read(folder: &Path, step: u64) -> Result<Self, Reason> {
        let bytes = read_regular(folder, MANIFEST, MOST_MANIFEST_BYTES)?;
        let damaged = |error: serde_json::Error| Reason::Manifest { message: error.to_string() };
        // The format first: a newer manifest may well have other fields, and is not damaged for that.
        let AnyFormat { format } = serde_json::from_slice(&bytes).map_err(damaged)?;
        if format > FORMAT {
            return Err(Reason::Newer { format });
        }
        let manifest: Self = serde_json::from_slice(&bytes).map_err(damaged)?;
        if manifest.own_hash() != manifest.blake3 {
            return Err(Reason::Manifest { message: "its own hash differs".into() });
        }
        if let Some(name) = manifest.files.keys().find(|name| !is_file_name(name)) {
            return Err(Reason::Name { name: name.clone() });
        }
        if manifest.step != step {
            return Err(Reason::Step { found: manifest.step });
        }
        Ok(manifest)
    }

    /// Reads every file in `folder` that the manifest lists.
    ///
    /// # Errors
    /// The first that is not exactly what was written.
    pub fn read_files(&self, folder: &Path) -> Result<BTreeMap<String, Vec<u8>>, Reason> {
        self.files.iter().map(|(name, entry)| Ok((name.clone(), entry.read(folder, name)?))).collect()
    }
}

impl Entry {
    fn read(&self, folder: &Path, name: &str) -> Result<Vec<u8>, Reason> {
        let bytes = read_regular(folder, name, self.bytes)?;
        let found = bytes.len() as u64;
        if found != self.bytes {
            return Err(Reason::Length { name: name.into(), expected: self.bytes, found });
        }
        if hash(&bytes) != self.blake3 {
            return Err(Reason::Content { name: name.into() });
        }
        Ok(bytes)
    }
}

fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// Reads a regular file of at most `most` bytes. Never follows a link, never waits for a pipe, and takes no more memory
/// than the file is long, whatever a manifest says.
fn read_regular(folder: &Path, name: &str, most: u64) -> Result<Vec<u8>, Reason> {
    let unreadable = |error: io::Error| Reason::Unreadable { name: name.into(), message: error.to_string() };
    let path = folder.join(name);
    if !fs::symlink_metadata(&path).map_err(unreadable)?.is_file() {
        return Err(Reason::NotAFile { name: name.into() });
    }
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(&path).map_err(unreadable)?;
    let found = file.metadata().map_err(unreadable)?.len();
    if found > most {
        return Err(Reason::Length { name: name.into(), expected: most, found });
    }
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}
