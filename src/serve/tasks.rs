//! `GET /v1/tasks` and `/v1/tasks/{id}`: the register of tasks.

use axum::Json;
use serde::{Deserialize, Serialize};

use super::fields::{Fields, NoFields, Segment};
use super::{Api, Problem};
use crate::daemon::answers::TaskStatus;

/// A page of tasks, by id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskList {
    pub tasks: Vec<TaskStatus>,
    /// Ask for the next page with `after` this id; null on the last.
    pub next: Option<u32>,
}

pub(super) async fn list(api: Api, mut fields: Fields) -> Result<Json<TaskList>, Problem> {
    let (limit, after) = (fields.limit()?, fields.after()?);
    fields.finish()?;
    let mut tasks = api.answers.tasks();
    tasks.retain(|task| u64::from(task.id) > after);
    let more = tasks.len() > limit;
    tasks.truncate(limit);
    let next = if more { tasks.last().map(|task| task.id) } else { None };
    Ok(Json(TaskList { tasks, next }))
}

pub(super) async fn show(api: Api, id: Segment, _: NoFields) -> Result<Json<TaskStatus>, Problem> {
    Ok(Json(api.answers.task(id.id()?)?))
}
