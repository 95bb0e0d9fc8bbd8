//! The client of the control socket.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::{Answer, Call, Event, Failure, Wanted};

/// A connection to the server of one run directory.
pub struct Client {
    sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
    /// The connection's socket once more, to hang up with.
    socket: OwnedFd,
    wanted: Wanted,
}

/// Why the server did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no server listens at {}", at.display())]
    NoServer { at: PathBuf, source: io::Error },
    #[error("whether a server listens at {} is not for this user to see: it is for root, for the user it runs as, and for members of [server] group", at.display())]
    Closed { at: PathBuf, source: io::Error },
    /// It may have ended just now: the call can be made again.
    #[error("the server went away in the middle of an answer; its log may say why")]
    Gone(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The call was given up, and the server had not ended it before.
    #[error("interrupted; nothing is left half done")]
    Interrupted,
    #[error("the server answered something else than this program expects; is it of another version?")]
    Answer(#[source] serde_json::Error),
}

/// One line of an answer holds at most a status report of some thousand layers.
const LINE_BYTES_MAX: usize = 64 << 20;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a server may take to see that a call was given up.
const HANG_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the server of a run directory listens.
pub fn socket(run: &Path) -> PathBuf {
    run.join("control.sock")
}

// === impl Client ===

impl Client {
    /// Connects to the server of this run directory, if one listens there.
    pub async fn connect(run: &Path) -> Result<Self, ClientError> {
        let at = socket(run);
        let no_server = |source: io::Error| match source.kind() {
            io::ErrorKind::PermissionDenied => ClientError::Closed { at: at.clone(), source },
            _ => ClientError::NoServer { at: at.clone(), source },
        };
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, UnixStream::connect(&at));
        let stream = connecting.await.map_err(|_| no_server(io::ErrorKind::TimedOut.into()))?.map_err(no_server)?;
        let socket = stream.as_fd().try_clone_to_owned().map_err(gone)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(gone)?;
        crate::sync::spawn(async move {
            let _the_answer_breaks_then_too = connection.await;
        });
        Ok(Self { sender, socket, wanted: Wanted::default() })
    }

    /// Says what of a server is meant with each call.
    pub fn wanting(self, wanted: Wanted) -> Self {
        Self { wanted, ..self }
    }

    /// Makes the call; `on_news` sees every event but the last. `interrupt` gives it up: then either the call had ended
    /// before, and its answer counts, or the server ends it without one.
    pub async fn call(
        &mut self,
        call: &Call,
        on_news: &mut (dyn FnMut(Event) + Send),
        interrupt: impl Future<Output = ()>,
    ) -> Result<Result<Answer, Failure>, ClientError> {
        let Self { sender, socket, wanted } = self;
        let mut answering = std::pin::pin!(answer(sender, call, wanted, on_news));
        tokio::select! {
            answered = &mut answering => return answered,
            () = interrupt => {}
        }
        let _gone_already = rustix::net::shutdown(&*socket, rustix::net::Shutdown::Write);
        match tokio::time::timeout(HANG_UP_TIMEOUT, answering).await {
            Ok(Ok(answered)) => Ok(answered),
            Ok(Err(_)) | Err(_) => Err(ClientError::Interrupted),
        }
    }
}

async fn answer(
    sender: &mut hyper::client::conn::http1::SendRequest<Full<Bytes>>,
    call: &Call,
    wanted: &Wanted,
    on_news: &mut (dyn FnMut(Event) + Send),
) -> Result<Result<Answer, Failure>, ClientError> {
    let body = serde_json::to_vec(call).map_err(ClientError::Answer)?;
    let request = Request::post(call.path()).header("host", "oncefs").header("content-type", "application/json");
    let mut request = request.body(Full::new(body.into())).map_err(gone)?;
    request.headers_mut().extend(wanted.headers());
    let response = sender.send_request(request).await.map_err(gone)?;
    let mut answer = Lines { body: response.into_body(), buffer: Vec::new() };
    loop {
        match serde_json::from_slice(&answer.next().await?).map_err(ClientError::Answer)? {
            Event::Done { outcome, server_ends } => return Ok(Ok(Answer { outcome, server_ends })),
            Event::Failed(failure) => return Ok(Err(failure)),
            news => on_news(news),
        }
    }
}

/// The lines of an answer as they come.
struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Lines {
    async fn next(&mut self) -> Result<Vec<u8>, ClientError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(end + 1);
                return Ok(std::mem::replace(&mut self.buffer, rest));
            }
            let frame = self.body.frame().await.ok_or_else(|| gone(io::Error::from(io::ErrorKind::UnexpectedEof)))?;
            if let Ok(data) = frame.map_err(gone)?.into_data() {
                self.buffer.extend_from_slice(&data);
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(gone(io::Error::other("a line of the answer is too long")));
            }
        }
    }
}

fn gone(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
    ClientError::Gone(error.into())
}
