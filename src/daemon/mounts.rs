//! The mounts of this process: which image is shown where, and what is shared between them.
//!
//! Root has one FUSE mount, `<run>/fs`, with a directory for each view, and binds those to where they are wanted: images
//! that share layers share inodes and so the page cache. Who may not bind-mount, or wants other owners shown,
//! gets a FUSE mount of one view. `change` makes and takes away, `leaving` serves what is out of sight to its end,
//! `claimed` shows the chains that containerd has claimed, which need no mount of their own. `remembered` is what the next server
//! needs to go on with all of it, and `takeover` goes on.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::keeping::Keeping;
use super::node::{News, Node};
use super::report;
use crate::config::Config;
use crate::control::{Event, Failure, FailureKind, MountCall, MountReport};
use crate::digest::{ChainId, Digest};
use crate::fuse::{self, Shelf};
use crate::image::{Asker, Held, Image, Images};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sys::mount as kernel;
use crate::view::{LayerSlot, ViewSlot};

mod change;
mod claimed;
mod connection;
mod lazily;
mod leaving;
mod remembered;
mod takeover;

use connection::{Connection, Starting};
use leaving::Leaving;
use remembered::{Memory, Remembered};

/// How often it is tried to write down what could not be written.
const NOTE_AGAIN: Duration = Duration::from_secs(1);

/// What stands in the kernel's table where systemd or automount(8) mounts on demand.
const AUTOMOUNT: &str = "autofs";

/// What a mount of ours is called in the kernel's table.
pub const KIND: &str = "fuse.oncefs";

/// Clones share the mounts.
#[derive(Clone)]
pub struct Mounts {
    shared: Arc<Shared>,
}

struct Shared {
    node: Node,
    config: Config,
    keeping: Keeping,
    memory: Memory,
    /// What is so could not be written, and is tried again.
    is_unwritten: AtomicBool,
    shelf: Shelf,
    state: Mutex<State>,
    /// Held while the kernel's table is changed: by system calls only, never over the network.
    changing: tokio::sync::Mutex<()>,
    /// Says that there may be nothing left to serve.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    mounted: BTreeMap<PathBuf, Mounted>,
    /// The same chain has the same slot as long as its layers are sure to stay.
    slots: HashMap<ChainId, ViewSlot>,
    /// Slots that the database has handed out for views to come.
    spare_slots: Vec<ViewSlot>,
    /// The images that views are mounted for, by manifest, so that their layers stay.
    held: HashMap<ViewSlot, HashMap<Digest, Held>>,
    /// The view that is being mounted just now, and what is noted of it before.
    mounting: Option<ViewSlot>,
    starting: Starting,
    next_connection: u64,
    /// Layers of the views that somebody has looked into: the kernel knows their files.
    loaded: HashMap<ViewSlot, Vec<LayerSlot>>,
    /// Chains that are shown for containerd.
    claimed: HashSet<ChainId>,
    everything: Option<Everything>,
    /// Root's one mount is there whether something is mounted or not.
    stays: bool,
    /// Out of sight, but perhaps in use.
    leaving: Vec<Leaving>,
    /// Changes under way: what is mounted now is not what will be.
    changes: usize,
    /// The process ends: nothing is mounted any more.
    is_closed: bool,
    /// What the server before had is not all here yet.
    is_taking_over: bool,
}

struct Mounted {
    image: Arc<Image>,
    slot: ViewSlot,
    /// A mount of its own; `None` is a bind mount of a view under root's one mount.
    own: Option<Connection>,
    /// To know it again in the kernel's table.
    device: Option<(u32, u32)>,
    /// Who asked for it has been told.
    is_answered: bool,
}

/// Root's one mount.
struct Everything {
    connection: Connection,
    /// Views whose bind mounts were in use when they left the sight. Only the mount as a whole shows when they are not.
    in_use: HashSet<ViewSlot>,
}

// === impl Mounts ===

impl Mounts {
    /// Mounts that end with this process.
    pub fn new(node: Node, config: Config) -> Self {
        Self::kept(node, config, Keeping::default())
    }

    /// Mounts that another server can go on with, if there is somebody who keeps them.
    pub(super) fn kept(node: Node, config: Config, keeping: Keeping) -> Self {
        let shared = Shared {
            memory: Memory::at(&config.run),
            is_unwritten: AtomicBool::new(false),
            keeping,
            node,
            config,
            shelf: Shelf::default(),
            state: Mutex::new(State::default()),
            changing: tokio::sync::Mutex::new(()),
            changed: watch::Sender::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// What is counted of those who look.
    pub(super) fn metrics(&self) -> &fuse::Metrics {
        self.shared.shelf.metrics()
    }

    pub(super) fn images(&self) -> &Images {
        self.shared.node.images()
    }

    /// Whether nobody uses anything, in sight or out of it.
    pub(super) fn is_empty(&self) -> bool {
        let state = self.shared.state.lock();
        state.mounted.is_empty() && state.leaving.is_empty() && state.changes == 0
    }

    /// Tells when [`Mounts::is_empty`] may have become true.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.shared.changed.subscribe()
    }

    /// Mounts as soon as manifest and config are known; waits for the layers only if the call says so.
    pub(super) async fn mount(&self, call: &MountCall, news: &News) -> Result<PathBuf, Failure> {
        let at = self.place(call)?;
        let image = self.shared.node.resolve(&call.image, call.platform.as_deref(), Asker::User).await?;
        let images = self.shared.node.images();
        let _nobody_listens = news.send(Event::Resolved(report::of_image(images, &image)));
        let showing = {
            let (mounts, image, call) = (self.clone(), image.clone(), MountCall { at: at.clone(), ..call.clone() });
            async move { mounts.show(&image, &call).await }
        };
        let shown = self.to_the_end(showing).await?;
        if call.wait {
            self.shared.node.with_news(&image, news, images.open_whole(&image, shown.slot())).await?;
        }
        // Before the answer: what was not answered the next server takes away.
        shown.keep()?;
        tracing::info!(image = image.reference, manifest = %image.manifest_digest, at = %at.display(), "mounted");
        Ok(at)
    }

    /// Unmounts at one place, or everywhere. Mounts in use leave the sight at once and end with their last user.
    pub(super) async fn unmount(&self, at: Option<&Path>) -> Result<Vec<PathBuf>, Failure> {
        let known: Vec<PathBuf> = match at {
            None => self.shared.state.lock().mounted.keys().cloned().collect(),
            Some(at) if self.shared.state.lock().mounted.contains_key(at) => vec![at.to_owned()],
            Some(at) => {
                let message = format!("nothing of oncefs is mounted at {}", at.display());
                return Err(Failure::new(FailureKind::NotFound, message));
            }
        };
        let mut failed = None;
        for at in known.clone() {
            let mounts = self.clone();
            let taken = self.to_the_end(async move { mounts.take_away(&at).await }).await;
            failed = failed.or(taken.err());
        }
        if self.shared.state.lock().mounted.is_empty() {
            self.let_leave().await;
        }
        failed.map_or(Ok(known), Err)
    }

    pub(super) fn reports(&self) -> Vec<MountReport> {
        let images = self.shared.node.images();
        let mounted: Vec<_> = {
            let state = self.shared.state.lock();
            state.mounted.iter().map(|(at, mounted)| (at.clone(), mounted.image.clone(), mounted.slot)).collect()
        };
        let report = |(at, image, slot): (PathBuf, Arc<Image>, ViewSlot)| MountReport {
            at,
            image: report::of_image(images, &image),
            loaded: self.shared.shelf.is_ready(slot),
        };
        mounted.into_iter().map(report).collect()
    }

    /// How many mounts are out of sight and still in use.
    pub(super) fn leaving(&self) -> usize {
        self.shared.state.lock().leaving.len()
    }

    /// Unmounts everything, root's one mount too, and mounts nothing any more.
    pub async fn close(&self) {
        {
            // Who mounts just now comes to an end first.
            let _one_at_a_time = self.shared.changing.lock().await;
            self.shared.state.lock().is_closed = true;
        }
        if let Err(failed) = self.unmount(None).await {
            tracing::warn!(error = %failed, "a mount is left, and dead from now on");
        }
        {
            let _one_at_a_time = self.shared.changing.lock().await;
            let _covered_by_other_mounts = std::mem::take(&mut self.shared.state.lock().mounted);
            self.retire_unused().await;
        }
        self.let_leave().await;
        for leaving in &self.shared.state.lock().leaving {
            self.shared.keeping.let_go_of_connection(leaving.record.number);
        }
        self.shared.memory.forget();
    }

    /// Writes down what is so now, for the next server. While this one takes over, what the server before wrote stays: less of it
    /// would be lost mounts, should this one die now.
    fn noted(&self, state: &State) -> Result<(), Failure> {
        if state.is_taking_over {
            return Ok(());
        }
        let written = self.shared.memory.write(Remembered::of(state, |slot| self.shared.shelf.has(slot)));
        written.map_err(|error| self.shared.memory.unwritten(&error))
    }

    /// The same of what is so already, and nobody is to be refused for. It is tried again until it is written.
    fn note(&self, state: &State) {
        let Err(failed) = self.noted(state) else { return };
        if self.shared.is_unwritten.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::error!(error = %failed, "what is mounted is not written down");
        let mounts = self.clone();
        crate::sync::spawn(async move {
            loop {
                tokio::time::sleep(NOTE_AGAIN).await;
                let state = mounts.shared.state.lock();
                if state.is_closed || mounts.noted(&state).is_ok() {
                    mounts.shared.is_unwritten.store(false, Ordering::Release);
                    return;
                }
            }
        });
    }

    fn place(&self, call: &MountCall) -> Result<PathBuf, Failure> {
        let at = call.at.as_path();
        let usage = |message: String| Err(Failure::new(FailureKind::Usage, message));
        let is_ours = |at: &Path| self.shared.state.lock().mounted.contains_key(at);
        // Before anything looks at the place itself: one whose server has died gives errors only.
        let kind = kernel::mounted_at(at).ok().flatten().map(|mounted| mounted.kind);
        if kind.as_deref() == Some(AUTOMOUNT) && opened(call).is_none() {
            return usage(format!("{} is an automount, and waits for this very mount", at.display()));
        }
        if kind.is_some_and(|kind| kind == KIND) && !is_ours(at) {
            let whose = "another server has mounted an image, or a server that has died";
            return usage(format!("at {0} {whose}; oncefs umount {0}", at.display()));
        }
        let at = match opened(call) {
            Some(_) => at.to_owned(),
            None if !at.is_absolute() || !at.is_dir() => {
                return usage(format!("{} is no directory; make it first: mkdir -p {0}", at.display()));
            }
            None => match at.canonicalize() {
                Ok(at) => at,
                Err(error) => return usage(format!("{}: {error}", at.display())),
            },
        };
        if is_ours(&at) {
            return usage(format!("an image is mounted at {0} already; oncefs umount {0}", at.display()));
        }
        if let Some(needed) = self.needed_below(&at) {
            let what = needed.display();
            return usage(format!("{} is above {what}, which oncefs itself needs; mount elsewhere", at.display()));
        }
        Ok(at)
    }

    /// What would be hidden by a mount at this place, and the server be cut off from: its own places, and the kernel's tables.
    fn needed_below(&self, at: &Path) -> Option<PathBuf> {
        let config = &self.shared.config;
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let needed = [real(&config.root), real(&config.run), "/proc".into(), "/dev".into()];
        needed.into_iter().find(|needed| needed.starts_with(at))
    }
}

/// The place as the caller has it open, if it is the one that is named. Reading the link looks nothing up.
fn opened(call: &MountCall) -> Option<&Path> {
    let opened = call.opened.as_deref().filter(|opened| opened.starts_with("/proc"))?;
    std::fs::read_link(opened).is_ok_and(|at| at == call.at).then_some(opened)
}
