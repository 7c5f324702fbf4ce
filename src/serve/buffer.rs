//! `GET /v1/buffer`: what the replay buffer holds, and how much of it each task has.

use axum::Json;

use super::Api;
use super::fields::NoFields;
use crate::daemon::answers::BufferStatus;

pub(super) async fn show(api: Api, _: NoFields) -> Json<BufferStatus> {
    Json(api.answers.buffer())
}
