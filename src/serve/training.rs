//! `POST /v1/training/pause`, `/v1/training/resume` and `/v1/checkpoints`: the learner's work, by hand.

use std::sync::Arc;

use axum::Json;

use super::fields::NoFields;
use super::{Api, Problem};
use crate::daemon::answers::{CheckpointStatus, TrainingState};

/// Let training rest; frames go on reaching buffer and segmentation
#[utoipa::path(post, path = "/v1/training/pause", tag = "training", responses(
    (status = 200, description = "It rests, until it is resumed or the daemon restarts", body = TrainingState),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn pause(api: Api, _: NoFields) -> Json<TrainingState> {
    Json(api.answers.pause_training())
}

/// Let training go on, also after it was given up
#[utoipa::path(post, path = "/v1/training/resume", tag = "training", responses(
    (status = 200, description = "It goes on", body = TrainingState),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn resume(api: Api, _: NoFields) -> Json<TrainingState> {
    Json(api.answers.resume_training())
}

/// Write a checkpoint now
#[utoipa::path(post, path = "/v1/checkpoints", tag = "training", responses(
    (status = 200, description = "It is on the disk", body = CheckpointStatus),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn checkpoint(api: Api, _: NoFields) -> Result<Json<CheckpointStatus>, Problem> {
    let answers = Arc::clone(&api.answers);
    api.changes.run((), move || answers.checkpoint_now()).await.map(Json)
}
