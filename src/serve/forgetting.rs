//! `GET /v1/forgetting`, `/v1/forgetting/history` and `/v1/accuracy`: what the evaluation says, in its own form.

use axum::Json;
use serde_json::Value;
use utoipa::ToSchema;

use super::Api;
use super::fields::NoFields;
use crate::evaluate::{AccuracyRow, AccuracySummary, ForgettingReport, TaskHistory};

/// Accuracy on each labelled task after each task's end, and what it comes to.
#[derive(ToSchema)]
#[allow(dead_code, reason = "it stands for the answer in the description")]
pub(super) struct AccuracyReport {
    rows: Vec<AccuracyRow>,
    summary: AccuracySummary,
}

/// What each task has lost since it ended
///
/// `tasks`: of every task `retained` (0 to 1, how much of what was known at its end is still there), its 95 % interval, the
/// same in words, and the latest measurement whole. What is not defined is null.
#[utoipa::path(get, path = "/v1/forgetting", tag = "evaluation", responses(
    (status = 200, description = "The evaluation's report; null before the first", body = Option<ForgettingReport>),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn show(api: Api, _: NoFields) -> Json<Value> {
    Json(api.answers.forgetting())
}

/// How the forgetting of each task went since it ended
#[utoipa::path(get, path = "/v1/forgetting/history", tag = "evaluation", responses(
    (status = 200, description = "Of every task: its measurements, oldest first; null before the first", body = Option<Vec<TaskHistory>>),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn history(api: Api, _: NoFields) -> Json<Value> {
    Json(api.answers.forgetting_history())
}

/// The accuracy matrix of the labelled tasks, and its averages
#[utoipa::path(get, path = "/v1/accuracy", tag = "evaluation", responses(
    (status = 200, description = "Rows in the order of time; empty where nothing is labelled, null before the first evaluation", body = Option<AccuracyReport>),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn accuracy(api: Api, _: NoFields) -> Json<Value> {
    Json(api.answers.accuracy())
}
