//! `POST /v1/embed`: an image as the published encoder sees it. The body is as for `/v1/query`.

use std::sync::Arc;

use axum::Json;
use axum::extract::Request;

use super::query::Question;
use super::{Api, Problem};
use crate::daemon::answers::Embedding;

pub(super) async fn post(api: Api, request: Request) -> Result<Json<Embedding>, Problem> {
    let Question { subject, held, fields } = Question::read(&api, request).await?;
    fields.finish()?;
    let answers = Arc::clone(&api.answers);
    api.compute.run(held, move || answers.embed(&subject)).await.map(Json)
}
