//! Reading the body of a request: within its size limit, within its time, and within a budget of bytes over all requests.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::Problem;

/// How much of a body that is too large is read and thrown away, so that the client gets to read why; more ends the connection.
const DISCARD_FACTOR: usize = 4;

/// What a body contains, by its `Content-Type`. Forms and plain text are not among them, so that no page in a browser can send
/// one without asking first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Image,
    Json,
}

/// A body that was read. Its share of the budget is held as long as `held` lives.
pub(super) struct Upload {
    pub(super) bytes: Bytes,
    pub(super) held: Option<OwnedSemaphorePermit>,
}

/// Reads bodies.
pub(super) struct BodyReader {
    max_bytes: usize,
    time: Duration,
    budget: Arc<Semaphore>,
}

impl BodyReader {
    /// `max_bytes` of one body, `budget_bytes` of all that are held at once, `time` for one body to arrive.
    pub(super) fn new(max_bytes: usize, budget_bytes: usize, time: Duration) -> Self {
        Self { max_bytes, time, budget: Arc::new(Semaphore::new(budget_bytes.min(Semaphore::MAX_PERMITS))) }
    }

    /// The body and what it contains, which must be among `accepted`.
    pub(super) async fn read(
        &self,
        parts: &Parts,
        body: Body,
        accepted: &[Content],
    ) -> Result<(Content, Upload), Problem> {
        let content = content_of(&parts.headers, accepted)?;
        let declared = header(&parts.headers, CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
        let too_large = declared.is_some_and(|length| length > self.max_bytes as u64);
        let read = async move {
            let mut body = body;
            if too_large { Err(self.refuse(&mut body).await) } else { self.collect(&mut body).await }
        };
        let upload = timeout(self.time, read).await.map_err(|_| self.too_slow())??;
        if upload.bytes.is_empty() {
            return Err(Problem::new(400, "empty-body", "the body is empty")
                .remedy("send the image or the JSON object as the body"));
        }
        Ok((content, upload))
    }

    async fn collect(&self, body: &mut Body) -> Result<Upload, Problem> {
        let mut bytes = BytesMut::new();
        let mut held: Option<OwnedSemaphorePermit> = None;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| broken_off())?.into_data() else { continue };
            if bytes.len() + data.len() > self.max_bytes {
                drop((bytes, held));
                return Err(self.refuse(body).await);
            }
            let share = self.share(data.len())?;
            match &mut held {
                Some(held) => held.merge(share),
                None => held = Some(share),
            }
            bytes.extend_from_slice(&data);
        }
        Ok(Upload { bytes: bytes.freeze(), held })
    }

    /// Takes bytes from the budget as they arrive, never ahead of them: who sends slowly holds little.
    fn share(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let full = || {
            Problem::new(429, "overloaded", "too many bytes of other requests are being worked on")
                .remedy("try again later, or send fewer requests at once")
                .retry_after(1)
        };
        let bytes = u32::try_from(bytes).map_err(|_| full())?;
        Arc::clone(&self.budget).try_acquire_many_owned(bytes).map_err(|_| full())
    }

    /// Reads on without keeping anything: a client that still sends when the connection closes may never see the answer.
    async fn refuse(&self, body: &mut Body) -> Problem {
        let mut discarded = 0_usize;
        while discarded <= self.max_bytes.saturating_mul(DISCARD_FACTOR) {
            match body.frame().await {
                Some(Ok(frame)) => discarded += frame.data_ref().map_or(0, Bytes::len),
                _ => break,
            }
        }
        Problem::new(413, "body-too-large", format!("the body is larger than {} bytes", self.max_bytes))
            .remedy("scale the image down, or send it through a directory or socket source")
    }

    fn too_slow(&self) -> Problem {
        let detail = format!("the body did not arrive within {} seconds", self.time.as_secs_f64());
        Problem::new(408, "body-too-slow", detail).remedy("send it again over a faster connection")
    }
}

fn broken_off() -> Problem {
    Problem::new(400, "broken-body", "the body broke off before its end").remedy("send it again")
}

fn header(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

fn content_of(headers: &HeaderMap, accepted: &[Content]) -> Result<Content, Problem> {
    if header(headers, CONTENT_ENCODING).is_some_and(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
        return Err(Problem::new(415, "unsupported-encoding", "bodies are not decompressed")
            .field("Content-Encoding")
            .remedy("send the body as it is; images are compressed already"));
    }
    let kind = header(headers, CONTENT_TYPE).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let content = match essence.as_str() {
        "application/json" => Some(Content::Json),
        "application/octet-stream" => Some(Content::Image),
        image if image.starts_with("image/") => Some(Content::Image),
        _ => None,
    };
    content.filter(|content| accepted.contains(content)).ok_or_else(|| {
        let names = accepted.iter().map(|content| match content {
            Content::Image => "image/* or application/octet-stream",
            Content::Json => "application/json",
        });
        let detail = if kind.is_empty() {
            "the content type is missing".into()
        } else {
            format!("a body of type {kind:?} is not taken here")
        };
        Problem::new(415, "unsupported-content-type", detail)
            .field("Content-Type")
            .remedy(format!("send {}", names.collect::<Vec<_>>().join(", or ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(kind: &str) -> Parts {
        axum::http::Request::builder().header(CONTENT_TYPE, kind).body(()).unwrap().into_parts().0
    }

    #[test]
    fn content_types_that_a_browser_form_can_send_are_refused() {
        let both = [Content::Image, Content::Json];
        for (kind, content) in [
            ("image/jpeg", Content::Image),
            ("Image/PNG", Content::Image),
            ("application/octet-stream", Content::Image),
            ("application/json; charset=utf-8", Content::Json),
        ] {
            assert_eq!(content_of(&parts(kind).headers, &both).unwrap(), content, "{kind}");
        }
        for kind in
            ["", "text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "images/x"]
        {
            let problem = content_of(&parts(kind).headers, &both).unwrap_err();
            assert_eq!((problem.status, problem.field.as_deref()), (415, Some("Content-Type")), "{kind}");
        }
        assert!(content_of(&parts("application/json").headers, &[Content::Image]).is_err());
    }

    #[tokio::test]
    async fn the_budget_is_taken_while_a_body_is_held_and_given_back_after() {
        let reader = BodyReader::new(100, 150, Duration::from_secs(1));
        let read = || reader.read_image(vec![7; 100]);
        let first = read().await.unwrap();
        assert_eq!(first.bytes.len(), 100);
        assert_eq!(read().await.err().unwrap().code, "overloaded");
        drop(first);
        assert!(read().await.is_ok());
    }

    #[tokio::test]
    async fn a_body_of_exactly_the_limit_is_read_and_one_more_byte_is_not() {
        let reader = BodyReader::new(100, 1000, Duration::from_secs(1));
        assert!(reader.read_image(vec![7; 100]).await.is_ok());
        assert_eq!(reader.read_image(vec![7; 101]).await.err().unwrap().code, "body-too-large");
        assert_eq!(reader.read_image(vec![]).await.err().unwrap().code, "empty-body");
    }

    impl BodyReader {
        async fn read_image(&self, bytes: Vec<u8>) -> Result<Upload, Problem> {
            self.read(&parts("image/png"), Body::from(bytes), &[Content::Image]).await.map(|(_, upload)| upload)
        }
    }
}
