//! `GET /v1/events`: what has happened lately. Asked again with `after` the `next` of the answer before, it tells what is new.

use axum::Json;

use super::fields::Fields;
use super::{Api, Problem};
use crate::daemon::answers::Events;

pub(super) async fn list(api: Api, mut fields: Fields) -> Result<Json<Events>, Problem> {
    let (limit, after) = (fields.limit()?, fields.after()?);
    fields.finish()?;
    Ok(Json(api.answers.events(after, limit)))
}
