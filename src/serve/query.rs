//! `POST /v1/query`: the stored images nearest to one. The body is the image itself, with `k`, `task`, `source` and `label` in the
//! query string; or a JSON object with the `id` of a stored image and the same fields.

use std::sync::Arc;

use axum::Json;
use axum::extract::Request;
use axum::http::request::Parts;
use tokio::sync::OwnedSemaphorePermit;

use super::body::{Content, Upload};
use super::fields::{Fields, missing};
use super::{Api, Problem, Shared};
use crate::daemon::answers::{Neighbours, Subject};

pub(super) async fn post(api: Api, request: Request) -> Result<Json<Neighbours>, Problem> {
    let Question { subject, held, mut fields } = Question::read(&api, request).await?;
    let (k, filter) = (fields.k()?, fields.filter()?);
    fields.finish()?;
    let answers = Arc::clone(&api.answers);
    api.compute.run(held, move || answers.query(&subject, k, &filter)).await.map(Json)
}

/// A question about one image, sent along or stored.
pub(super) struct Question {
    pub(super) subject: Subject,
    /// The body's share of the budget.
    pub(super) held: Option<OwnedSemaphorePermit>,
    /// The rest of what was said.
    pub(super) fields: Fields,
}

impl Question {
    pub(super) async fn read(shared: &Shared, request: Request) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let (content, upload) = shared.bodies.read(&parts, body, &[Content::Image, Content::Json]).await?;
        match content {
            Content::Image => Self::of_image(&parts, upload),
            Content::Json => Self::of_json(&parts, upload),
        }
    }

    fn of_image(parts: &Parts, upload: Upload) -> Result<Self, Problem> {
        let fields = Fields::of_query(&parts.uri)?;
        Ok(Self { subject: Subject::Encoded(upload.bytes), held: upload.held, fields })
    }

    fn of_json(parts: &Parts, upload: Upload) -> Result<Self, Problem> {
        Fields::of_query(&parts.uri)?.finish()?;
        let mut fields = Fields::of_json(&upload.bytes)?;
        let id = fields.whole("id", 0..=u64::MAX)?.ok_or_else(|| missing("id"))?;
        Ok(Self { subject: Subject::Stored(id), held: None, fields })
    }
}
