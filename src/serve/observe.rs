//! What every answer has in common: headers that make browsers careful, a record for the metrics, and an answer after a panic.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::{Problem, Shared};

/// One answered request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// The route's template, such as `/v1/tasks/{id}`; `other` where none matched. Of bounded number, so fit for a label.
    pub route: String,
    /// HTTP status.
    pub status: u16,
    /// From the request's head to the answer's.
    pub took: Duration,
}

/// The ties to telemetry, which this room does not know.
pub struct Hooks {
    /// Renders all metrics in Prometheus' text format.
    pub render_metrics: Box<dyn Fn() -> String + Send + Sync>,
    /// Told of every answer.
    pub on_served: Box<dyn Fn(&Served) + Send + Sync>,
}

impl Default for Hooks {
    /// No metrics.
    fn default() -> Self {
        Self { render_metrics: Box::new(String::new), on_served: Box::new(|_| ()) }
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hooks")
    }
}

/// Middleware around everything else.
pub(super) async fn observe(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Pages of other origins may not show the images either.
    headers.insert(HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    let served = Served { route, status: response.status().as_u16(), took: start.elapsed() };
    // 503 is no fault: it says that the daemon starts, drains or has enough to do, and whoever asks is told when to come back.
    if served.status >= 500 && served.status != 503 {
        tracing::warn!(route = served.route, status = served.status, "a request failed");
    }
    (shared.hooks.on_served)(&served);
    response
}

/// The answer after a panic. Its words stay in the log.
pub(super) fn on_panic(panic: Box<dyn Any + Send>) -> Response {
    let words = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    tracing::error!(panic = words.unwrap_or("without words"), "a request panicked");
    Problem::internal().into_response()
}
