//! The control socket: takes calls, answers with lines, and decides when the process has nothing left to do.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Json, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures::stream;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};

use super::mounts::Mounts;
use super::node::{News, Node};
use crate::config::Config;
use crate::control;
use crate::control::{Call, Event, Failure, FailureKind, Outcome};
use crate::sys::mount as kernel;

/// When a server ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// When it is told to.
    Service,
    /// When nothing is mounted and nobody is being answered.
    OnDemand,
}

/// A call is a reference and a path or two.
const CALL_BYTES_MAX: usize = 64 << 10;

/// How long a server that was started for a call waits for it.
const FIRST_CALL: Duration = Duration::from_secs(10);

struct Server {
    node: Node,
    mounts: Mounts,
    lifetime: Lifetime,
    /// Calls being answered, and whether there has been one.
    calls: watch::Sender<Calls>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Calls {
    active: usize,
    ever: bool,
    /// No call is taken any more: who comes now is better served by the next server.
    is_over: bool,
}

/// Counts a call until it has been answered or given up.
struct Active(Arc<Server>);

/// Serves until `stop` resolves or, on demand, there is nothing left to do. `ready` is called when calls are taken.
/// Afterwards nothing is mounted and the socket is gone.
pub async fn serve(
    config: Config,
    lifetime: Lifetime,
    first: Option<Call>,
    ready: impl FnOnce(),
    stop: impl Future<Output = ()>,
) -> Result<(), Failure> {
    let node = Node::open(&config).await?;
    let listener = listen(&config.run)?;
    let mounts = Mounts::new(node.clone(), config.clone());
    let server = Arc::new(Server { node, mounts, lifetime, calls: watch::Sender::default() });
    let (closing, mut closed) = watch::channel(());
    let graceful = async move {
        let _closing_is_dropped = closed.changed().await;
    };
    let answering = axum::serve(listener, router(&server)).with_graceful_shutdown(graceful);
    crate::sync::spawn(async move {
        let _never_fails = answering.await;
    });
    let ended = serve_calls(&server, first, ready, stop).await;
    server.calls.send_modify(|calls| calls.is_over = true);
    let _gone_already = std::fs::remove_file(control::socket(&config.run));
    drop(closing);
    server.mounts.close().await;
    server.node.sync().await?;
    ended
}

async fn serve_calls(
    server: &Arc<Server>,
    first: Option<Call>,
    ready: impl FnOnce(),
    stop: impl Future<Output = ()>,
) -> Result<(), Failure> {
    let mut stop = std::pin::pin!(stop);
    if let Some(call) = &first {
        let (news, _nobody_listens) = mpsc::unbounded_channel();
        let _first = Active::new(server);
        tokio::select! {
            answered = server.answer(call, &news) => drop(answered?),
            () = &mut stop => return Err(Failure::new(FailureKind::Other, "interrupted; nothing is left half done")),
        }
    }
    ready();
    server.clone().until_nothing_is_left(stop).await;
    Ok(())
}

fn listen(run: &Path) -> Result<UnixListener, Failure> {
    let socket = control::socket(run);
    // Whoever comes here holds the run directory's lock: what is there was left by a server that was killed.
    let _none_is_fine = std::fs::remove_file(&socket);
    let listening = UnixListener::bind(&socket).and_then(|listener| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    });
    listening
        .map_err(|error| Failure::new(FailureKind::Other, format!("cannot listen at {}: {error}", socket.display())))
}

fn router(server: &Arc<Server>) -> Router {
    let mut router = Router::new().route("/healthz", get(async || "ok\n"));
    for path in ["/v1/mount", "/v1/umount", "/v1/pull", "/v1/status", "/v1/inspect", "/v1/check"] {
        router = router.route(path, post(answer));
    }
    router.layer(DefaultBodyLimit::max(CALL_BYTES_MAX)).with_state(server.clone())
}

/// Answers line by line. The work is polled by the answer itself: a client that goes away drops both.
async fn answer(State(server): State<Arc<Server>>, Json(call): Json<Call>) -> Response {
    // An answer without a line: the caller looks for the next server.
    let Some(active) = Active::new(&server) else { return StatusCode::SERVICE_UNAVAILABLE.into_response() };
    let (news, told) = mpsc::unbounded_channel();
    let work = Box::pin(async move {
        let outcome = server.answer(&call, &news).await;
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

fn line(event: &Event) -> Result<Vec<u8>, Infallible> {
    let mut line = serde_json::to_vec(event).unwrap_or_else(|_| b"null".to_vec());
    line.push(b'\n');
    Ok(line)
}

// === impl Server ===

impl Server {
    async fn answer(&self, call: &Call, news: &News) -> Result<Outcome, Failure> {
        Ok(match call {
            Call::Mount(call) => Outcome::Mounted { at: self.mounts.mount(call, news).await? },
            Call::Umount(call) => Outcome::Unmounted { at: self.mounts.unmount(call.at.as_deref()).await? },
            Call::Pull(call) => Outcome::Pulled(self.node.pull(call, news).await?),
            Call::Inspect(call) => Outcome::Inspected(Box::new(self.node.inspect(call).await?)),
            Call::Check { repair } => Outcome::Checked(self.node.check(*repair, news).await?),
            Call::Status => {
                let mut status = self.node.status().await?;
                status.server = Some(std::process::id());
                status.mounts = self.mounts.reports();
                status.leaving = self.mounts.leaving();
                Outcome::Status(Box::new(status))
            }
        })
    }

    /// Takes no call any more if there is nothing to do; in one step, so that none comes between.
    fn ends_if_idle(&self) -> bool {
        self.calls.send_if_modified(|calls| {
            calls.is_over |= calls.active == 0 && calls.ever && self.mounts.is_empty();
            calls.is_over
        })
    }

    async fn until_nothing_is_left(self: Arc<Self>, mut stop: impl Future<Output = ()> + Unpin) {
        let mut calls = self.calls.subscribe();
        let mut table = table_changes();
        let mut mounts = self.mounts.changes();
        let mut is_first = tokio::time::interval(FIRST_CALL);
        is_first.tick().await;
        loop {
            let now = *calls.borrow_and_update();
            if self.lifetime == Lifetime::OnDemand && self.ends_if_idle() {
                return;
            }
            tokio::select! {
                () = &mut stop => return,
                _ = calls.changed() => {}
                Ok(()) = table.changed() => self.mounts.prune().await,
                Ok(()) = mounts.changed() => {}
                _ = is_first.tick(), if !now.ever => { self.calls.send_modify(|calls| calls.ever = true); }
            }
        }
    }
}

// === impl Active ===

impl Active {
    /// `None` if the server ends.
    fn new(server: &Arc<Server>) -> Option<Self> {
        let is_taken = server.calls.send_if_modified(|calls| {
            if !calls.is_over {
                (calls.active, calls.ever) = (calls.active + 1, true);
            }
            !calls.is_over
        });
        is_taken.then(|| Self(server.clone()))
    }

    /// Whether the server ends with this call.
    fn is_last(&self) -> bool {
        self.0.lifetime == Lifetime::OnDemand && self.0.calls.borrow().active == 1 && self.0.mounts.is_empty()
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.calls.send_modify(|calls| calls.active -= 1);
    }
}

/// Tells when anybody mounts or unmounts anything. A thread of its own waits for it; it ends with the process.
fn table_changes() -> watch::Receiver<()> {
    let (changed, changes) = watch::channel(());
    let look = move || {
        let Ok(table) = kernel::TableWatch::new() else { return };
        while table.wait().is_ok() && changed.send(()).is_ok() {}
    };
    let _without_it_umount_is_seen_later = std::thread::Builder::new().name("mount-table".to_owned()).spawn(look);
    changes
}
