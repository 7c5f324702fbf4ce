//! The name of one version of the weights.

use std::fmt;
use std::str::FromStr;

use candle_core::{DType, Result};
use serde::{Deserialize, Serialize};

use super::{Backbone, Parameter};

/// The hash of an encoder's weights: equal where every parameter and running statistic is equal to the bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct EncoderId(u64);

impl EncoderId {
    /// Of the backbone as it is now. Copies the weights off the device; their dtype is taken as f32.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn of(backbone: &dyn Backbone) -> Result<Self> {
        let mut hash = blake3::Hasher::new();
        let vectors =
            [(backbone.layout(), backbone.parameters()), (backbone.statistics_layout(), backbone.statistics())];
        for (layout, vector) in vectors {
            let values = vector.to_dtype(DType::F32)?.to_vec1::<f32>()?;
            layout.iter().for_each(|parameter| absorb_name(&mut hash, parameter));
            for chunk in values.chunks(1 << 14) {
                let bytes: Vec<u8> = chunk.iter().flat_map(|value| value.to_le_bytes()).collect();
                hash.update(&bytes);
            }
        }
        let mut first = [0; 8];
        first.copy_from_slice(&hash.finalize().as_bytes()[..8]);
        Ok(Self(u64::from_be_bytes(first)))
    }
}

fn absorb_name(hash: &mut blake3::Hasher, parameter: &Parameter) {
    hash.update(format!("{} {:?}\n", parameter.name, parameter.shape).as_bytes());
}

impl fmt::Display for EncoderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for EncoderId {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = digits.then(|| u64::from_str_radix(text, 16).ok()).flatten().map(Self);
        id.ok_or_else(|| format!("\"{text}\" is no encoder id: 16 hexadecimal digits"))
    }
}

impl From<EncoderId> for String {
    fn from(id: EncoderId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for EncoderId {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}
