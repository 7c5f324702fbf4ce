//! The HTTP API: every question of [`Answers`] as a resource under `/v1`, over loopback TCP and a unix socket.
//!
//! One file a resource; [`router`] lists them. Errors are problems (RFC 9457), lists are objects with a page of entries and
//! `next`, unknown parameters and fields are refused by name. Metrics are rendered and counted by whoever starts the room, through
//! [`Hooks`]. Without tokens only programs of this machine may ask: the TCP listener then refuses addresses beyond loopback, and
//! always foreign `Host` and `Origin` headers; the unix socket has mode 0660.
//!
//! ```no_run
//! use std::sync::Arc;
//! use lumpd::config::{DecodeSettings, ServeSettings};
//! use lumpd::daemon::answers::Answers;
//! use lumpd::serve::{Access, Hooks, Limits, ServeError, Server, router};
//! use tokio_util::sync::CancellationToken;
//!
//! async fn serve(answers: Arc<dyn Answers>, stop: CancellationToken) -> Result<(), ServeError> {
//!     let settings = ServeSettings::default();
//!     let limits = Limits::new(&settings, &DecodeSettings::default());
//!     let access = Access::load(&settings)?;
//!     let server = Server::bind(&settings, "state/lumpd.sock".as_ref()).await?;
//!     println!("API on http://{}", server.bound().tcp);
//!     server.run(router(answers, &limits, Hooks::default(), &access), &limits, stop).await;
//!     Ok(())
//! }
//! ```

mod auth;
mod body;
mod buffer;
mod classify;
mod connection;
mod embed;
mod error;
mod events;
mod fields;
mod forgetting;
mod guard;
mod health;
mod images;
mod ingest;
mod labels;
mod limits;
mod listen;
mod metrics;
mod observe;
mod openapi;
mod page;
mod problem;
mod query;
mod rate;
mod sources;
mod status;
mod survey;
mod tasks;
#[cfg(test)]
pub(crate) mod tests;
mod training;
mod unix;
mod work;

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::http::Uri;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::get;
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use auth::Tokens;
pub use error::ServeError;
pub use images::ImageList;
pub use labels::{LabelList, LabelledList};
pub use limits::Limits;
pub use listen::{Bound, Server};
pub use observe::{Hooks, Served};
pub use problem::{PROBLEM_JSON, Problem};
pub use sources::SourceList;
pub use tasks::TaskList;

use crate::config::ServeSettings;
use crate::daemon::answers::Answers;
use body::BodyReader;
use rate::Rate;
use work::Work;

/// Changes that wait for a thread of the daemon: few, as each holds a thread of this room.
const CHANGES_RUNNING: usize = 4;

/// Files made at once: each holds a copy of the bank or the encoder.
const EXPORTS_RUNNING: usize = 1;

/// Connections that follow the events at once.
const FOLLOWERS: usize = 32;

/// Who may ask, and how often. Cheap to clone; a reload replaces the tokens.
#[derive(Debug, Clone)]
pub struct Access {
    tokens: Arc<ArcSwap<Tokens>>,
    requests_per_second: f64,
}

impl Access {
    /// Reads the tokens that the settings name.
    ///
    /// # Errors
    /// As [`Tokens::load`].
    pub fn load(settings: &ServeSettings) -> Result<Self, ServeError> {
        let tokens = Arc::new(ArcSwap::from_pointee(Tokens::load(settings)?));
        Ok(Self { tokens, requests_per_second: settings.requests_per_second })
    }

    /// Takes other tokens from the next request on.
    pub fn replace(&self, tokens: Tokens) {
        self.tokens.store(Arc::new(tokens));
    }
}

/// What every resource needs.
struct Shared {
    answers: Arc<dyn Answers>,
    bodies: BodyReader,
    /// Decoding, embedding and searching.
    compute: Work,
    /// Waiting for the commit of a frame.
    ingest: Work,
    /// Reading and writing small things on the disk.
    storage: Work,
    /// Waiting for the learner or the memory thread.
    changes: Work,
    exports: Work,
    followers: Arc<Semaphore>,
    tokens: Arc<ArcSwap<Tokens>>,
    rate: Rate,
    hooks: Hooks,
    description: OpenApi,
}

type Api = axum::extract::State<Arc<Shared>>;

/// The description of the API, as the daemon serves it at `/openapi.json`.
pub fn description() -> OpenApi {
    resources().split_for_parts().1
}

/// The whole API as a service. Requests must come through [`Server::run`], which says by which listener they came: all others
/// are refused.
pub fn router(answers: Arc<dyn Answers>, limits: &Limits, hooks: Hooks, access: &Access) -> Router {
    let (resources, description) = resources().split_for_parts();
    let (running, waiting) = (limits.compute_running, limits.compute_waiting);
    let shared = Arc::new(Shared {
        answers,
        bodies: BodyReader::new(limits.body_bytes, limits.held_body_bytes, limits.request_time),
        compute: Work::new("the line of queries", running, waiting),
        ingest: Work::new("the line of posted images", limits.ingest_running, waiting),
        storage: Work::new("the line of reads and changes", running, waiting),
        changes: Work::new("the line of changes", CHANGES_RUNNING, waiting),
        exports: Work::new("the line of exports", EXPORTS_RUNNING, EXPORTS_RUNNING),
        followers: Arc::new(Semaphore::new(FOLLOWERS)),
        tokens: Arc::clone(&access.tokens),
        rate: Rate::new(access.requests_per_second),
        hooks,
        description,
    });
    resources
        .route("/healthz", get(health::ready))
        .route("/", get(page::dashboard))
        .route("/docs", get(page::docs))
        .route("/page/{file}", get(page::part))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(CatchPanicLayer::custom(observe::on_panic))
        .layer(from_fn_with_state(Arc::clone(&shared), auth::authorise))
        .layer(from_fn(guard::guard))
        .layer(from_fn_with_state(Arc::clone(&shared), observe::observe))
        .with_state(shared)
}

/// Every resource with its description.
fn resources() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(status::show))
        .routes(routes!(status::history))
        .routes(routes!(sources::list))
        .routes(routes!(events::list))
        .routes(routes!(query::post))
        .routes(routes!(query::batch))
        .routes(routes!(embed::post))
        .routes(routes!(embed::batch))
        .routes(routes!(classify::post))
        .routes(routes!(images::list, images::forget_several, ingest::post))
        .routes(routes!(images::show, images::forget))
        .routes(routes!(images::thumbnail))
        .routes(routes!(buffer::show))
        .routes(routes!(embed::list))
        .routes(routes!(tasks::list, tasks::mark))
        .routes(routes!(tasks::show, tasks::rename))
        .routes(routes!(tasks::merge))
        .routes(routes!(labels::list, labels::set, labels::remove))
        .routes(routes!(labels::show))
        .routes(routes!(forgetting::show))
        .routes(routes!(forgetting::history))
        .routes(routes!(forgetting::accuracy))
        .routes(routes!(survey::map))
        .routes(routes!(survey::bank))
        .routes(routes!(survey::encoder))
        .routes(routes!(training::pause))
        .routes(routes!(training::resume))
        .routes(routes!(training::checkpoint))
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(metrics::show))
        .routes(routes!(openapi::show))
}

async fn not_found(uri: Uri) -> Problem {
    Problem::new(404, "unknown-resource", format!("there is no resource {:?}", uri.path()))
        .remedy("ask for one such as /v1/status, /v1/tasks or /readyz")
}

async fn method_not_allowed(uri: Uri) -> Problem {
    Problem::new(405, "method-not-allowed", format!("{:?} does not take this method", uri.path()))
        .remedy("use one of the methods in the header Allow")
}
