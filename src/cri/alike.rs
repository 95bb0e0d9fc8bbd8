//! PullImages that are alike, on their way to containerd at the same time: it is asked once, and all of them get what it says.
//!
//! containerd would pull for each of them alone: resolve, fetch manifest and config, take locks. What it answers, errors
//! too, is the same for all that name the same image with the same login for the same runtime; which pod wants it matters to kubelet alone.

use std::vec::IntoIter;

use bytes::Bytes;
use futures::stream::{self, Iter};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::http::{request, response};
use hyper::{Request, Response};
use tonic::Status;

use super::backend::{Backend, BackendError};
use super::message::Body;
use crate::errors::with_causes;
use crate::flight::{Failed, Flight};
use crate::sync::Arc;

/// Which PullImages are alike: the service's version and what matters of the message.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Likeness {
    pub(super) path: String,
    pub(super) message: Vec<u8>,
}

/// Forwards what is alike once.
#[derive(Clone, Default)]
pub(super) struct Alike(Flight<Likeness, Arc<Said>, NotSaid>);

/// What containerd said.
struct Said {
    head: response::Parts,
    frames: Vec<Part>,
}

#[derive(Clone)]
enum Part {
    Data(Bytes),
    Trailers(hyper::HeaderMap),
}

/// A body that was read before.
pub(super) type Again = StreamBody<Iter<IntoIter<Result<Frame<Bytes>, hyper::Error>>>>;

#[derive(Debug, thiserror::Error)]
enum NotSaid {
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error("containerd's answer to a PullImage broke off: {0}")]
    Broken(String),
}

/// PullImageResponse names an image.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Each client's own: it looks after it itself.
const TIMEOUT: &str = "grpc-timeout";

// === impl Alike ===

impl Alike {
    /// containerd's answer to `message`, a whole body. An answer without a body comes back as `None` of one.
    pub(super) async fn forward(
        &self,
        likeness: Likeness,
        mut head: request::Parts,
        message: Bytes,
        backend: &Arc<Backend>,
    ) -> Result<(response::Parts, Option<Again>), Status> {
        head.headers.remove(TIMEOUT);
        let backend = backend.clone();
        let asking = self.0.join(likeness, || async move {
            let body: Body = Full::new(message).map_err(|never| match never {}).boxed_unsync();
            let response = backend.call(Request::from_parts(head, body)).await?;
            Ok(Arc::new(Said::read(response).await?))
        });
        let said = asking.await.map_err(|failed: Failed<NotSaid>| Status::unavailable(failed.to_string()))?;
        Ok((said.head.clone(), said.again()))
    }
}

// === impl Said ===

impl Said {
    async fn read(response: Response<Incoming>) -> Result<Self, NotSaid> {
        let (head, body) = response.into_parts();
        let mut body = Limited::new(body, ANSWER_BYTES_MAX);
        let mut frames = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| match error.downcast::<hyper::Error>() {
                Ok(error) => NotSaid::Broken(with_causes(&*error)),
                Err(error) if error.is::<LengthLimitError>() => {
                    NotSaid::Broken(format!("it is longer than {ANSWER_BYTES_MAX} bytes"))
                }
                Err(error) => NotSaid::Broken(error.to_string()),
            })?;
            match frame.into_data() {
                Ok(data) => frames.push(Part::Data(data)),
                Err(frame) => frames.extend(frame.into_trailers().ok().map(Part::Trailers)),
            }
        }
        Ok(Self { head, frames })
    }

    fn again(&self) -> Option<Again> {
        let frames = self.frames.iter().cloned().map(|part| {
            Ok(match part {
                Part::Data(data) => Frame::data(data),
                Part::Trailers(trailers) => Frame::trailers(trailers),
            })
        });
        (!self.frames.is_empty()).then(|| StreamBody::new(stream::iter(frames.collect::<Vec<_>>())))
    }
}
