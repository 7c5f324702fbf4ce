//! `GET /livez`, `/readyz` and `/healthz` (the same as `/readyz`): for those who supervise the daemon.

use axum::Json;
use serde_json::{Value, json};

use super::fields::NoFields;
use super::{Api, Problem};
use crate::daemon::answers::Readiness;

/// The process answers.
pub(super) async fn live(_: NoFields) -> Json<Value> {
    Json(json!({ "live": true }))
}

/// Queries are answered.
pub(super) async fn ready(api: Api, _: NoFields) -> Result<Json<Readiness>, Problem> {
    let readiness = api.answers.readiness();
    if readiness.ready {
        return Ok(Json(readiness));
    }
    let detail = format!("queries are not answered yet; waiting for: {}", readiness.waiting_for.join(", "));
    Err(Problem::new(503, "not-ready", detail).remedy("try again in a few seconds").retry_after(2))
}
