//! `GET /v1/sources`: every inlet. Their number is the configuration's, so the list is whole.

use axum::Json;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::fields::NoFields;
use crate::daemon::answers::SourceStatus;

/// Every inlet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SourceList {
    pub sources: Vec<SourceStatus>,
}

/// Every inlet, what came in and what was refused
#[utoipa::path(get, path = "/v1/sources", tag = "daemon", responses(
    (status = 200, description = "Every inlet", body = SourceList),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn list(api: Api, _: NoFields) -> Json<SourceList> {
    Json(SourceList { sources: api.answers.sources() })
}
