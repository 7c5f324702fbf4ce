//! The HTTP API: every question of [`Answers`] as a resource under `/v1`, over loopback TCP and a unix socket.
//!
//! One file a resource; [`router`] lists them. Errors are problems (RFC 9457), lists are objects with a page of entries and
//! `next`, unknown parameters and fields are refused by name. Metrics are rendered and counted by whoever starts the room, through
//! [`Hooks`]. Only programs of this machine may ask: the TCP listener refuses addresses beyond loopback, foreign `Host` and
//! `Origin` headers; the unix socket has mode 0660.
//!
//! ```no_run
//! use std::sync::Arc;
//! use lumpd::config::{DecodeSettings, ServeSettings};
//! use lumpd::daemon::answers::Answers;
//! use lumpd::serve::{Hooks, Limits, ServeError, Server, router};
//! use tokio_util::sync::CancellationToken;
//!
//! async fn serve(answers: Arc<dyn Answers>, stop: CancellationToken) -> Result<(), ServeError> {
//!     let settings = ServeSettings::default();
//!     let limits = Limits::new(&settings, &DecodeSettings::default());
//!     let server = Server::bind(settings.listen, "state/lumpd.sock".as_ref()).await?;
//!     println!("API on http://{}", server.bound().tcp);
//!     server.run(router(answers, &limits, Hooks::default()), &limits, stop).await;
//!     Ok(())
//! }
//! ```

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
mod problem;
mod query;
mod sources;
mod status;
mod tasks;
#[cfg(test)]
pub(crate) mod tests;
mod unix;
mod work;

use std::sync::Arc;

use axum::Router;
use axum::http::Uri;
use axum::middleware::from_fn;
use axum::routing::{get, post, put};
use tower_http::catch_panic::CatchPanicLayer;

pub use error::ServeError;
pub use labels::{LabelList, LabelledList};
pub use limits::Limits;
pub use listen::{Bound, Server};
pub use observe::{Hooks, Served};
pub use problem::{PROBLEM_JSON, Problem};
pub use sources::SourceList;
pub use tasks::TaskList;

use crate::daemon::answers::Answers;
use body::BodyReader;
use work::Work;

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
    hooks: Hooks,
}

type Api = axum::extract::State<Arc<Shared>>;

/// The whole API as a service. Requests must come through [`Server::run`], which says by which listener they came: all others
/// are refused.
pub fn router(answers: Arc<dyn Answers>, limits: &Limits, hooks: Hooks) -> Router {
    let shared = Arc::new(Shared {
        answers,
        bodies: BodyReader::new(limits.body_bytes, limits.held_body_bytes, limits.request_time),
        compute: Work::new("the line of queries", limits.compute_running, limits.compute_waiting),
        ingest: Work::new("the line of posted images", limits.ingest_running, limits.compute_waiting),
        storage: Work::new("the line of reads and changes", limits.compute_running, limits.compute_waiting),
        hooks,
    });
    let v1 = Router::new()
        .route("/status", get(status::show))
        .route("/sources", get(sources::list))
        .route("/tasks", get(tasks::list))
        .route("/tasks/{id}", get(tasks::show))
        .route("/buffer", get(buffer::show))
        .route("/accuracy", get(forgetting::accuracy))
        .route("/forgetting", get(forgetting::show))
        .route("/events", get(events::list))
        .route("/images", post(ingest::post))
        .route("/images/{id}", get(images::show))
        .route("/images/{id}/thumbnail", get(images::thumbnail))
        .route("/query", post(query::post))
        .route("/embed", post(embed::post))
        .route("/classify", post(classify::post))
        .route("/labels", put(labels::set).get(labels::list).delete(labels::remove))
        .route("/labels/{label}", get(labels::show));
    Router::new()
        .nest("/v1", v1)
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/healthz", get(health::ready))
        .route("/metrics", get(metrics::show))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(CatchPanicLayer::custom(observe::on_panic))
        .layer(from_fn(guard::guard))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&shared), observe::observe))
        .with_state(shared)
}

async fn not_found(uri: Uri) -> Problem {
    Problem::new(404, "unknown-resource", format!("there is no resource {:?}", uri.path()))
        .remedy("ask for one such as /v1/status, /v1/tasks or /readyz")
}

async fn method_not_allowed(uri: Uri) -> Problem {
    Problem::new(405, "method-not-allowed", format!("{:?} does not take this method", uri.path()))
        .remedy("use one of the methods in the header Allow")
}
