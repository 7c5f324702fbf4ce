//! `/v1/labels`: what people call stored images. `GET` lists the labels in use, `PUT` with `{"label": ..., "ids": [...]}` gives one,
//! `DELETE ?ids=1,2` takes them away; `GET /v1/labels/{label}` lists the images that carry one.

use std::sync::Arc;

use axum::Json;
use axum::extract::Request;
use serde::{Deserialize, Serialize};

use super::body::Content;
use super::fields::{Fields, NoFields, Segment, missing};
use super::{Api, Problem};
use crate::daemon::answers::{Label, LabelChange, LabelCount};

/// A page of labels, in the order of the alphabet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabelList {
    pub labels: Vec<LabelCount>,
    /// Ask for the next page with `after` this label; null on the last.
    pub next: Option<String>,
}

/// A page of the images that carry a label, by id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabelledList {
    pub label: String,
    pub ids: Vec<u64>,
    /// Ask for the next page with `after` this id; null on the last.
    pub next: Option<u64>,
}

pub(super) async fn list(api: Api, mut fields: Fields) -> Result<Json<LabelList>, Problem> {
    let (limit, after) = (fields.limit()?, fields.text("after")?);
    fields.finish()?;
    let answers = Arc::clone(&api.answers);
    let mut labels = api.storage.run(None, move || Ok(answers.labels())).await?;
    labels.retain(|entry| after.as_ref().is_none_or(|after| entry.label > *after));
    let more = labels.len() > limit;
    labels.truncate(limit);
    let next = if more { labels.last().map(|entry| entry.label.clone()) } else { None };
    Ok(Json(LabelList { labels, next }))
}

pub(super) async fn show(api: Api, label: Segment, mut fields: Fields) -> Result<Json<LabelledList>, Problem> {
    let label = Label::new(label.0).map_err(|error| Problem::from(error).field("label"))?;
    let (limit, after) = (fields.limit()?, fields.after()?);
    fields.finish()?;
    let (answers, asked) = (Arc::clone(&api.answers), label.clone());
    let mut ids = api.storage.run(None, move || Ok(answers.labelled(&asked))).await?;
    ids.retain(|id| *id > after);
    let more = ids.len() > limit;
    ids.truncate(limit);
    let next = if more { ids.last().copied() } else { None };
    Ok(Json(LabelledList { label: label.into(), ids, next }))
}

pub(super) async fn set(api: Api, _: NoFields, request: Request) -> Result<Json<LabelChange>, Problem> {
    let (parts, body) = request.into_parts();
    let (_, upload) = api.bodies.read(&parts, body, &[Content::Json]).await?;
    let mut fields = Fields::of_json(&upload.bytes)?;
    let label = fields.label("label")?.ok_or_else(|| missing("label"))?;
    let ids = fields.ids("ids")?;
    fields.finish()?;
    let answers = Arc::clone(&api.answers);
    api.storage.run(upload.held, move || answers.set_label(&label, &ids)).await.map(Json)
}

pub(super) async fn remove(api: Api, mut fields: Fields) -> Result<Json<LabelChange>, Problem> {
    let ids = fields.ids("ids")?;
    fields.finish()?;
    let answers = Arc::clone(&api.answers);
    api.storage.run(None, move || answers.remove_labels(&ids)).await.map(Json)
}
