//! `GET /v1/events`: what happened after event number `after`, oldest first; and, where `Accept` asks for `text/event-stream`,
//! what happens from then on (server-sent events, as `EventSource` reads them). A reader that comes back with `Last-Event-ID`
//! misses nothing that is still kept.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use axum::response::sse::{Event as Message, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::fields::Fields;
use super::{Api, Problem};
use crate::daemon::answers::{AnswerError, Answers, DaemonState, Event, Events};

/// Sent where nothing happens, so that both sides know that the other is there.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Events taken at once by a follower.
const CHUNK: usize = 100;

/// What happened, or with `Accept: text/event-stream` what happens
#[utoipa::path(get, path = "/v1/events", tag = "daemon",
    params(("after" = Option<u64>, Query, description = "The event after which it begins; 0 is the oldest kept"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "Most events of the page; 100 where not given")),
    responses((status = 200, description = "A page of events; or a stream of them, each with its number as `id`, its kind as `event` and itself as JSON in `data`",
        content((Events = "application/json"), (String = "text/event-stream"))),
    (status = "default", response = crate::serve::openapi::AnyProblem)))]
pub(super) async fn list(api: Api, headers: HeaderMap, mut fields: Fields) -> Result<Response, Problem> {
    let (after, limit) = (fields.whole("after", 0..=u64::MAX)?, fields.limit()?);
    fields.finish()?;
    if wants_stream(&headers) {
        let place = Arc::clone(&api.followers).try_acquire_owned();
        let place = place.map_err(|_| AnswerError::Overloaded { what: "the number of those who follow the events" })?;
        return Ok(follow(Arc::clone(&api.answers), after.or_else(|| last_seen(&headers)), place).into_response());
    }
    Ok(Json(api.answers.events(after.unwrap_or(0), limit)).into_response())
}

fn wants_stream(headers: &HeaderMap) -> bool {
    let accepted = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accepted.split(',').any(|kind| kind.trim().to_ascii_lowercase().starts_with("text/event-stream"))
}

fn last_seen(headers: &HeaderMap) -> Option<u64> {
    headers.get("last-event-id")?.to_str().ok()?.trim().parse().ok()
}

/// Where a follower is.
struct Follower {
    answers: Arc<dyn Answers>,
    latest: watch::Receiver<u64>,
    after: u64,
    waiting: std::vec::IntoIter<Event>,
    /// Another connection may take it when this one ends.
    _place: OwnedSemaphorePermit,
}

/// Without `after`: from now on.
fn follow(
    answers: Arc<dyn Answers>,
    after: Option<u64>,
    place: OwnedSemaphorePermit,
) -> Sse<impl Stream<Item = Result<Message, Infallible>>> {
    let latest = answers.follow_events();
    let after = after.unwrap_or(*latest.borrow());
    let follower = Follower { answers, latest, after, waiting: Vec::new().into_iter(), _place: place };
    let messages = stream::unfold(follower, |mut follower| async move {
        let event = follower.next().await?;
        Some((Ok(message(&event)), follower))
    });
    Sse::new(messages).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

impl Follower {
    /// The next event; none once the daemon stops: no more will come, and the connection would only hold the end up.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.waiting.next() {
                return Some(event);
            }
            self.latest.borrow_and_update();
            let events = self.answers.events(self.after, CHUNK);
            self.after = events.next;
            self.waiting = events.events.into_iter();
            if self.waiting.len() > 0 {
                continue;
            }
            if self.answers.status().state == DaemonState::Draining {
                return None;
            }
            self.latest.changed().await.ok()?;
        }
    }
}

fn message(event: &Event) -> Message {
    let base = Message::default().id(event.sequence.to_string()).event(&event.kind);
    // An event always has a JSON form; JSON has no line breaks that would end it early.
    base.json_data(event).unwrap_or_else(|_| Message::default().comment("an event without a form"))
}
