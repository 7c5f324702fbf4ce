//! `GET /livez`, `/readyz` and `/healthz` (the same as `/readyz`): for those who supervise the daemon.

use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;

use super::fields::NoFields;
use super::{Api, Problem};
use crate::daemon::answers::Readiness;

/// The process answers.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Liveness {
    live: bool,
}

/// Whether the process answers
#[utoipa::path(get, path = "/livez", tag = "supervision", security(()), responses(
    (status = 200, description = "It does", body = Liveness),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn live(_: NoFields) -> Json<Liveness> {
    Json(Liveness { live: true })
}

/// Whether queries are answered
#[utoipa::path(get, path = "/readyz", tag = "supervision", security(()), responses(
    (status = 200, description = "They are, also while it trains or writes a checkpoint", body = Readiness),
    (status = 503, description = "Not yet", content_type = "application/problem+json", body = crate::serve::problem::Wire),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn ready(api: Api, _: NoFields) -> Result<Json<Readiness>, Problem> {
    let readiness = api.answers.readiness();
    if readiness.ready {
        return Ok(Json(readiness));
    }
    let detail = format!("queries are not answered yet; waiting for: {}", readiness.waiting_for.join(", "));
    Err(Problem::new(503, "not-ready", detail).remedy("try again in a few seconds").retry_after(2))
}
