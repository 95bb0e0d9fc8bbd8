//! A containerd for tests: takes any method, writes down what came, and answers as the method's name says.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, stream};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use oncefs::sync::Mutex;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tonic::codegen::BoxFuture;
use tonic::metadata::MetadataMap;
use tonic::server::StreamingService;
use tonic::{Code, Request, Response, Status, Streaming};

use super::calls::Raw;
use super::proxied::until_count;

/// What came with one call.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seen {
    pub(super) path: String,
    /// Name and value of all headers, sorted.
    pub(super) metadata: Vec<(String, Vec<u8>)>,
    pub(super) messages: Vec<Bytes>,
}

/// Ends when dropped, and its connections with it.
pub(super) struct FakeContainerd {
    pub(super) socket: PathBuf,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Vec<Seen>>,
    /// How many calls that hang are here.
    hanging: watch::Sender<usize>,
    /// Whether PullImage hangs.
    holds_pulls: watch::Sender<bool>,
}

/// Answers one call.
struct Answering {
    shared: Arc<Shared>,
    path: String,
}

/// Counts a call that hangs.
struct Hanging(Arc<Shared>);

const MESSAGE_BYTES_MAX: usize = 32 << 20;

impl FakeContainerd {
    pub(super) fn start(socket: &Path) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let shared = Arc::new(Shared::default());
        let serving = tokio::spawn(serve(listener, shared.clone()));
        Self { socket: socket.to_owned(), shared, serving }
    }

    /// All calls so far.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().clone()
    }

    /// Calls of a method so far.
    pub(super) fn seen_of(&self, method: &str) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.path.ends_with(method)).collect()
    }

    /// Waits until so many calls hang.
    pub(super) async fn hanging(&self, count: usize) {
        until_count(&self.shared.hanging, count).await;
    }

    /// From now on calls of PullImage hang, or those that hang are answered.
    pub(super) fn hold_pulls(&self, hold: bool) {
        self.shared.holds_pulls.send_replace(hold);
    }

    /// Ends it as a kill would.
    pub(super) async fn stop(mut self) {
        self.serving.abort();
        let _aborted = (&mut self.serving).await;
        std::fs::remove_file(&self.socket).unwrap();
    }
}

impl Drop for FakeContainerd {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: UnixListener, shared: Arc<Shared>) {
    let mut clients = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let shared = shared.clone();
        clients.spawn(async move {
            let answer = service_fn(move |request: hyper::Request<Incoming>| {
                let shared = shared.clone();
                async move {
                    let path = request.uri().path().to_owned();
                    let grpc = tonic::server::Grpc::new(Raw);
                    let mut grpc = grpc.max_decoding_message_size(MESSAGE_BYTES_MAX);
                    Ok::<_, Infallible>(grpc.streaming(Answering { shared, path }, request).await)
                }
            });
            let server = http2::Builder::new(TokioExecutor::new());
            let _broken_connections_are_the_tests = server.serve_connection(TokioIo::new(client), answer).await;
        });
    }
}

impl StreamingService<Bytes> for Answering {
    type Response = Bytes;
    type ResponseStream = BoxStream<'static, Result<Bytes, Status>>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let (shared, path) = (self.shared.clone(), self.path.clone());
        Box::pin(answer(shared, path, request))
    }
}

async fn answer(
    shared: Arc<Shared>,
    path: String,
    request: Request<Streaming<Bytes>>,
) -> Result<Response<BoxStream<'static, Result<Bytes, Status>>>, Status> {
    let metadata = request.metadata().clone().into_headers();
    let mut metadata: Vec<_> =
        metadata.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
    metadata.sort();
    let mut messages = request.into_inner();
    let method = path.rsplit('/').next().unwrap().to_owned();
    if method == "Echo" {
        // Each message is answered before the next has come.
        return Ok(Response::new(messages.boxed()));
    }
    let mut whole = Vec::new();
    while let Some(message) = messages.next().await {
        whole.push(message?);
    }
    shared.seen.lock().push(Seen { path, metadata, messages: whole.clone() });
    match method.as_str() {
        "Fail" => {
            let mut trailers = MetadataMap::new();
            trailers.insert("x-trailer", "after it".parse().unwrap());
            let details = Bytes::from_static(b"\x08\x05\x12\x04what\xff\x00");
            Err(Status::with_details_and_metadata(Code::Aborted, "100 % said, \"so\"\n", details, trailers))
        }
        "Hang" => {
            let _here = Hanging::new(shared);
            std::future::pending().await
        }
        "Flood" => {
            let here = Hanging::new(shared);
            let block = Bytes::from(vec![7; 64 << 10]);
            Ok(Response::new(stream::repeat_with(move || Ok((block.clone(), &here).0)).boxed()))
        }
        _ => {
            if method == "PullImage" {
                let here = Hanging::new(shared);
                here.0.holds_pulls.subscribe().wait_for(|hold| !hold).await.unwrap();
            }
            let mut response = Response::new(stream::iter(whole.into_iter().map(Ok)).boxed());
            response.metadata_mut().insert("x-answer", "with it".parse().unwrap());
            response.metadata_mut().insert_bin("x-answer-bin", tonic::metadata::MetadataValue::from_bytes(b"\x00\xff"));
            Ok(response)
        }
    }
}

impl Hanging {
    fn new(shared: Arc<Shared>) -> Self {
        shared.hanging.send_modify(|hanging| *hanging += 1);
        Self(shared)
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        self.0.hanging.send_modify(|hanging| *hanging -= 1);
    }
}
