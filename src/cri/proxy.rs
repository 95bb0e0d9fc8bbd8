//! What happens to a call: it goes on to containerd, and a PullImage after its image is verified and here.

use std::convert::Infallible;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Either, Empty, Limited};
use hyper::body::Incoming;
use hyper::{Request, Response};
use tokio::sync::watch;
use tonic::{Code, Status};

use super::Config;
use super::alike::{Again, Alike, Likeness};
use super::backend::Backend;
use super::message::{Body, MESSAGE_BYTES_MAX, Seen, look};
use super::metrics::{Metrics, Outcome};
use super::pulls::{Asked, Held, PullCause, PullFailed, Pulls};
use crate::errors::without_login;
use crate::sync::Arc;

/// What all clients share.
pub(super) struct Node {
    pub(super) config: Config,
    pub(super) pulls: Arc<dyn Pulls>,
    pub(super) metrics: Metrics,
    pub(super) alike: Alike,
    /// Becomes true when the daemon ends.
    pub(super) stopped: watch::Receiver<bool>,
}

/// One client and its way to containerd.
pub(super) struct Proxy {
    node: Arc<Node>,
    backend: Arc<Backend>,
}

/// What a client gets: containerd's answer as it comes, or one that several get, or an error, which has no body.
pub(super) type Answer = Either<Incoming, Either<Again, Empty<Bytes>>>;

/// The image and its login have the same numbers in both.
const PULL_IMAGE: [&str; 2] = ["/runtime.v1.ImageService/PullImage", "/runtime.v1alpha2.ImageService/PullImage"];

/// One message and what goes before it.
const PULL_BYTES_MAX: usize = MESSAGE_BYTES_MAX + (64 << 10);

// === impl Proxy ===

impl Proxy {
    pub(super) fn new(node: Arc<Node>) -> Self {
        let backend = Arc::new(Backend::new(node.config.containerd.clone()));
        Self { node, backend }
    }

    /// Resolves when the daemon ends.
    pub(super) fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stopped = self.node.stopped.clone();
        async move {
            let _sender_gone_is_stopped_too = stopped.wait_for(|stopped| *stopped).await;
        }
    }

    /// Answers one call. Dropped when its client gives it up, and everything that it waits for with it.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
        let answered = if PULL_IMAGE.contains(&request.uri().path()) {
            self.pull_image(request).await
        } else {
            self.forward(request.map(Incoming::boxed_unsync)).await
        };
        Ok(answered
            .unwrap_or_else(|status| status.into_http::<()>().map(|()| Either::Right(Either::Right(Empty::new())))))
    }

    async fn forward(&self, request: Request<Body>) -> Result<Response<Answer>, Status> {
        match self.backend.call(request).await {
            Ok(response) => Ok(response.map(Either::Left)),
            Err(error) => {
                self.node.metrics.unanswered();
                Err(Status::unavailable(error.to_string()))
            }
        }
    }

    async fn pull_image(&self, request: Request<Incoming>) -> Result<Response<Answer>, Status> {
        let (head, body) = request.into_parts();
        let gone = |error: hyper::Error| Status::cancelled(format!("the request broke off: {error}"));
        let (seen, body) = look(body).await.map_err(gone)?;
        let _held_until_containerd_has_taken_it = match &seen {
            Seen::Asked(asked, _) => self.make_local(asked).await?,
            Seen::Opaque(why) => {
                tracing::warn!(why, "CRI proxy: a PullImage is forwarded without a look into it");
                None
            }
        };
        let Seen::Asked(_, message) = seen else { return self.forward(Request::from_parts(head, body)).await };
        let likeness = Likeness { path: head.uri.path().to_owned(), message };
        let body = Limited::new(body, PULL_BYTES_MAX).collect().await;
        let body = body.map_err(|error| Status::cancelled(format!("the request broke off: {error}")))?.to_bytes();
        let (head, body) = self.node.alike.forward(likeness, head, body, &self.backend).await.inspect_err(|_| {
            self.node.metrics.unanswered();
        })?;
        let body = body.map_or_else(|| Either::Right(Empty::new()), Either::Left);
        Ok(Response::from_parts(head, Either::Right(body)))
    }

    /// A claim on the image's layers; `None` where containerd shall do without. An error is the pull's.
    async fn make_local(&self, asked: &Asked) -> Result<Option<Held>, Status> {
        let Node { pulls, metrics, config, .. } = &*self.node;
        pulls.learn(asked);
        if !config.verify {
            return Ok(None);
        }
        let pull = metrics.pull();
        let started = Instant::now();
        let pulled = tokio::select! {
            pulled = pulls.pull(asked) => pulled,
            () = self.stopped() => Err(stopping(asked)),
        };
        let seconds = started.elapsed().as_secs_f64();
        match pulled {
            Ok(held) => {
                pull.end(Outcome::Verified);
                tracing::info!(image = asked.image, seconds, "pulled: all layers are here and verified");
                Ok(Some(held))
            }
            Err(failed) => match code(failed.cause) {
                Some(code) => {
                    pull.end(Outcome::Failed);
                    tracing::warn!(image = %without_login(&asked.image), seconds, cause = %failed, "pull failed");
                    Err(Status::new(code, failed.message))
                }
                None => {
                    pull.end(Outcome::Forwarded);
                    tracing::warn!(image = %without_login(&asked.image), cause = %failed, "pull left to containerd");
                    Ok(None)
                }
            },
        }
    }
}

fn stopping(asked: &Asked) -> PullFailed {
    let message = format!("the pull of {} was stopped: oncefs is ending; try again", without_login(&asked.image));
    PullFailed { cause: PullCause::Stopping, message }
}

/// How a client is told; `None` where containerd may have another answer.
fn code(cause: PullCause) -> Option<Code> {
    match cause {
        PullCause::NotFound => Some(Code::NotFound),
        PullCause::Denied => Some(Code::PermissionDenied),
        PullCause::Unavailable | PullCause::Stopping => Some(Code::Unavailable),
        PullCause::Corrupt => Some(Code::DataLoss),
        PullCause::OursAlone => None,
    }
}
