//! `GET /v1/forgetting` and `/v1/accuracy`: what the evaluation says, in its own form.

use axum::Json;
use serde_json::Value;

use super::Api;
use super::fields::NoFields;

pub(super) async fn show(api: Api, _: NoFields) -> Json<Value> {
    Json(api.answers.forgetting())
}

pub(super) async fn accuracy(api: Api, _: NoFields) -> Json<Value> {
    Json(api.answers.accuracy())
}
