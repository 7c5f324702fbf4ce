//! `POST /v1/query`: the stored images nearest to one. The body is the image itself, with `k`, `offset` and the filter in the
//! query string; or a JSON object with the `id` of a stored image or a `vector`, and the same fields. `POST /v1/query/batch`
//! asks for several at once.

use std::sync::Arc;

use axum::Json;
use axum::extract::Request;
use axum::http::request::Parts;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::body::{Content, Upload};
use super::fields::{Fields, NoFields, missing};
use super::openapi::Binary;
use super::work::{Held, is_small};
use super::{Api, Problem, Shared};
use crate::daemon::answers::{NeighbourBatch, Neighbours, Subject};
use crate::device::Turn;

/// Questions of one batch.
pub(super) const MAX_BATCH: usize = 64;

/// Largest number of better neighbours that a page leaves out.
const MAX_OFFSET: u64 = 100_000;

/// Numbers of the longest vector that is read at all.
const MAX_VECTOR: usize = 8192;

/// A question about one image: `id` or `vector`, and which neighbours.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(dead_code, reason = "it documents fields that are read one by one")]
pub(super) struct Query {
    /// A stored image.
    id: Option<u64>,
    /// An embedding, as `/v1/embed` gives it.
    vector: Option<Vec<f32>>,
    /// The encoder that made the vector; checked where given.
    encoder: Option<String>,
    /// How many; as configured where not given.
    #[schema(minimum = 1, maximum = 1000)]
    k: Option<u64>,
    /// How many better ones are left out.
    #[schema(maximum = 100_000)]
    offset: Option<u64>,
    /// Only neighbours of this task.
    task: Option<u32>,
    /// Only neighbours from this source.
    source: Option<String>,
    /// Only neighbours with this label.
    label: Option<String>,
    /// Only neighbours captured then or later.
    since: Option<jiff::Timestamp>,
    /// Only neighbours captured before then.
    until: Option<jiff::Timestamp>,
}

/// Several questions with one filter.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(dead_code, reason = "it documents fields that are read one by one")]
pub(super) struct BatchQuery {
    /// 1 to 64 of them.
    #[schema(min_items = 1, max_items = 64)]
    subjects: Vec<BatchSubject>,
    /// Neighbours of each; as configured where not given.
    #[schema(minimum = 1, maximum = 1000)]
    k: Option<u64>,
    task: Option<u32>,
    source: Option<String>,
    label: Option<String>,
    since: Option<jiff::Timestamp>,
    until: Option<jiff::Timestamp>,
}

/// One of several images: exactly one of `id`, `image` and `vector`.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(dead_code, reason = "it documents fields that are read one by one")]
pub(super) struct BatchSubject {
    /// A stored image.
    id: Option<u64>,
    /// An image file in base64.
    image: Option<String>,
    /// An embedding.
    vector: Option<Vec<f32>>,
    /// The encoder that made the vector; checked where given.
    encoder: Option<String>,
}

/// The stored images nearest to one
#[utoipa::path(post, path = "/v1/query", tag = "questions",
    params(("k" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "With an image in the body: how many neighbours"),
        ("offset" = Option<u64>, Query, maximum = 100_000, description = "With an image in the body: how many better ones are left out"),
        ("task" = Option<u32>, Query, minimum = 1, description = "With an image in the body: only neighbours of this task"),
        ("source" = Option<String>, Query, description = "With an image in the body: only neighbours from this source"),
        ("label" = Option<String>, Query, description = "With an image in the body: only neighbours with this label"),
        ("since" = Option<jiff::Timestamp>, Query, description = "With an image in the body: only neighbours captured then or later"),
        ("until" = Option<jiff::Timestamp>, Query, description = "With an image in the body: only neighbours captured before then")),
    request_body(description = "The image, or a stored one's id or a vector as JSON",
        content((Query = "application/json"), (Binary = "application/octet-stream"), (Binary = "image/jpeg"))),
    responses((status = 200, description = "The neighbours, best first", body = Neighbours),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn post(api: Api, request: Request) -> Result<Json<Neighbours>, Problem> {
    let Question { subject, held, mut fields } = Question::read(&api, request).await?;
    let (k, offset, filter) = (fields.k()?, fields.whole("offset", 0..=MAX_OFFSET)?, fields.filter()?);
    fields.finish()?;
    let page = crate::daemon::answers::Page { k, offset: offset.unwrap_or(0) as usize };
    let answers = Arc::clone(&api.answers);
    api.compute.run_one(held, move || answers.query(&subject, &page, &filter)).await.map(Json)
}

/// The stored images nearest to each of several
#[utoipa::path(post, path = "/v1/query/batch", tag = "questions", request_body = BatchQuery,
    responses((status = 200, description = "One list for each question, all by one encoder", body = NeighbourBatch),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn batch(api: Api, _: NoFields, request: Request) -> Result<Json<NeighbourBatch>, Problem> {
    let (parts, body) = request.into_parts();
    let (_, upload) = api.bodies.read(&parts, body, &[Content::Json]).await?;
    let mut fields = Fields::of_json(&upload.bytes)?;
    let (subjects, k, filter) = (subjects(&mut fields)?, fields.k()?, fields.filter()?);
    fields.finish()?;
    let answers = Arc::clone(&api.answers);
    api.compute.run(upload.held, move || answers.query_batch(&subjects, k, &filter)).await.map(Json)
}

/// A question about one image, sent along or stored.
pub(super) struct Question {
    pub(super) subject: Subject,
    pub(super) held: Held,
    /// The rest of what was said.
    pub(super) fields: Fields,
}

impl Question {
    pub(super) async fn read(shared: &Shared, request: Request) -> Result<Self, Problem> {
        let turn = Turn::ask();
        let (parts, body) = request.into_parts();
        let (content, upload) = shared.bodies.read(&parts, body, &[Content::Image, Content::Json]).await?;
        turn.renew();
        let Upload { bytes, held } = upload;
        let small = is_small(&bytes);
        let (subject, fields) = match content {
            Content::Image => (Subject::Encoded(bytes), Fields::of_query(&parts.uri)?),
            Content::Json => Self::of_json(&parts, &bytes)?,
        };
        Ok(Self { subject, held: Held { small, budget: held, turn }, fields })
    }

    fn of_json(parts: &Parts, bytes: &[u8]) -> Result<(Subject, Fields), Problem> {
        Fields::of_query(&parts.uri)?.none_beside_json()?;
        let mut fields = Fields::of_json(bytes)?;
        let subject = match (fields.whole("id", 0..=u64::MAX)?, vector(&mut fields)?) {
            (Some(id), None) => Subject::Stored(id),
            (None, Some(subject)) => subject,
            (None, None) => return Err(fields.no_subject()),
            (Some(_), Some(_)) => return Err(Problem::invalid("vector", "give either `id` or `vector`, not both")),
        };
        Ok((subject, fields))
    }
}

fn vector(fields: &mut Fields) -> Result<Option<Subject>, Problem> {
    let encoder = fields.text("encoder")?;
    let Some(value) = fields.take("vector") else {
        return match encoder {
            Some(_) => Err(Problem::invalid("encoder", "`encoder` belongs to a `vector`, and there is none")),
            None => Ok(None),
        };
    };
    let wrong = || Problem::invalid("vector", "`vector` must be an array of finite numbers");
    let Value::Array(numbers) = value else { return Err(wrong()) };
    if numbers.len() > MAX_VECTOR {
        return Err(Problem::invalid("vector", format!("`vector` has more than {MAX_VECTOR} numbers")));
    }
    let number = |value: &Value| value.as_f64().map(|x| x as f32).filter(|x| x.is_finite());
    let vector = numbers.iter().map(number).collect::<Option<Vec<f32>>>().ok_or_else(wrong)?;
    Ok(Some(Subject::Vector { vector, encoder }))
}

/// The images that a batch is about.
pub(super) fn subjects(fields: &mut Fields) -> Result<Vec<Subject>, Problem> {
    let wrong = |detail: String| Problem::invalid("subjects", detail);
    let Value::Array(list) = fields.take("subjects").ok_or_else(|| missing("subjects"))? else {
        return Err(wrong("`subjects` must be an array of objects".into()));
    };
    if list.is_empty() || list.len() > MAX_BATCH {
        return Err(wrong(format!("`subjects` must be 1 to {MAX_BATCH} objects, not {}", list.len())));
    }
    let read = |(place, value): (usize, Value)| {
        subject(value).map_err(|problem| wrong(format!("number {place} of `subjects`: {}", problem.detail)))
    };
    list.into_iter().enumerate().map(read).collect()
}

fn subject(value: Value) -> Result<Subject, Problem> {
    let mut fields = Fields::of_value(value)?;
    let id = fields.whole("id", 0..=u64::MAX)?.map(Subject::Stored);
    let image = fields.text("image")?.map(|text| decoded(&text)).transpose()?;
    let given: Vec<Subject> = [id, image, vector(&mut fields)?].into_iter().flatten().collect();
    fields.finish()?;
    let [subject] = <[Subject; 1]>::try_from(given)
        .map_err(|_| Problem::invalid("subjects", "give exactly one of `id`, `image` and `vector`"))?;
    Ok(subject)
}

fn decoded(text: &str) -> Result<Subject, Problem> {
    let bytes = STANDARD.decode(text).map_err(|_| Problem::invalid("image", "`image` must be a file in base64"))?;
    Ok(Subject::Encoded(bytes.into()))
}
