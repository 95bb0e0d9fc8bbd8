//! Who answers at which socket. All begin together, and end together.

use std::sync::Arc;

use axum::Router;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::access::Connection;
use super::chains::ServedChains;
use super::metrics::Exposed;
use super::mounts::Mounts;
use super::node::blocking;
use super::server::Server;
use super::sockets::{Made, Sockets};
use super::{calls, failure};
use crate::config::Config;
use crate::control::Failure;
use crate::cri::{self, Pulls};
use crate::errors::with_causes;
use crate::snapshotter::{self, Snapshots};

/// What the CRI proxy needs.
pub(super) struct Cri {
    pub(super) config: cri::Config,
    pub(super) pulls: Arc<dyn Pulls>,
    pub(super) metrics: cri::Metrics,
}

/// containerd's snapshots, as the database has them. Needs root's one mount, and no network.
pub(super) async fn open_snapshots(mounts: &Mounts, config: &Config) -> Result<Snapshots, Failure> {
    let chains = Arc::new(ServedChains::new(mounts.clone(), &config.snapshotter));
    let (store, mapped) = (mounts.images().store().clone(), config.run.join("mapped"));
    let opened = blocking(move || Snapshots::open(store, chains, mapped)).await?;
    opened.map_err(|error| failure::of_snapshots(&error))
}

/// What is served at the sockets.
pub(super) struct Services {
    tasks: JoinSet<()>,
    closing: watch::Sender<bool>,
    /// Files of sockets that are taken away when nothing new is taken.
    made: Vec<Made>,
}

// === impl Services ===

impl Services {
    pub(super) fn start(
        sockets: Sockets,
        server: &Arc<Server>,
        exposed: &Arc<Exposed>,
        snapshots: Option<Snapshots>,
        cri: Cri,
    ) -> Result<Self, Failure> {
        let mut services = Self { tasks: JoinSet::new(), closing: watch::Sender::default(), made: Vec::new() };
        let (control, made) = sockets.control.split()?;
        services.made.extend(made);
        services.control(control, calls::control(server, exposed, sockets.access));
        if let Some(metrics) = sockets.metrics {
            services.http(metrics, calls::watching(exposed));
        }
        if let (Some(socket), Some(snapshots)) = (sockets.snapshotter, snapshots) {
            let (listener, made) = socket.split()?;
            services.made.extend(made);
            services.snapshotter(listener, snapshots);
        }
        if let Some(socket) = sockets.cri {
            let (listener, made) = socket.split()?;
            services.made.extend(made);
            services.cri(listener, cri);
        }
        Ok(services)
    }

    fn snapshotter(&mut self, listener: UnixListener, snapshots: Snapshots) {
        let closing = self.closing();
        self.tasks.spawn(async move {
            if let Err(error) = snapshotter::serve(listener, snapshots, closing).await {
                tracing::error!(error = with_causes(&error), "containerd is not answered any more");
            }
        });
    }

    fn cri(&mut self, listener: UnixListener, cri: Cri) {
        let closing = self.closing();
        let Cri { config, pulls, metrics } = cri;
        self.tasks.spawn(async move { cri::serve(listener, &config, pulls, metrics, closing).await });
    }

    fn control(&mut self, listener: UnixListener, router: Router) {
        let closing = self.closing();
        let service = router.into_make_service_with_connect_info::<Connection>();
        self.tasks.spawn(async move {
            let _never_fails = axum::serve(listener, service).with_graceful_shutdown(closing).await;
        });
    }

    fn http(&mut self, listener: TcpListener, router: Router) {
        let closing = self.closing();
        self.tasks.spawn(async move {
            let _never_fails = axum::serve(listener, router).with_graceful_shutdown(closing).await;
        });
    }

    /// Resolves when nothing new is to be taken.
    fn closing(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut closing = self.closing.subscribe();
        async move {
            let _dropped_is_closed_too = closing.wait_for(|is_closed| *is_closed).await;
        }
    }

    /// Takes nothing new from now on. Where another server follows, who connects waits for that.
    pub(super) fn close(&mut self, is_followed: bool) {
        if is_followed {
            std::mem::take(&mut self.made).into_iter().for_each(std::mem::forget);
        }
        self.made.clear();
        self.closing.send_replace(true);
    }

    /// Resolves when all that was under way is done.
    pub(super) async fn ended(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }

    /// Drops what is under way.
    pub(super) async fn abort(mut self) {
        self.tasks.shutdown().await;
    }
}
