//! What is asked over HTTP: calls on the control socket, each answered by lines of JSON; and what watches the server asks for,
//! `/metrics` and `/healthz`.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Extension, Json, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, middleware};
use futures::stream;
use tokio::sync::mpsc;

use super::access::{Access, Caller, admit, refusal};
use super::metrics::Exposed;
use super::server::{Active, Server};
use crate::control::{Call, Event, Wanted};
use crate::metrics;

/// A call is a reference and a path or two.
const CALL_BYTES_MAX: usize = 64 << 10;

/// All that the control socket answers, to those it is for.
pub(super) fn control(server: &Arc<Server>, exposed: &Arc<Exposed>, access: Access) -> Router {
    let mut router = Router::new();
    for path in [
        "/v1/mount",
        "/v1/umount",
        "/v1/pull",
        "/v1/status",
        "/v1/inspect",
        "/v1/check",
        "/v1/pin",
        "/v1/unpin",
        "/v1/rm",
        "/v1/prune",
        "/v1/index",
        "/v1/trace",
    ] {
        router = router.route(path, post(answer));
    }
    let calls = router.layer(DefaultBodyLimit::max(CALL_BYTES_MAX)).with_state(server.clone());
    calls.merge(watching(exposed)).layer(middleware::from_fn_with_state(access, admit))
}

/// What may be known without being able to change anything.
pub(super) fn watching(exposed: &Arc<Exposed>) -> Router {
    let router = Router::new().route("/healthz", get(health)).route("/metrics", get(counted));
    router.with_state(exposed.clone())
}

async fn health(State(exposed): State<Arc<Exposed>>) -> Response {
    match exposed.health().await {
        Ok(()) => "ok\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn counted(State(exposed): State<Arc<Exposed>>) -> Response {
    let text = exposed.text().await;
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}

/// Answers line by line. The work is polled by the answer itself: a client that goes away drops both.
async fn answer(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Json(call): Json<Call>,
) -> Response {
    if !caller.may(&call) {
        return refusal(
            "only root, or the user the server runs as, may do this; operators may ask for status, check and prune, and pull, inspect, pin, \
             unpin, rm, trace, index ls and index verify of images in registries",
        );
    }
    let wanted = Wanted::of_headers(&headers);
    // An answer without a line: the caller looks for the next server.
    let Some(active) = Active::new(&server) else { return StatusCode::SERVICE_UNAVAILABLE.into_response() };
    let (news, told) = mpsc::unbounded_channel();
    let work = Box::pin(async move {
        let outcome = match server.is_meant(&wanted, &news) {
            Ok(()) => server.answer_while_it_serves(&call, &news).await,
            Err(other) => Err(other),
        };
        drop(news);
        match outcome {
            Ok(outcome) => Event::Done { outcome, server_ends: active.is_last() },
            Err(failed) => Event::Failed(failed),
        }
    });
    let lines = stream::unfold((told, Some(work)), async |(mut told, work)| {
        let mut work = work?;
        tokio::select! {
            biased;
            Some(news) = told.recv() => Some((line(&news), (told, Some(work)))),
            last = &mut work => Some((rest(&mut told, &last), (told, None))),
        }
    });
    Body::from_stream(lines).into_response()
}

/// What was told but not heard, and the last word.
fn rest(told: &mut mpsc::UnboundedReceiver<Event>, last: &Event) -> Result<Vec<u8>, Infallible> {
    let mut lines = Vec::new();
    while let Ok(news) = told.try_recv() {
        lines.extend(line(&news)?);
    }
    lines.extend(line(last)?);
    Ok(lines)
}

pub(super) fn line(event: &Event) -> Result<Vec<u8>, Infallible> {
    let mut line = serde_json::to_vec(event).unwrap_or_else(|_| b"null".to_vec());
    line.push(b'\n');
    Ok(line)
}
