//! `GET /v1/images`, `/v1/images/{id}` and `/v1/images/{id}/thumbnail`: the stored images, what is known of each, and its
//! picture. `DELETE /v1/images` and `/v1/images/{id}` remove some for good.

use std::sync::Arc;

use axum::Json;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::fields::{Fields, NoFields, Segment};
use super::openapi::Binary;
use super::{Api, Problem};
use crate::daemon::answers::{AnswerError, Forgotten, StoredImage};

/// Images of one removal: each is a few writes that reach the disk before the next.
const MAX_FORGOTTEN: u64 = 100;

/// A transparent pixel as a PNG file.
const BLANK: [u8; 68] = [
    0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0x00, 0x00, 0x00, 0x0d, 0x49, 0x48, 0x44, 0x52, 0x00, 0x00, 0x00,
    0x01, 0x00, 0x00, 0x00, 0x01, 0x08, 0x06, 0x00, 0x00, 0x00, 0x1f, 0x15, 0xc4, 0x89, 0x00, 0x00, 0x00, 0x0b, 0x49,
    0x44, 0x41, 0x54, 0x78, 0x9c, 0x63, 0x60, 0x00, 0x02, 0x00, 0x00, 0x05, 0x00, 0x01, 0x7a, 0x5e, 0xab, 0x3f, 0x00,
    0x00, 0x00, 0x00, 0x49, 0x45, 0x4e, 0x44, 0xae, 0x42, 0x60, 0x82,
];

/// A page of stored images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ImageList {
    pub images: Vec<StoredImage>,
    /// Ask for the next page with `after` this id; null on the last.
    pub next: Option<u64>,
}

/// The stored images
#[utoipa::path(get, path = "/v1/images", tag = "memory",
    params(("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "Most entries of the page; 100 where not given"),
        ("after" = Option<u64>, Query, description = "The id after which the page begins, in the order asked for"),
        ("order" = Option<String>, Query, description = "`oldest` (first, the default) or `newest`"),
        ("task" = Option<u32>, Query, minimum = 1, description = "Only images of this task"),
        ("source" = Option<String>, Query, description = "Only images from this source"),
        ("label" = Option<String>, Query, description = "Only images with this label"),
        ("since" = Option<jiff::Timestamp>, Query, description = "Only images captured then or later (RFC 3339)"),
        ("until" = Option<jiff::Timestamp>, Query, description = "Only images captured before then (RFC 3339)")),
    responses((status = 200, description = "A page of images", body = ImageList),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn list(api: Api, mut fields: Fields) -> Result<Json<ImageList>, Problem> {
    let (limit, after) = (fields.limit()?, fields.whole("after", 0..=u64::MAX)?);
    let newest_first = match fields.text("order")?.as_deref() {
        None | Some("oldest") => false,
        Some("newest") => true,
        Some(_) => return Err(Problem::invalid("order", "`order` must be `oldest` or `newest`")),
    };
    let filter = fields.filter()?;
    fields.finish()?;
    let answers = Arc::clone(&api.answers);
    let page = move || answers.images(&filter, newest_first, after, limit + 1);
    let mut images = api.storage.run((), page).await?;
    let more = images.len() > limit;
    images.truncate(limit);
    let next = if more { images.last().map(|image| image.id) } else { None };
    Ok(Json(ImageList { images, next }))
}

/// What is known of one stored image
#[utoipa::path(get, path = "/v1/images/{id}", tag = "memory", params(("id" = u64, Path, description = "The image's id")),
    responses((status = 200, description = "The image", body = StoredImage),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn show(api: Api, id: Segment, _: NoFields) -> Result<Json<StoredImage>, Problem> {
    let id = id.id()?;
    let answers = Arc::clone(&api.answers);
    api.storage.run((), move || answers.image(id)).await.map(Json)
}

/// The stored pixels of one image
#[utoipa::path(get, path = "/v1/images/{id}/thumbnail", tag = "memory",
    params(("id" = u64, Path, description = "The image's id"),
        ("absent" = Option<String>, Query, description = "`blank`: an empty picture in place of a problem where the image has left the buffer")),
    responses((status = 200, description = "A PNG file", content_type = "image/png", body = Binary),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn thumbnail(api: Api, id: Segment, mut fields: Fields) -> Result<impl IntoResponse, Problem> {
    let id = id.id()?;
    let blank = match fields.text("absent")?.as_deref() {
        None => false,
        Some("blank") => true,
        Some(_) => return Err(Problem::invalid("absent", "`absent` must be `blank`, or left out")),
    };
    fields.finish()?;
    let answers = Arc::clone(&api.answers);
    let png = match api.storage.run((), move || answers.thumbnail(id)).await {
        // A page shows lists that are a moment old.
        Err(problem) if blank && problem.status == 404 => BLANK.to_vec(),
        png => png?,
    };
    // An id is never reused, but its image may leave the buffer: kept for a while, not for ever.
    Ok(([(CONTENT_TYPE, "image/png"), (CACHE_CONTROL, "private, max-age=60")], png))
}

/// Remove an image for good: from the disk, from the bank, with its label
#[utoipa::path(delete, path = "/v1/images/{id}", tag = "memory", params(("id" = u64, Path, description = "The image's id")),
    responses((status = 200, description = "It is gone", body = Forgotten),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn forget(api: Api, id: Segment, _: NoFields) -> Result<Json<Forgotten>, Problem> {
    let id: u64 = id.id()?;
    let forgotten = remove(&api, vec![id]).await?;
    if forgotten.forgotten == 0 { Err(AnswerError::UnknownImage { id }.into()) } else { Ok(Json(forgotten)) }
}

/// Remove several images for good
#[utoipa::path(delete, path = "/v1/images", tag = "memory",
    params(("ids" = String, Query, description = "1 to 100 ids with commas between them")),
    responses((status = 200, description = "They are gone; those that were not stored are named", body = Forgotten),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn forget_several(api: Api, mut fields: Fields) -> Result<Json<Forgotten>, Problem> {
    let ids = fields.ids("ids", MAX_FORGOTTEN)?;
    fields.finish()?;
    remove(&api, ids).await.map(Json)
}

async fn remove(api: &Api, ids: Vec<u64>) -> Result<Forgotten, Problem> {
    let answers = Arc::clone(&api.answers);
    api.changes.run((), move || answers.forget_images(&ids)).await
}
