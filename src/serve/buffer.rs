//! `GET /v1/buffer`: what the replay buffer holds, and how much of it each task has.

use axum::Json;

use super::Api;
use super::fields::NoFields;
use crate::daemon::answers::BufferStatus;

/// What the replay buffer holds, and how much of it each task has
#[utoipa::path(get, path = "/v1/buffer", tag = "memory", responses(
    (status = 200, description = "The replay buffer", body = BufferStatus),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn show(api: Api, _: NoFields) -> Json<BufferStatus> {
    Json(api.answers.buffer())
}
