//! One client's connection to containerd, made when it is first needed and again when it has gone.
//!
//! Each client has a connection of its own: one that reads slowly holds up nobody else, and one that goes away takes its
//! calls along.

use std::path::PathBuf;

use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::header::HeaderValue;
use hyper::http::uri::{Authority, Scheme};
use hyper::{Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;

use super::message::Body;
use super::{CONNECTION_WINDOW, METADATA_BYTES_MAX, STREAM_WINDOW};
use crate::errors::with_causes;
use crate::sync::Mutex;

/// The way to containerd.
pub(super) struct Backend {
    socket: PathBuf,
    connection: Mutex<Option<SendRequest<Body>>>,
}

/// Why containerd gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum BackendError {
    #[error(
        "containerd cannot be reached at {}: {source}; is it running, and does containerd in [cri] of oncefs's configuration \
         name its socket?", socket.display()
    )]
    Away { socket: PathBuf, source: std::io::Error },
    #[error("the connection to containerd broke: {0}; if it was restarted, try again")]
    Broken(String),
}

// === impl Backend ===

impl Backend {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket, connection: Mutex::new(None) }
    }

    /// What containerd answers. A call is sent a second time only where the first connection never took it.
    pub(super) async fn call(&self, request: Request<Body>) -> Result<Response<Incoming>, BackendError> {
        let request = with_authority(request);
        let refused = match self.kept() {
            None => request,
            Some(mut connection) => match connection.try_send_request(request).await {
                Ok(response) => return Ok(response),
                Err(mut error) => match error.take_message() {
                    Some(request) => request,
                    None => return Err(broken(error.error())),
                },
            },
        };
        let mut connection = self.connect().await?;
        connection.try_send_request(refused).await.map_err(|error| broken(error.error()))
    }

    /// The connection that is there, if it can still be used.
    fn kept(&self) -> Option<SendRequest<Body>> {
        self.connection.lock().clone().filter(|connection| !connection.is_closed())
    }

    async fn connect(&self) -> Result<SendRequest<Body>, BackendError> {
        let away = |source| BackendError::Away { socket: self.socket.clone(), source };
        let stream = UnixStream::connect(&self.socket).await.map_err(away)?;
        let mut client = http2::Builder::new(TokioExecutor::new());
        client
            .max_header_list_size(METADATA_BYTES_MAX)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        let (sender, connection) = client.handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        crate::sync::spawn(async move {
            // Ends when the last who may send has gone.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "CRI proxy: the connection to containerd broke");
            }
        });
        // Two may connect at the same moment: one is kept, the other ends with its call.
        *self.connection.lock() = Some(sender.clone());
        Ok(sender)
    }
}

fn broken(error: &hyper::Error) -> BackendError {
    BackendError::Broken(with_causes(error))
}

/// HTTP/2 has the host in the URI. Who leaves it out is forwarded all the same, named as gRPC names a Unix socket.
fn with_authority(mut request: Request<Body>) -> Request<Body> {
    if request.uri().authority().is_some() {
        return request;
    }
    let host = request.headers_mut().remove(hyper::header::HOST);
    let named = host.as_ref().map(HeaderValue::as_bytes).and_then(|host| Authority::try_from(host).ok());
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(named.unwrap_or_else(|| Authority::from_static("localhost")));
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    request
}
