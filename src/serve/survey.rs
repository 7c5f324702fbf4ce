//! `GET /v1/map`: the embedding in two dimensions; `GET /v1/export/bank` and `/v1/export/encoder`: files for other programs.

use std::sync::Arc;

use axum::Json;
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};

use super::fields::{Fields, NoFields};
use super::openapi::Binary;
use super::{Api, Problem};
use crate::daemon::answers::{EmbeddingMap, ExportedFile};

/// Points of the map where the request names no number.
const DEFAULT_POINTS: u64 = 1000;

/// Most points of the map.
const MAX_POINTS: u64 = 5000;

/// The embedding in two dimensions: its first two principal components
#[utoipa::path(get, path = "/v1/map", tag = "evaluation",
    params(("limit" = Option<u64>, Query, minimum = 1, maximum = 5000, description = "Most points; 1000 where not given")),
    responses((status = 200, description = "The stored images' places, spread evenly over the ids where there are more", body = EmbeddingMap),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn map(api: Api, mut fields: Fields) -> Result<Json<EmbeddingMap>, Problem> {
    let limit = fields.whole("limit", 1..=MAX_POINTS)?.unwrap_or(DEFAULT_POINTS) as usize;
    fields.finish()?;
    let answers = Arc::clone(&api.answers);
    api.compute.run((), move || answers.map(limit)).await.map(Json)
}

/// The whole bank as a safetensors file
///
/// `embeddings` (n, width) f32; `ids`, `tasks` (0: none), `sources` and `captured_at_ns`, each (n) i64. The metadata names the
/// encoder, its version, the sources, the tasks and the labels.
#[utoipa::path(get, path = "/v1/export/bank", tag = "export", responses(
    (status = 200, description = "A safetensors file", content_type = "application/octet-stream", body = Binary),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn bank(api: Api, _: NoFields) -> Result<Response, Problem> {
    let answers = Arc::clone(&api.answers);
    let file = api.exports.run((), move || answers.bank_file()).await?;
    Ok(download("bank", file))
}

/// The published encoder as a safetensors file under torchvision's names
#[utoipa::path(get, path = "/v1/export/encoder", tag = "export", responses(
    (status = 200, description = "A safetensors file", content_type = "application/octet-stream", body = Binary),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn encoder(api: Api, _: NoFields) -> Result<Response, Problem> {
    let answers = Arc::clone(&api.answers);
    let file = api.exports.run((), move || answers.encoder_file()).await?;
    Ok(download("encoder", file))
}

fn download(what: &str, file: ExportedFile) -> Response {
    let name = format!("attachment; filename=\"lumpd-{what}-v{}.safetensors\"", file.encoder_version);
    let mut response = file.bytes.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    // Letters, digits and hyphens only.
    if let Ok(name) = HeaderValue::from_str(&name) {
        headers.insert(CONTENT_DISPOSITION, name);
    }
    if let Ok(encoder) = HeaderValue::from_str(&file.encoder) {
        headers.insert("lumpd-encoder", encoder);
    }
    headers.insert("lumpd-encoder-version", file.encoder_version.into());
    response
}
