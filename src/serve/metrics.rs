//! `GET /metrics`: for Prometheus.

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use super::Api;
use super::fields::NoFields;

/// All metrics in Prometheus' text format
#[utoipa::path(get, path = "/metrics", tag = "supervision", responses(
    (status = 200, description = "Text format 0.0.4", content_type = "text/plain", body = String),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn show(api: Api, _: NoFields) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], (api.hooks.render_metrics)())
}
