//! Errors as the API says them: RFC 9457 problem details, with a stable `code`, the offending `field` where there is one, and
//! the `remedy`.
//!
//! ```
//! use lumpd::serve::Problem;
//! let problem = Problem::new(404, "unknown-image", "no image 7 is in the replay buffer").remedy("take another id");
//! let json = serde_json::to_value(&problem).unwrap();
//! assert_eq!(json["type"], "urn:lumpd:problem:unknown-image");
//! assert_eq!(json["title"], "Unknown image");
//! ```

use std::fmt;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::daemon::answers::AnswerError;

/// Media type of a problem.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// A problem. Its type and its title follow from its code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Wire", into = "Wire")]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// Stable name: clients may act on it.
    pub code: String,
    /// What is wrong this time, and where.
    pub detail: String,
    /// The parameter, JSON field or header at fault.
    pub field: Option<String>,
    /// What to do about it.
    pub remedy: Option<String>,
    /// Sent as the header `Retry-After`, not in the body.
    retry_after_seconds: Option<u32>,
}

/// What is wrong, where, and what to do about it (RFC 9457).
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct Wire {
    /// A URN that ends in the code.
    #[serde(rename = "type")]
    kind: String,
    /// The kind of problem for people; the same every time.
    title: String,
    status: u16,
    detail: String,
    code: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl From<Problem> for Wire {
    fn from(problem: Problem) -> Self {
        let Problem { status, code, detail, field, remedy, .. } = problem;
        Self { kind: format!("urn:lumpd:problem:{code}"), title: title(&code), status, detail, code, field, remedy }
    }
}

impl From<Wire> for Problem {
    fn from(wire: Wire) -> Self {
        let Wire { status, code, detail, field, remedy, .. } = wire;
        Self { status, code, detail, field, remedy, retry_after_seconds: None }
    }
}

impl Problem {
    pub fn new(status: u16, code: &str, detail: impl Into<String>) -> Self {
        let (code, detail) = (code.into(), detail.into());
        Self { status, code, detail, field: None, remedy: None, retry_after_seconds: None }
    }

    pub fn field(mut self, name: impl Into<String>) -> Self {
        self.field = Some(name.into());
        self
    }

    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    /// A parameter or JSON field whose value is not what it must be.
    pub(super) fn invalid(field: &str, detail: impl Into<String>) -> Self {
        let remedy = format!("send `{field}` as the detail asks for; /docs describes every field");
        Self::new(400, "invalid-parameter", detail).field(field).remedy(remedy)
    }

    /// A fault of lumpd itself. What exactly stays in the log: errors carry no internals.
    pub(super) fn internal() -> Self {
        Self::new(500, "internal", "a fault of lumpd itself").remedy("look in the daemon's log, and report it")
    }
}

/// `unknown-image` as `Unknown image`.
fn title(code: &str) -> String {
    let words = code.replace('-', " ");
    let mut letters = words.chars();
    letters.next().map(|first| first.to_uppercase().collect::<String>() + letters.as_str()).unwrap_or_default()
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)?;
        self.remedy.iter().try_for_each(|remedy| write!(f, "; {remedy}"))
    }
}

impl std::error::Error for Problem {}

impl From<AnswerError> for Problem {
    fn from(error: AnswerError) -> Self {
        let (status, retry_after) = match &error {
            AnswerError::NotAnImage { .. }
            | AnswerError::TruncatedImage { .. }
            | AnswerError::UndecodableImage { .. } => (422, None),
            AnswerError::TooLarge { .. } => (413, None),
            AnswerError::UnknownImage { .. } | AnswerError::UnknownTask { .. } | AnswerError::UnknownSource { .. } => {
                (404, None)
            }
            AnswerError::InvalidLabel { .. } | AnswerError::Invalid { .. } => (400, None),
            AnswerError::OtherEncoder { .. } => (409, None),
            AnswerError::Busy { .. } => (503, Some(5)),
            AnswerError::InBatch { place, error } => {
                let inner = Self::from((**error).clone());
                // A fault or a full disk says the same wherever it is met.
                return match inner.status {
                    500.. => inner,
                    _ => Self { detail: format!("number {place} of the batch: {}", inner.detail), ..inner }
                        .field("subjects"),
                };
            }
            AnswerError::NoEncoderYet => (503, Some(5)),
            AnswerError::Overloaded { .. } => (429, Some(1)),
            AnswerError::Draining => (503, Some(10)),
            AnswerError::Storage { .. } => (507, None),
            // The match is exhaustive inside this crate, so a new error asks here for its status.
            AnswerError::Internal { detail } => {
                tracing::error!(detail, "a question met an internal fault");
                return Self::internal();
            }
        };
        if let AnswerError::Storage { detail } = &error {
            tracing::error!(detail, "a change could not be stored");
            return Self::new(status, error.code(), "the state could not be written").remedy(error.remedy());
        }
        let problem = Self::new(status, error.code(), error.detail()).remedy(error.remedy());
        let problem = match &error {
            AnswerError::Invalid { field, .. } => problem.field(*field),
            _ => problem,
        };
        Self { retry_after_seconds: retry_after, ..problem }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        // Strings and a number: they always have a JSON form.
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, body).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(seconds) = self.retry_after_seconds {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_error_is_a_problem_with_its_code_and_a_remedy() {
        let detail = || "x".to_string();
        for (error, status) in [
            (AnswerError::NotAnImage { detail: detail() }, 422),
            (AnswerError::TruncatedImage { detail: detail() }, 422),
            (AnswerError::UndecodableImage { detail: detail() }, 422),
            (AnswerError::TooLarge { detail: detail() }, 413),
            (AnswerError::UnknownImage { id: 1 }, 404),
            (AnswerError::UnknownTask { id: 1 }, 404),
            (AnswerError::UnknownSource { name: detail() }, 404),
            (AnswerError::InvalidLabel { label: detail(), why: "w" }, 400),
            (AnswerError::NoEncoderYet, 503),
            (AnswerError::Overloaded { what: "w" }, 429),
            (AnswerError::Draining, 503),
            (AnswerError::Storage { detail: detail() }, 507),
            (AnswerError::Internal { detail: detail() }, 500),
        ] {
            let code = error.code();
            let problem = Problem::from(error);
            assert_eq!((problem.status, problem.code.as_str()), (status, code));
            assert!(problem.remedy.is_some(), "{code}");
            assert_eq!(problem.retry_after_seconds.is_some(), matches!(status, 429 | 503), "{code}");
        }
    }

    #[test]
    fn internals_stay_in_the_log() {
        for error in [
            AnswerError::Internal { detail: "/secret/path".into() },
            AnswerError::Storage { detail: "/secret/path".into() },
        ] {
            let json = serde_json::to_string(&Problem::from(error)).unwrap();
            assert!(!json.contains("secret"), "{json}");
        }
    }

    #[test]
    fn a_problem_reads_back_as_it_was_written() {
        let problem = Problem::invalid("k", "k must be a whole number").remedy("say k=5");
        let json = serde_json::to_string(&problem).unwrap();
        assert_eq!(serde_json::from_str::<Problem>(&json).unwrap(), problem);
    }
}
