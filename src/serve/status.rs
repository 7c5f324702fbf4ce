//! `GET /v1/status`: the daemon on one page; `GET /v1/history`: its numbers over the last hour.

use axum::Json;

use super::fields::{Fields, NoFields};
use super::{Api, Problem};
use crate::daemon::answers::{History, Status};

/// The daemon on one page
#[utoipa::path(get, path = "/v1/status", tag = "daemon", responses(
    (status = 200, description = "How the daemon is doing", body = Status),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn show(api: Api, _: NoFields) -> Json<Status> {
    Json(api.answers.status())
}

/// The daemon's numbers over the last hour
#[utoipa::path(get, path = "/v1/history", tag = "daemon",
    params(("since" = Option<jiff::Timestamp>, Query, description = "Only samples after this time (RFC 3339)")),
    responses(
    (status = 200, description = "Samples, oldest first", body = History),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn history(api: Api, mut fields: Fields) -> Result<Json<History>, Problem> {
    let since = fields.time("since")?;
    fields.finish()?;
    Ok(Json(api.answers.history(since)))
}
