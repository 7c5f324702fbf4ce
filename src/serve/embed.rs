//! `POST /v1/embed`: an image as the published encoder sees it, as JSON or, where `Accept` asks for `application/octet-stream`,
//! as little-endian f32 with the encoder in the headers. `POST /v1/embed/batch` for several; `GET /v1/embeddings` pages through
//! what is stored.

use std::sync::Arc;

use axum::Json;
use axum::extract::Request;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::ToSchema;

use super::body::Content;
use super::fields::{Fields, NoFields};
use super::openapi::Binary;
use super::query::{BatchSubject, Question, subjects};
use super::{Api, Problem};
use crate::daemon::answers::{Embedding, EmbeddingBatch, EmbeddingRows};

/// Media type of vectors as numbers one after the other.
const BINARY: &str = "application/octet-stream";

/// Several images to embed.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(dead_code, reason = "it documents fields that are read one by one")]
pub(super) struct BatchEmbed {
    /// 1 to 64 of them.
    #[schema(min_items = 1, max_items = 64)]
    subjects: Vec<BatchSubject>,
}

/// A stored image to embed.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(dead_code, reason = "it documents fields that are read one by one")]
pub(super) struct Stored {
    id: u64,
}

/// An image as the published encoder sees it
#[utoipa::path(post, path = "/v1/embed", tag = "questions",
    request_body(description = "The image, or a stored one's id as JSON",
        content((Stored = "application/json"), (Binary = "application/octet-stream"), (Binary = "image/jpeg"))),
    responses((status = 200, description = "Its embedding, of length 1; in binary with the headers Lumpd-Encoder, Lumpd-Encoder-Version and Lumpd-Shape",
        content((Embedding = "application/json"), (Binary = "application/octet-stream"))),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn post(api: Api, request: Request) -> Result<Response, Problem> {
    let binary = wants_binary(request.headers());
    let Question { subject, held, fields } = Question::read(&api, request).await?;
    fields.finish()?;
    let answers = Arc::clone(&api.answers);
    let embedding = api.compute.run_one(held, move || answers.embed(&subject)).await?;
    if !binary {
        return Ok(Json(embedding).into_response());
    }
    let Embedding { encoder, encoder_version, vector } = embedding;
    Ok(numbers(&encoder, encoder_version, &[vector.len()], vector.into_iter()))
}

/// Several images as one version of the encoder sees them
#[utoipa::path(post, path = "/v1/embed/batch", tag = "questions", request_body = BatchEmbed,
    responses((status = 200, description = "Their embeddings, each of length 1, in the order asked for",
        content((EmbeddingBatch = "application/json"), (Binary = "application/octet-stream"))),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn batch(api: Api, _: NoFields, request: Request) -> Result<Response, Problem> {
    let binary = wants_binary(request.headers());
    let (parts, body) = request.into_parts();
    let (_, upload) = api.bodies.read(&parts, body, &[Content::Json]).await?;
    let mut fields = Fields::of_json(&upload.bytes)?;
    let subjects = subjects(&mut fields)?;
    fields.finish()?;
    let answers = Arc::clone(&api.answers);
    let batch = api.compute.run(upload.held, move || answers.embed_batch(&subjects)).await?;
    if !binary {
        return Ok(Json(batch).into_response());
    }
    let EmbeddingBatch { encoder, encoder_version, vectors } = batch;
    let shape = [vectors.len(), vectors.first().map_or(0, Vec::len)];
    Ok(numbers(&encoder, encoder_version, &shape, vectors.into_iter().flatten()))
}

/// The embeddings of the stored images, page by page
///
/// In binary: rows of little-endian f32, their ids in the header Lumpd-Ids with commas between them.
#[utoipa::path(get, path = "/v1/embeddings", tag = "memory",
    params(("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "Most rows of the page; 100 where not given"),
        ("after" = Option<u64>, Query, description = "The id after which the page begins"),
        ("task" = Option<u32>, Query, minimum = 1, description = "Only images of this task"),
        ("source" = Option<String>, Query, description = "Only images from this source"),
        ("label" = Option<String>, Query, description = "Only images with this label"),
        ("since" = Option<jiff::Timestamp>, Query, description = "Only images captured then or later (RFC 3339)"),
        ("until" = Option<jiff::Timestamp>, Query, description = "Only images captured before then (RFC 3339)")),
    responses((status = 200, description = "A page of the bank, by id",
        content((EmbeddingRows = "application/json"), (Binary = "application/octet-stream"))),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn list(api: Api, headers: HeaderMap, mut fields: Fields) -> Result<Response, Problem> {
    let (limit, after, filter) = (fields.limit()?, fields.after()?, fields.filter()?);
    fields.finish()?;
    let answers = Arc::clone(&api.answers);
    let page = api.compute.run((), move || answers.embeddings(&filter, after, limit)).await?;
    if !wants_binary(&headers) {
        return Ok(Json(page).into_response());
    }
    let ids: Vec<String> = page.rows.iter().map(|row| row.id.to_string()).collect();
    let shape = [page.rows.len(), page.width];
    let rows = page.rows.into_iter().flat_map(|row| row.vector);
    let mut response = numbers(&page.encoder, page.encoder_version, &shape, rows);
    set(&mut response, "lumpd-ids", &ids.join(","));
    Ok(response)
}

fn wants_binary(headers: &HeaderMap) -> bool {
    let accepted = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accepted.split(',').any(|kind| kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(BINARY))
}

fn numbers(encoder: &str, version: u64, shape: &[usize], values: impl Iterator<Item = f32>) -> Response {
    let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
    let mut response = bytes.into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(BINARY));
    let shape: Vec<String> = shape.iter().map(usize::to_string).collect();
    set(&mut response, "lumpd-encoder", encoder);
    set(&mut response, "lumpd-encoder-version", &version.to_string());
    set(&mut response, "lumpd-shape", &shape.join(","));
    response
}

/// Digits and commas are always a header's value.
fn set(response: &mut Response, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}
