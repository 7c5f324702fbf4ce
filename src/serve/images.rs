//! `GET /v1/images/{id}` and `/v1/images/{id}/thumbnail`: what is known of a stored image, and its picture.

use std::sync::Arc;

use axum::Json;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::IntoResponse;

use super::fields::{NoFields, Segment};
use super::{Api, Problem};
use crate::daemon::answers::StoredImage;

pub(super) async fn show(api: Api, id: Segment, _: NoFields) -> Result<Json<StoredImage>, Problem> {
    let id = id.id()?;
    let answers = Arc::clone(&api.answers);
    api.storage.run(None, move || answers.image(id)).await.map(Json)
}

pub(super) async fn thumbnail(api: Api, id: Segment, _: NoFields) -> Result<impl IntoResponse, Problem> {
    let id = id.id()?;
    let answers = Arc::clone(&api.answers);
    let png = api.storage.run(None, move || answers.thumbnail(id)).await?;
    // An id is never reused, but its image may leave the buffer: kept for a while, not for ever.
    Ok(([(CONTENT_TYPE, "image/png"), (CACHE_CONTROL, "private, max-age=60")], png))
}
