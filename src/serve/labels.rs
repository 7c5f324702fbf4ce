//! `/v1/labels`: what people call stored images. `GET` lists the labels in use, `PUT` with `{"label": ..., "ids": [...]}` gives one,
//! `DELETE ?ids=1,2` takes them away; `GET /v1/labels/{label}` lists the images that carry one.

use std::sync::Arc;

use axum::Json;
use axum::extract::Request;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::Content;
use super::fields::{Fields, MAX_COUNT, NoFields, Segment, missing};
use super::{Api, Problem};
use crate::daemon::answers::{Label, LabelChange, LabelCount};

/// A page of labels, in the order of the alphabet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LabelList {
    pub labels: Vec<LabelCount>,
    /// Ask for the next page with `after` this label; null on the last.
    pub next: Option<String>,
}

/// A page of the images that carry a label, by id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LabelledList {
    pub label: String,
    pub ids: Vec<u64>,
    /// Ask for the next page with `after` this id; null on the last.
    pub next: Option<u64>,
}

/// A label and the images that get it.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(dead_code, reason = "it documents fields that are read one by one")]
pub(super) struct Labelling {
    /// 1 to 64 bytes of printable text.
    #[schema(min_length = 1, max_length = 64)]
    label: String,
    /// 1 to 1000 ids of stored images.
    #[schema(min_items = 1, max_items = 1000)]
    ids: Vec<u64>,
}

/// The labels in use
#[utoipa::path(get, path = "/v1/labels", tag = "labels",
    params(("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "Most entries of the page; 100 where not given"),
        ("after" = Option<String>, Query, description = "The label after which the page begins")),
    responses((status = 200, description = "A page of labels, in the order of the alphabet", body = LabelList),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn list(api: Api, mut fields: Fields) -> Result<Json<LabelList>, Problem> {
    let (limit, after) = (fields.limit()?, fields.text("after")?);
    fields.finish()?;
    let answers = Arc::clone(&api.answers);
    let mut labels = api.storage.run((), move || Ok(answers.labels())).await?;
    labels.retain(|entry| after.as_ref().is_none_or(|after| entry.label > *after));
    let more = labels.len() > limit;
    labels.truncate(limit);
    let next = if more { labels.last().map(|entry| entry.label.clone()) } else { None };
    Ok(Json(LabelList { labels, next }))
}

/// The images that carry a label
#[utoipa::path(get, path = "/v1/labels/{label}", tag = "labels",
    params(("label" = String, Path, description = "The label, percent-encoded"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "Most entries of the page; 100 where not given"),
        ("after" = Option<u64>, Query, description = "The id after which the page begins")),
    responses((status = 200, description = "A page of ids", body = LabelledList),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn show(api: Api, label: Segment, mut fields: Fields) -> Result<Json<LabelledList>, Problem> {
    let label = Label::new(label.0).map_err(|error| Problem::from(error).field("label"))?;
    let (limit, after) = (fields.limit()?, fields.after()?);
    fields.finish()?;
    let (answers, asked) = (Arc::clone(&api.answers), label.clone());
    let mut ids = api.storage.run((), move || Ok(answers.labelled(&asked))).await?;
    ids.retain(|id| *id > after);
    let more = ids.len() > limit;
    ids.truncate(limit);
    let next = if more { ids.last().copied() } else { None };
    Ok(Json(LabelledList { label: label.into(), ids, next }))
}

/// Give images a label
#[utoipa::path(put, path = "/v1/labels", tag = "labels", request_body = Labelling,
    responses((status = 200, description = "All of them carry it now", body = LabelChange),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn set(api: Api, _: NoFields, request: Request) -> Result<Json<LabelChange>, Problem> {
    let (parts, body) = request.into_parts();
    let (_, upload) = api.bodies.read(&parts, body, &[Content::Json]).await?;
    let mut fields = Fields::of_json(&upload.bytes)?;
    let label = fields.label("label")?.ok_or_else(|| missing("label"))?;
    let ids = fields.ids("ids", MAX_COUNT)?;
    fields.finish()?;
    let answers = Arc::clone(&api.answers);
    api.storage.run(upload.held, move || answers.set_label(&label, &ids)).await.map(Json)
}

/// Take the labels of images away
#[utoipa::path(delete, path = "/v1/labels", tag = "labels",
    params(("ids" = String, Query, description = "1 to 1000 ids with commas between them")),
    responses((status = 200, description = "None of them carries one now", body = LabelChange),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn remove(api: Api, mut fields: Fields) -> Result<Json<LabelChange>, Problem> {
    let ids = fields.ids("ids", MAX_COUNT)?;
    fields.finish()?;
    let answers = Arc::clone(&api.answers);
    api.storage.run((), move || answers.remove_labels(&ids)).await.map(Json)
}
