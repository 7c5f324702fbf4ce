//! `POST /v1/classify`: what an image's labelled neighbours say it is. The body is as for `/v1/query`; `k` and `temperature` may
//! be given.

use std::sync::Arc;

use axum::Json;
use axum::extract::Request;
use serde::Deserialize;
use utoipa::ToSchema;

use super::openapi::Binary;
use super::query::Question;
use super::{Api, Problem};
use crate::daemon::answers::Classification;

/// A stored image or a vector to classify.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(dead_code, reason = "it documents fields that are read one by one")]
pub(super) struct Subject {
    id: Option<u64>,
    vector: Option<Vec<f32>>,
    /// The encoder that made the vector; checked where given.
    encoder: Option<String>,
    /// Voters; as configured where not given.
    #[schema(minimum = 1, maximum = 1000)]
    k: Option<u64>,
    /// Weight of a voter: exp(similarity / temperature); as configured where not given.
    #[schema(exclusive_minimum = 0)]
    temperature: Option<f64>,
}

/// What an image's labelled neighbours say it is
#[utoipa::path(post, path = "/v1/classify", tag = "questions",
    params(("k" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "With an image in the body: voters"),
        ("temperature" = Option<f64>, Query, exclusive_minimum = 0, description = "With an image in the body: weight of a voter is exp(similarity / temperature)")),
    request_body(description = "The image, or a stored one's id or a vector as JSON",
        content((Subject = "application/json"), (Binary = "application/octet-stream"), (Binary = "image/jpeg"))),
    responses((status = 200, description = "The vote; the label is null where nothing carries one", body = Classification),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn post(api: Api, request: Request) -> Result<Json<Classification>, Problem> {
    let Question { subject, held, mut fields } = Question::read(&api, request).await?;
    let (k, temperature) = (fields.k()?, fields.positive("temperature")?);
    fields.finish()?;
    let answers = Arc::clone(&api.answers);
    api.compute.run_one(held, move || answers.classify(&subject, k, temperature)).await.map(Json)
}
