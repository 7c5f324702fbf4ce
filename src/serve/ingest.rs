//! `POST /v1/images`: one more image for the stream. The answer comes once the frame is as durable as the configuration promises:
//! 201 for a new one, 200 for one seen before.

use std::sync::Arc;

use axum::Json;
use axum::extract::Request;
use axum::http::StatusCode;

use super::body::Content;
use super::fields::Fields;
use super::openapi::Binary;
use super::{Api, Problem};
use crate::daemon::answers::{IngestOutcome, Ingested, PostedFrame};

/// One more image for the stream
#[utoipa::path(post, path = "/v1/images", tag = "memory",
    params(("source" = Option<String>, Query, description = "The source it is counted under; `http` where not given"),
        ("label" = Option<String>, Query, description = "Given to the image if the buffer keeps it")),
    request_body(description = "A JPEG, PNG, WebP, BMP or PNM file",
        content((Binary = "application/octet-stream"), (Binary = "image/jpeg"), (Binary = "image/png"))),
    responses((status = 201, description = "Taken in", body = Ingested),
    (status = 200, description = "Seen before, and not taken in again", body = Ingested),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn post(api: Api, request: Request) -> Result<(StatusCode, Json<Ingested>), Problem> {
    let (parts, body) = request.into_parts();
    let mut fields = Fields::of_query(&parts.uri)?;
    let (source, label) = (fields.text("source")?, fields.label("label")?);
    fields.finish()?;
    let (_, upload) = api.bodies.read(&parts, body, &[Content::Image]).await?;
    let answers = Arc::clone(&api.answers);
    let frame = PostedFrame { image: upload.bytes, source, label };
    let ingested = api.ingest.run(upload.held, move || answers.ingest(frame)).await?;
    let status = match ingested.outcome {
        IngestOutcome::Accepted => StatusCode::CREATED,
        IngestOutcome::Duplicate => StatusCode::OK,
    };
    Ok((status, Json(ingested)))
}
