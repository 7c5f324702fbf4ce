//! `GET /openapi.json`: the description of the API, generated from its code, and `GET /docs`: the same for people.

use axum::Json;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{OpenApi, SecurityRequirement};
use utoipa::{Modify, OpenApi as _, ToResponse, ToSchema};

use super::Api;
use super::fields::NoFields;
use super::problem::Wire;

/// Bytes as they are: an image, a file, numbers.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[allow(dead_code, reason = "it stands for bodies in the description")]
pub(super) struct Binary(Vec<u8>);

/// A problem: `code` is stable, `field` names what is at fault, `remedy` says what to do
#[derive(ToResponse)]
#[response(
    description = "A problem: `code` is stable, `field` names what is at fault, `remedy` says what to do",
    content_type = "application/problem+json"
)]
#[allow(dead_code, reason = "it stands for the answer in the description")]
pub(super) struct AnyProblem(Wire);

/// What the code of the resources does not say itself.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "lumpd", description = "What may be asked of a daemon that learns, without labels and without forgetting, \
        from the images that pass through one machine. Times are UTC (RFC 3339), durations seconds, sizes bytes. What is not \
        defined is null, never 0. Embeddings of different encoders cannot be compared: every answer names the one it comes from.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")),
    tags(
        (name = "daemon", description = "How it is doing, and what happens"),
        (name = "questions", description = "About an image: sent along, stored, or as a vector"),
        (name = "memory", description = "The stored images"),
        (name = "tasks", description = "What the stream was cut into"),
        (name = "labels", description = "Names given by people"),
        (name = "evaluation", description = "What is being forgotten, and how the embedding looks"),
        (name = "training", description = "The learner's work, by hand"),
        (name = "export", description = "Files for other programs"),
        (name = "supervision", description = "For supervisors and Prometheus"),
    ),
    modifiers(&Bearer),
    components(responses(AnyProblem)),
)]
pub(super) struct Description;

/// The scheme of the tokens. A daemon without tokens takes requests without one.
struct Bearer;

impl Modify for Bearer {
    fn modify(&self, api: &mut OpenApi) {
        if let Some(components) = api.components.as_mut() {
            components.add_security_scheme("token", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
        }
        api.security = Some(vec![SecurityRequirement::new("token", [""; 0]), SecurityRequirement::default()]);
    }
}

/// The description without the resources, to be merged with theirs.
pub(super) fn base() -> OpenApi {
    Description::openapi()
}

/// This description
#[utoipa::path(get, path = "/openapi.json", tag = "supervision", responses(
    (status = 200, description = "OpenAPI 3.1", body = serde_json::Value),
    (status = "default", response = AnyProblem)))]
pub(super) async fn show(api: Api, _: NoFields) -> Json<OpenApi> {
    Json(api.description.clone())
}
