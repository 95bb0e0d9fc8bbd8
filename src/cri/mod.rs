//! CRI's image service on a socket of our own: a proxy before containerd that learns credentials from PullImage, and makes a
//! pull mean "verified and here".
//!
//! Everything goes on to containerd as the bytes it came as: any service, any method, known or not, metadata, trailers, and what
//! containerd answers comes back the same way. Only the request of PullImage is looked into, and even that one
//! is forwarded unchanged, though once for all that are alike. A node depends on this proxy, so it holds no call up for
//! another, keeps nothing of what passes but a few hundred KiB a stream, sets no deadlines, and turns to containerd anew
//! whenever it was away.

mod alike;
mod backend;
mod message;
mod metrics;
mod proxy;
mod pulls;

use std::path::PathBuf;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::sync::Arc;

pub use metrics::Metrics;
pub use pulls::{Asked, Auth, Held, PullCause, PullFailed, Pulls};

use alike::Alike;
use proxy::{Node, Proxy};

/// What a user may set about the CRI proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether the proxy listens at `<run>/cri.sock`.
    pub enabled: bool,
    /// The socket of the containerd that calls are forwarded to.
    pub containerd: PathBuf,
    /// Whether PullImage waits until all layers are here and verified. If not, it only learns credentials: pulls stay lazy.
    /// Of use where oncefs is containerd's snapshotter; another one would fetch all layers again.
    pub verify: bool,
}

/// Calls that one connection may have under way. A kubelet that pulls in parallel has one for each image, and asks for the state
/// of images meanwhile.
const CALLS_MAX: u32 = 4096;

/// Clients at a time: a node has a kubelet and now and then a crictl. The next waits, unanswered, for one to go.
const CLIENTS_MAX: usize = 256;

/// Bytes of metadata a call or its answer may have. Details of errors travel there.
const METADATA_BYTES_MAX: u32 = 1 << 20;

/// Bytes that a stream may have under way where its reader is slower than its writer, and all streams of a connection.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// How long calls under way may go on when the daemon ends. Pulls end at once, and kubelet tries them again.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Out of file descriptors: somebody may close one.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self { enabled: true, containerd: "/run/containerd/containerd.sock".into(), verify: true }
    }
}

/// Serves until `stop` resolves, then ends calls under way and returns. No failure of a client or of containerd ends it.
pub async fn serve(
    listener: UnixListener,
    config: &Config,
    pulls: Arc<dyn Pulls>,
    metrics: Metrics,
    stop: impl Future<Output = ()>,
) {
    let (stopping, stopped) = watch::channel(false);
    let node = Arc::new(Node { config: config.clone(), pulls, metrics, alike: Alike::default(), stopped });
    let mut clients = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let has_place = clients.len() < CLIENTS_MAX;
        tokio::select! {
            () = &mut stop => break,
            Some(_ended) = clients.join_next() => {}
            accepted = listener.accept(), if has_place => match accepted {
                Ok((client, _)) => drop(clients.spawn(serve_client(client, Proxy::new(node.clone())))),
                Err(error) => {
                    tracing::warn!(%error, "CRI proxy: a client could not be accepted");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            },
        }
    }
    drop(listener);
    stopping.send_replace(true);
    while clients.join_next().await.is_some() {}
}

/// One client's connection. What it has under way with containerd goes away with it.
async fn serve_client(client: UnixStream, proxy: Proxy) {
    let stopped = proxy.stopped();
    let proxy = Arc::new(proxy);
    let mut server = http2::Builder::new(TokioExecutor::new());
    server
        .max_concurrent_streams(CALLS_MAX)
        .max_header_list_size(METADATA_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // What containerd did not say is not said.
        .auto_date_header(false);
    let answer = service_fn(move |request| {
        let proxy = proxy.clone();
        async move { proxy.answer(request).await }
    });
    let mut connection = std::pin::pin!(server.serve_connection(TokioIo::new(client), answer));
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stopped => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(STOP_GRACE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "CRI proxy: a client's connection broke");
    }
}
