//! `GET /metrics`: all metrics in Prometheus' text format, as the telemetry renders them.

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use super::Api;
use super::fields::NoFields;

/// Media type of the exposition format, version 0.0.4.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) async fn show(api: Api, _: NoFields) -> impl IntoResponse {
    ([(CONTENT_TYPE, TEXT_FORMAT)], (api.hooks.render_metrics)())
}
