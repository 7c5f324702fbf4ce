//! `/v1/tasks`: the register of tasks. `GET` lists and shows; `POST` ends the open task by hand and begins a new one; `PATCH`
//! names one; `POST /v1/tasks/merge` makes two one.

use std::sync::Arc;

use axum::Json;
use axum::extract::Request;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::Content;
use super::fields::{Fields, NoFields, Segment, missing};
use super::{Api, Problem};
use crate::daemon::answers::TaskStatus;

/// A page of tasks, by id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskList {
    pub tasks: Vec<TaskStatus>,
    /// Ask for the next page with `after` this id; null on the last.
    pub next: Option<u32>,
}

/// A boundary set by hand.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(dead_code, reason = "it documents fields that are read one by one")]
pub(super) struct NewTask {
    /// Whose stream is meant; needed where every source has tasks of its own.
    source: Option<String>,
    /// Of the new task: 1 to 64 characters.
    #[schema(min_length = 1, max_length = 64)]
    name: Option<String>,
}

/// A task's new name.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(dead_code, reason = "it documents fields that are read one by one")]
pub(super) struct TaskName {
    /// 1 to 64 characters.
    #[schema(min_length = 1, max_length = 64)]
    name: String,
}

/// Two tasks that are one.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(dead_code, reason = "it documents fields that are read one by one")]
pub(super) struct Merge {
    /// Two ids; the lower one stays.
    #[schema(min_items = 2, max_items = 2)]
    tasks: Vec<u32>,
}

/// The tasks found in the stream
#[utoipa::path(get, path = "/v1/tasks", tag = "tasks",
    params(("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "Most entries of the page; 100 where not given"),
        ("after" = Option<u64>, Query, description = "The id after which the page begins")),
    responses((status = 200, description = "A page of tasks, by id", body = TaskList),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
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

/// One task
#[utoipa::path(get, path = "/v1/tasks/{id}", tag = "tasks", params(("id" = u32, Path, description = "The task's number")),
    responses((status = 200, description = "The task", body = TaskStatus),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn show(api: Api, id: Segment, _: NoFields) -> Result<Json<TaskStatus>, Problem> {
    Ok(Json(api.answers.task(id.id()?)?))
}

/// End the open task by hand: the next frame is the first of a new one
#[utoipa::path(post, path = "/v1/tasks", tag = "tasks", request_body = NewTask,
    responses((status = 201, description = "The new task", body = TaskStatus),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn mark(api: Api, _: NoFields, request: Request) -> Result<(StatusCode, Json<TaskStatus>), Problem> {
    let (parts, body) = request.into_parts();
    let (_, upload) = api.bodies.read(&parts, body, &[Content::Json]).await?;
    let mut fields = Fields::of_json(&upload.bytes)?;
    let (source, name) = (fields.text("source")?, fields.text("name")?);
    fields.finish()?;
    let answers = Arc::clone(&api.answers);
    let marked = move || answers.mark_boundary(source.as_deref(), name.as_deref());
    let task = api.storage.run(upload.held, marked).await?;
    Ok((StatusCode::CREATED, Json(task)))
}

/// Give a task a name
#[utoipa::path(patch, path = "/v1/tasks/{id}", tag = "tasks", params(("id" = u32, Path, description = "The task's number")),
    request_body = TaskName,
    responses((status = 200, description = "The task as it is called now", body = TaskStatus),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn rename(api: Api, id: Segment, _: NoFields, request: Request) -> Result<Json<TaskStatus>, Problem> {
    let id = id.id()?;
    let (parts, body) = request.into_parts();
    let (_, upload) = api.bodies.read(&parts, body, &[Content::Json]).await?;
    let mut fields = Fields::of_json(&upload.bytes)?;
    let name = fields.text("name")?.ok_or_else(|| missing("name"))?;
    fields.finish()?;
    let answers = Arc::clone(&api.answers);
    api.storage.run(upload.held, move || answers.rename_task(id, &name)).await.map(Json)
}

/// Make two tasks one; the lower number stays
#[utoipa::path(post, path = "/v1/tasks/merge", tag = "tasks", request_body = Merge,
    responses((status = 200, description = "The task that stays", body = TaskStatus),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn merge(api: Api, _: NoFields, request: Request) -> Result<Json<TaskStatus>, Problem> {
    let (parts, body) = request.into_parts();
    let (_, upload) = api.bodies.read(&parts, body, &[Content::Json]).await?;
    let mut fields = Fields::of_json(&upload.bytes)?;
    let ids = fields.ids("tasks", 2)?;
    fields.finish()?;
    let numbers: Vec<u32> = ids.iter().filter_map(|id| u32::try_from(*id).ok()).collect();
    let &[a, b] = numbers.as_slice() else {
        return Err(Problem::invalid("tasks", "`tasks` must be two task numbers"));
    };
    let answers = Arc::clone(&api.answers);
    api.storage.run(upload.held, move || answers.merge_tasks(a, b)).await.map(Json)
}
