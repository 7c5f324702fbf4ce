/// Why bytes did not become an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    #[error("there are no bytes; send the encoded image")]
    Empty,
    #[error("the bytes are no JPEG, PNG, WebP, BMP or PNM image; send one of these")]
    NotAnImage,
    #[error("{format} is not read; convert it to JPEG, PNG, WebP, BMP or PNM")]
    UnsupportedFormat { format: &'static str },
    #[error("the {format} image is cut short or its end is missing ({detail}); send the whole file")]
    Truncated { format: &'static str, detail: String },
    #[error("{bytes} bytes are over decode.max_bytes = {limit}; shrink the image or raise the limit")]
    TooManyBytes { bytes: usize, limit: usize },
    #[error("{width}x{height} pixels are over {limit}; shrink the image or raise the limit")]
    TooLarge { width: u64, height: u64, limit: String },
    #[error("the {format} image is damaged: {detail}; encode it again")]
    Corrupt { format: &'static str, detail: String },
    #[error("the {format} decoder gave up on this image ({detail}); encode it again, and report it with the file")]
    DecoderPanicked { format: &'static str, detail: String },
}

impl DecodeError {
    /// Every code.
    pub const CODES: [&'static str; 8] = [
        "empty",
        "not-an-image",
        "unsupported-format",
        "truncated-image",
        "too-many-bytes",
        "too-large",
        "corrupt-image",
        "decoder-panicked",
    ];

    /// Stable name for metrics, logs, verdicts and API problems.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::NotAnImage => "not-an-image",
            Self::UnsupportedFormat { .. } => "unsupported-format",
            Self::Truncated { .. } => "truncated-image",
            Self::TooManyBytes { .. } => "too-many-bytes",
            Self::TooLarge { .. } => "too-large",
            Self::Corrupt { .. } => "corrupt-image",
            Self::DecoderPanicked { .. } => "decoder-panicked",
        }
    }
}
