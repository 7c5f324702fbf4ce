//! `GET /v1/sources`: every inlet. Their number is the configuration's, so the list is whole.

use axum::Json;
use serde::{Deserialize, Serialize};

use super::Api;
use super::fields::NoFields;
use crate::daemon::answers::SourceStatus;

/// Every inlet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceList {
    pub sources: Vec<SourceStatus>,
}

pub(super) async fn list(api: Api, _: NoFields) -> Json<SourceList> {
    Json(SourceList { sources: api.answers.sources() })
}
