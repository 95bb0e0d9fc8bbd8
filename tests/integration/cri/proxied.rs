//! The proxy before a fake containerd, and a node that pulls as a test says.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use oncefs::cri::{Asked, Config, Held, Metrics, PullCause, PullFailed, Pulls, serve};
use oncefs::sync::Mutex;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::Caller;
use super::backend::FakeContainerd;

pub(super) struct Proxied<P = Outcomes> {
    pub(super) socket: PathBuf,
    pub(super) pulls: Arc<P>,
    /// Counters as Prometheus reads them.
    registry: oncefs::metrics::Registry,
    containerd: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<()>>,
    _dir: TempDir,
}

/// A node whose images come to the end that a test gives them, when it says so.
#[derive(Default)]
pub(super) struct Outcomes {
    learned: Mutex<Vec<Asked>>,
    /// Other images are here.
    fails: Mutex<BTreeMap<String, PullFailed>>,
    /// Images that are pulled for ever.
    stuck: Mutex<Vec<String>>,
    /// Pulls under way, and claims held.
    under_way: watch::Sender<usize>,
    held: watch::Sender<usize>,
}

struct Counted(watch::Sender<usize>);

impl Proxied {
    pub(super) fn start() -> Self {
        Self::with(|_| ())
    }

    pub(super) fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::of(Outcomes::default(), change)
    }
}

impl<P: Pulls> Proxied<P> {
    pub(super) fn of(pulls: P, change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (socket, containerd) = (dir.path().join("cri.sock"), dir.path().join("containerd.sock"));
        let mut config = Config { containerd: containerd.clone(), ..Config::default() };
        change(&mut config);
        let mut registry = oncefs::metrics::Registry::default();
        let metrics = Metrics::register(&mut registry);
        let pulls = Arc::new(pulls);
        let listener = UnixListener::bind(&socket).unwrap();
        let (stop, stopped) = oneshot::channel();
        let serving = {
            let pulls = pulls.clone();
            tokio::spawn(async move {
                serve(listener, &config, pulls, metrics, async { drop(stopped.await) }).await;
            })
        };
        Self { socket, pulls, registry, containerd, stop: Some(stop), serving: Some(serving), _dir: dir }
    }

    /// A containerd where the proxy looks for it.
    pub(super) fn containerd(&self) -> FakeContainerd {
        FakeContainerd::start(&self.containerd)
    }

    pub(super) fn client(&self) -> Caller {
        Caller::at(&self.socket)
    }

    pub(super) fn metrics(&self) -> String {
        oncefs::metrics::encode(&self.registry)
    }

    /// Tells it to end, and waits until it has.
    pub(super) async fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.serving.take().unwrap().await.unwrap();
    }
}

impl Outcomes {
    pub(super) fn fail(&self, image: &str, cause: PullCause, message: &str) {
        self.fails.lock().insert(image.to_owned(), PullFailed { cause, message: message.to_owned() });
    }

    pub(super) fn stick(&self, image: &str) {
        self.stuck.lock().push(image.to_owned());
    }

    pub(super) fn learned(&self) -> Vec<Asked> {
        self.learned.lock().clone()
    }

    /// Waits until so many pulls are under way.
    pub(super) async fn under_way(&self, count: usize) {
        until_count(&self.under_way, count).await;
    }

    /// Waits until so many claims are held.
    pub(super) async fn held(&self, count: usize) {
        until_count(&self.held, count).await;
    }
}

/// Waits until a count is this; a minute is a bound against hanging.
pub(super) async fn until_count(counted: &watch::Sender<usize>, count: usize) {
    let mut counted = counted.subscribe();
    let reached = tokio::time::timeout(Duration::from_secs(60), counted.wait_for(|now| *now == count)).await;
    drop(reached.unwrap_or_else(|_| panic!("the count does not become {count}")).unwrap());
}

impl Pulls for Outcomes {
    fn learn(&self, asked: &Asked) {
        self.learned.lock().push(asked.clone());
    }

    fn pull(&self, asked: &Asked) -> BoxFuture<'static, Result<Held, PullFailed>> {
        let under_way = Counted::new(&self.under_way);
        let held = self.held.clone();
        let failed = self.fails.lock().get(&asked.image).cloned();
        let is_stuck = self.stuck.lock().contains(&asked.image);
        Box::pin(async move {
            let _under_way = under_way;
            if is_stuck {
                std::future::pending::<()>().await;
            }
            failed.map_or_else(|| Ok(Held::new(Counted::new(&held))), Err)
        })
    }
}

impl Counted {
    fn new(count: &watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}
