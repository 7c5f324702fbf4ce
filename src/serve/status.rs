//! `GET /v1/status`: the daemon on one page.

use axum::Json;

use super::Api;
use super::fields::NoFields;
use crate::daemon::answers::Status;

pub(super) async fn show(api: Api, _: NoFields) -> Json<Status> {
    Json(api.answers.status())
}
