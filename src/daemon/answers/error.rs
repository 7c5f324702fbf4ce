//! Why a question has no answer, and the labels that people may give.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why the daemon does not answer a question. [`AnswerError::code`] is stable: clients may act on it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AnswerError {
    /// The bytes are no image of a known format.
    NotAnImage {
        detail: String,
    },
    /// The image ends before its data does.
    TruncatedImage {
        detail: String,
    },
    /// The image is of a known format but damaged or of a form that is not decoded.
    UndecodableImage {
        detail: String,
    },
    /// More bytes or pixels than `[decode]` allows.
    TooLarge {
        detail: String,
    },
    UnknownImage {
        id: u64,
    },
    UnknownTask {
        id: u32,
    },
    UnknownSource {
        name: String,
    },
    InvalidLabel {
        label: String,
        why: &'static str,
    },
    /// A field whose value is not possible here.
    Invalid {
        field: &'static str,
        detail: String,
        remedy: &'static str,
    },
    /// The vector comes from another encoder than the published one.
    OtherEncoder {
        given: String,
        published: String,
    },
    /// The subject of that place in a batch, counted from 0, is in error.
    InBatch {
        place: usize,
        error: Box<AnswerError>,
    },
    /// The thread that does it has not come to it in time.
    Busy {
        what: &'static str,
    },
    NoEncoderYet,
    /// Something is full: `what` names it.
    Overloaded {
        what: &'static str,
    },
    Draining,
    /// The disk did not take it.
    Storage {
        detail: String,
    },
    /// A fault of lumpd itself.
    Internal {
        detail: String,
    },
}

impl AnswerError {
    /// Stable name, for logs, metrics and API problems.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotAnImage { .. } => "not-an-image",
            Self::TruncatedImage { .. } => "truncated-image",
            Self::UndecodableImage { .. } => "undecodable-image",
            Self::TooLarge { .. } => "too-large",
            Self::UnknownImage { .. } => "unknown-image",
            Self::UnknownTask { .. } => "unknown-task",
            Self::UnknownSource { .. } => "unknown-source",
            Self::InvalidLabel { .. } => "invalid-label",
            Self::Invalid { .. } => "invalid-parameter",
            Self::OtherEncoder { .. } => "other-encoder",
            Self::InBatch { error, .. } => error.code(),
            Self::Busy { .. } => "busy",
            Self::NoEncoderYet => "no-encoder-yet",
            Self::Overloaded { .. } => "overloaded",
            Self::Draining => "draining",
            Self::Storage { .. } => "storage",
            Self::Internal { .. } => "internal",
        }
    }

    /// What is wrong, and where.
    pub fn detail(&self) -> String {
        match self {
            Self::NotAnImage { detail }
            | Self::TruncatedImage { detail }
            | Self::UndecodableImage { detail }
            | Self::TooLarge { detail }
            | Self::Invalid { detail, .. } => detail.clone(),
            Self::UnknownImage { id } => format!("no image {id} is in the replay buffer"),
            Self::UnknownTask { id } => format!("there is no task {id}"),
            Self::UnknownSource { name } => format!("there is no source {name:?}"),
            Self::InvalidLabel { label, why } => format!("{label:?} cannot be a label: {why}"),
            Self::OtherEncoder { given, published } => {
                format!("the vector was made by encoder {given:?}, and {published} is published now")
            }
            Self::InBatch { place, error } => format!("number {place} of the batch: {}", error.detail()),
            Self::Busy { what } => format!("{what} has not come to it in time"),
            Self::NoEncoderYet => "no version of the encoder has been published yet".into(),
            Self::Overloaded { what } => format!("{what} is full"),
            Self::Draining => "the daemon is stopping".into(),
            Self::Storage { detail } => format!("the state could not be written: {detail}"),
            Self::Internal { detail } => format!("a fault of lumpd itself: {detail}"),
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NotAnImage { .. } => "send a JPEG, PNG, WebP, BMP or PNM file",
            Self::TruncatedImage { .. } => "send the file again once it is written completely",
            Self::UndecodableImage { .. } => "save the image anew with another program",
            Self::TooLarge { .. } => "scale the image down, or raise the limits of [decode]",
            Self::UnknownImage { .. } => {
                "take an id from a recent query: the bounded buffer replaces images as new ones come"
            }
            Self::UnknownTask { .. } => "take an id from the list of tasks",
            Self::UnknownSource { .. } => "take a name from the list of sources",
            Self::InvalidLabel { .. } => "use 1 to 64 bytes of printable text without surrounding spaces",
            Self::Invalid { remedy, .. } => remedy,
            Self::OtherEncoder { .. } => "embed the image again: vectors of different encoders cannot be compared",
            Self::InBatch { error, .. } => error.remedy(),
            Self::Busy { .. } => "it will still be done; look at the status in a while",
            Self::NoEncoderYet => "try again in a few seconds: the first version is published soon after the start",
            Self::Overloaded { .. } => "try again later, or send fewer requests at once",
            Self::Draining => "try again once the daemon runs again",
            Self::Storage { .. } => "check the free space and the permissions of the state folder",
            Self::Internal { .. } => "look in the daemon's log, and report it",
        }
    }
}

impl fmt::Display for AnswerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.detail(), self.remedy())
    }
}

impl std::error::Error for AnswerError {}

/// What people call an image: 1 to 64 bytes of printable text without surrounding spaces.
///
/// ```
/// use lumpd::daemon::answers::Label;
/// assert_eq!(Label::new("speed limit 50").unwrap().as_str(), "speed limit 50");
/// assert_eq!(Label::new("").unwrap_err().code(), "invalid-label");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

impl Label {
    /// Longest label, in bytes of UTF-8.
    pub const MAX_BYTES: usize = 64;

    /// # Errors
    /// [`AnswerError::InvalidLabel`] says what is wrong with it.
    pub fn new(text: impl Into<String>) -> Result<Self, AnswerError> {
        let label = text.into();
        let why = if label.is_empty() {
            "it is empty"
        } else if label.len() > Self::MAX_BYTES {
            "it is longer than 64 bytes"
        } else if label.chars().any(char::is_control) {
            "it has a control character"
        } else if label.trim() != label {
            "it starts or ends with a space"
        } else {
            return Ok(Self(label));
        };
        // An overlong label is not repeated whole to whoever sent it.
        Err(AnswerError::InvalidLabel { label: label.chars().take(40).collect(), why })
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Label {
    type Error = AnswerError;

    fn try_from(text: String) -> Result<Self, AnswerError> {
        Self::new(text)
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_printable_bounded_text() {
        for good in ["a", "Stop", "speed limit 50", "Ampel rot", "\u{1f6d1}", &"x".repeat(Label::MAX_BYTES)] {
            assert_eq!(Label::new(good).unwrap().as_str(), good);
        }
        for bad in ["", " a", "a ", "a\nb", "a\0", &"x".repeat(Label::MAX_BYTES + 1)] {
            let error = Label::new(bad).unwrap_err();
            assert_eq!(error.code(), "invalid-label", "{bad:?}");
            assert!(error.to_string().len() < 200, "{error}");
        }
    }

    #[test]
    fn a_label_is_checked_when_it_is_read_back() {
        assert_eq!(serde_json::from_str::<Label>("\"cat\"").unwrap().as_str(), "cat");
        assert!(serde_json::from_str::<Label>("\"\"").is_err());
    }

    #[test]
    fn a_message_says_what_where_and_what_to_do() {
        let message = AnswerError::UnknownImage { id: 42 }.to_string();
        assert!(message.starts_with("no image 42 is in the replay buffer; take an id"), "{message}");
    }
}
