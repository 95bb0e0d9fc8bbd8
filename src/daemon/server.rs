//! The server's life: it takes its places, shows what it has, answers, and decides when it has nothing left to do.
//!
//! First the sockets, so that who starts at the same time can connect; then the run directory, the store, the mount and
//! the services behind the sockets. An orderly end goes the other way: nothing new, what is under way to its end, the mounts.

mod check;
mod renewal;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::interrupts::Interrupts;
use super::keeping::{Inherited, Keeping};
use super::logging::Log;
use super::metrics::{Counted, Exposed};
use super::mounts::Mounts;
use super::node::{News, Node};
use super::notify::Notify;
use super::pulls::NodePulls;
use super::reload::Reload;
use super::services::{Cri, Services, open_snapshots};
use super::sockets::{self, Sockets};
use super::start::hold_run;
use super::terms::Terms;
use crate::config::{Config, Flags};
use crate::control::{Call, Event, Failure, FailureKind, Outcome, Wanted};
use crate::snapshotter::Snapshots;
use crate::sys::mount as kernel;

pub use check::nothing_to_compare;
use renewal::until_another_is_better;

/// When a server ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// When it is told to.
    Service,
    /// When nothing is mounted and nobody is being answered.
    OnDemand,
}

/// What a server begins with.
pub struct Start {
    pub config: Config,
    /// To read the configuration again with.
    pub flags: Flags,
    pub lifetime: Lifetime,
    /// What it was started for and must do before it is ready.
    pub first: Option<Call>,
    /// Who keeps descriptors for the next server.
    pub keeping: Keeping,
    pub log: Log,
}

/// How long a server that was started for a call waits for it.
const FIRST_CALL: Duration = Duration::from_secs(10);

/// How long a disk may take for the last that a server writes whom another follows.
const LAST_SYNC: Duration = Duration::from_secs(10);

/// How long answers that were cut short may take to be sent.
const LAST_WORDS: Duration = Duration::from_secs(3);

pub(super) struct Server {
    node: Node,
    mounts: Mounts,
    /// Of a server that containerd may ask.
    snapshots: Option<Snapshots>,
    lifetime: Lifetime,
    counted: Counted,
    terms: Terms,
    /// Calls being answered, and whether there has been one.
    calls: watch::Sender<Calls>,
    /// The grace is over: what is not done by now is not done.
    cut: watch::Sender<bool>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Calls {
    active: usize,
    ever: bool,
    /// No call is taken any more: who comes now is better served by the next server.
    is_over: bool,
}

/// Counts a call until it has been answered or given up.
pub(super) struct Active(Arc<Server>);

/// The places that a server holds, and its store.
struct Held {
    sockets: Sockets,
    node: Node,
    /// FUSE connections of the server before.
    connections: BTreeMap<u64, OwnedFd>,
    run: File,
}

/// A server that may be asked.
struct Begun {
    server: Arc<Server>,
    services: Services,
}

/// Serves until it is interrupted or, on demand, there is nothing left to do. `ready` is called when calls are taken.
/// Afterwards nothing is mounted and the sockets are gone; or, where another server is to follow, this process is.
pub async fn serve(start: Start, ready: impl FnOnce(), interrupts: Interrupts) -> Result<(), Failure> {
    let Start { config, flags, lifetime, first, keeping, log } = start;
    let may_renew = Instant::now() + config.server.renew();
    let notify = Notify::of(lifetime, &keeping);
    notify.status("opening the store");
    let held = tokio::select! {
        held = hold(&config, lifetime, &keeping) => held?,
        () = interrupts.reach(1) => return Err(interrupted()),
    };
    let Held { sockets, node, connections, run } = held;
    // To the end of the process: until then its threads may have the store, and who waits for the one waits for both.
    Box::leak(Box::new(run));
    let has_taken_over = !connections.is_empty();
    let mounts = Mounts::kept(node.clone(), config.clone(), keeping.clone());
    mounts.take_over(connections).await?;
    let terms = Terms::new(&config, &flags);
    let begun = begin((&config, lifetime, has_taken_over), sockets, &node, &mounts, terms).await;
    let Begun { server, services } = match begun {
        Err(failed) if has_taken_over && keeping.is_there() => {
            tracing::error!(error = %failed, "cannot serve; what is mounted is left to the next server");
            leave(1)
        }
        begun => begun?,
    };
    let count = server.snapshots.as_ref().map_or(0, Snapshots::count);
    let (root, run, layers) = (config.root.clone(), config.run.clone(), node.images().store().digests().len());
    let reload = Reload::new(config, flags, log, node.clone());
    let began = server.begin(first, &interrupts).await;
    let ended = match began {
        Ok(()) => {
            ready();
            notify.ready("serving");
            tracing::info!(version = env!("CARGO_PKG_VERSION"), root = %root.display(), run = %run.display(), layers, snapshots = count, "serving");
            tokio::select! {
                () = server.clone().until_nothing_is_left(interrupts.reach(1)) => {}
                () = reload.whenever_asked(notify), if lifetime == Lifetime::Service => {}
                () = notify.watch(node.clone()), if lifetime == Lifetime::Service => {}
                () = until_another_is_better(&node, &keeping, may_renew), if lifetime == Lifetime::Service => {}
            }
            Ok(())
        }
        Err(failed) => Err(failed),
    };
    let grace = if lifetime == Lifetime::Service { reload.config().server.drain() } else { Duration::ZERO };
    let is_followed = || lifetime == Lifetime::Service && !interrupts.are_for_good() && keeping.is_there();
    let is_left = is_followed();
    tracing::info!(calls = server.calls.borrow().active, is_left, "ending");
    server.drain(services, grace, (&interrupts, is_left), notify).await;
    if is_left && is_followed() {
        if let Err(failed) = tokio::time::timeout(LAST_SYNC, node.sync()).await.unwrap_or_else(|_| Err(too_slow())) {
            tracing::error!(error = %failed, "not everything was written down: the next server fetches some frames again");
        }
        tracing::info!("leaving what is mounted to the next server");
        leave(0);
    }
    mounts.close().await;
    sockets::let_go(&keeping);
    // It costs the next start some fetches; as a failure it would have a keeper start one server after the other on a broken disk.
    if let Err(failed) = node.sync().await {
        tracing::error!(error = %failed, "not everything was written down: the next start fetches some frames again");
    }
    ended
}

/// Ends the process, and takes nothing apart: who waits for an answer gets it of the next server. Whatever else let go of a reply
/// would make it an error.
fn leave(code: i32) -> ! {
    std::process::exit(code)
}

/// All that is between the mounts of the server before and the first call.
async fn begin(
    (config, lifetime, has_taken_over): (&Config, Lifetime, bool),
    sockets: Sockets,
    node: &Node,
    mounts: &Mounts,
    terms: Terms,
) -> Result<Begun, Failure> {
    node.images().complete_in_background();
    let snapshots = match sockets.snapshotter {
        Some(_) => {
            mounts.stay().await?;
            Some(open_snapshots(mounts, config).await?)
        }
        None => None,
    };
    mounts.taken_over().await;
    if snapshots.is_none() {
        node.images().settled_without_containerd();
    }
    let (counted, cri, exposed) = Exposed::new(node, mounts, snapshots.clone(), config);
    let cri = Cri { config: config.cri.clone(), pulls: Arc::new(NodePulls::new(node.clone())), metrics: cri };
    let calls = watch::Sender::new(Calls { ever: has_taken_over, ..Calls::default() });
    let (of_node, of_mounts, of_snapshots) = (node.clone(), mounts.clone(), snapshots.clone());
    let cut = watch::Sender::default();
    let server =
        Server { node: of_node, mounts: of_mounts, snapshots: of_snapshots, lifetime, counted, terms, calls, cut };
    let server = Arc::new(server);
    let services = Services::start(sockets, &server, &exposed, snapshots, cri)?;
    Ok(Begun { server, services })
}

async fn hold(config: &Config, lifetime: Lifetime, keeping: &Keeping) -> Result<Held, Failure> {
    let inherited = Inherited::take()?;
    keeping.goes_on_with(&inherited);
    let Inherited { sockets, connections } = inherited;
    let sockets = Sockets::open(config, lifetime, sockets, keeping).await?;
    let run = hold_run(&config.run).await?;
    Ok(Held { sockets, node: Node::open(config).await?, connections, run })
}

fn too_slow() -> Failure {
    Failure::new(FailureKind::Store, format!("the disk takes more than {} s", LAST_SYNC.as_secs()))
}

fn interrupted() -> Failure {
    Failure::new(FailureKind::Other, "interrupted; nothing is left half done")
}

// === impl Server ===

impl Server {
    /// Does what the server was started for.
    async fn begin(self: &Arc<Self>, first: Option<Call>, interrupts: &Interrupts) -> Result<(), Failure> {
        let Some(call) = first else { return Ok(()) };
        let (news, _nobody_listens) = mpsc::unbounded_channel();
        let _first = Active::new(self);
        tokio::select! {
            answered = self.answer(&call, &news) => answered.map(drop),
            () = interrupts.reach(1) => Err(interrupted()),
        }
    }

    /// Whether this is the server that the caller means; what of that is not so, the caller is told.
    pub(super) fn is_meant(&self, wanted: &Wanted, news: &News) -> Result<(), Failure> {
        for told in self.terms.compare(wanted)? {
            let _nobody_listens = news.send(Event::Told(told));
        }
        Ok(())
    }

    /// Does what a call says, unless the server's time is over before.
    pub(super) async fn answer_while_it_serves(&self, call: &Call, news: &News) -> Result<Outcome, Failure> {
        let mut cut = self.cut.subscribe();
        let answered = tokio::select! {
            answered = self.answer(call, news) => answered,
            Ok(_) = cut.wait_for(|is_cut| *is_cut) => {
                Err(Failure::new(FailureKind::Other, "oncefs was told to end before this was done; try again"))
            }
        };
        if let Err(failure) = &answered {
            self.counted.failed(failure.kind);
        }
        answered
    }

    async fn answer(&self, call: &Call, news: &News) -> Result<Outcome, Failure> {
        Ok(match call {
            Call::Mount(call) => Outcome::Mounted { at: self.mounts.mount(call, news).await? },
            Call::Umount(call) => Outcome::Unmounted { at: self.mounts.unmount(call.at.as_deref()).await? },
            Call::Pull(call) => Outcome::Pulled(self.node.pull(call, news).await?),
            Call::Inspect(call) => Outcome::Inspected(Box::new(self.node.inspect(call).await?)),
            Call::Check(call) => Outcome::Checked(self.check(call, news).await?),
            Call::Pin(call) => Outcome::Pinned(self.node.pin(call).await?),
            Call::Unpin(call) => Outcome::Unpinned(self.node.unpin(call).await?),
            Call::Remove(call) => Outcome::Removed(self.node.remove(call).await?),
            Call::Index(call) => Outcome::Indexes(self.node.index(call, news).await?),
            Call::Prune(call) => Outcome::Pruned(self.node.prune(call).await?),
            Call::Trace(call) => Outcome::Traced(Box::new(self.node.trace(call).await?)),
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

    async fn until_nothing_is_left(self: Arc<Self>, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
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

    /// Takes nothing new, and gives what is under way its time. A second interrupt takes that away.
    async fn drain(
        &self,
        mut services: Services,
        grace: Duration,
        (interrupts, is_followed): (&Interrupts, bool),
        notify: Notify,
    ) {
        self.calls.send_modify(|calls| calls.is_over = true);
        notify.stopping("ending: what is under way may come to its end");
        services.close(is_followed);
        if grace.is_zero() {
            return services.abort().await;
        }
        let again = interrupts.reach(2);
        let in_time = tokio::select! {
            timely = tokio::time::timeout(grace, services.ended()) => timely.is_ok(),
            () = again => false,
        };
        if !in_time {
            tracing::warn!(
                calls = self.calls.borrow().active,
                "the time is over: what is still under way is cut short"
            );
            self.cut.send_replace(true);
            let _some_clients_do_not_listen = tokio::time::timeout(LAST_WORDS, services.ended()).await;
        }
        services.abort().await;
    }
}

// === impl Active ===

impl Active {
    /// `None` if the server ends.
    pub(super) fn new(server: &Arc<Server>) -> Option<Self> {
        let is_taken = server.calls.send_if_modified(|calls| {
            if !calls.is_over {
                (calls.active, calls.ever) = (calls.active + 1, true);
            }
            !calls.is_over
        });
        is_taken.then(|| Self(server.clone()))
    }

    /// Whether the server ends with this call.
    pub(super) fn is_last(&self) -> bool {
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
