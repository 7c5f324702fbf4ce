//! `POST /v1/classify`: what an image's labelled neighbours say it is. The body is as for `/v1/query`; `k` and `temperature` may
//! be given.

use std::sync::Arc;

use axum::Json;
use axum::extract::Request;

use super::query::Question;
use super::{Api, Problem};
use crate::daemon::answers::Classification;

pub(super) async fn post(api: Api, request: Request) -> Result<Json<Classification>, Problem> {
    let Question { subject, held, mut fields } = Question::read(&api, request).await?;
    let (k, temperature) = (fields.k()?, fields.positive("temperature")?);
    fields.finish()?;
    let answers = Arc::clone(&api.answers);
    api.compute.run(held, move || answers.classify(&subject, k, temperature)).await.map(Json)
}
