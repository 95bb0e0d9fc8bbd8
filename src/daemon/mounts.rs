//! The mounts of this process: which image is shown where, and what is shared between them.
//!
//! Root has one FUSE mount, `<run>/fs`, with a directory for each view, and binds those to where they are wanted: images
//! that share layers share inodes and so the page cache. Who may not bind-mount, or wants other owners shown,
//! gets a FUSE mount of one view.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt as _};
use tokio::runtime::Handle;

use super::node::{News, Node, blocking};
use super::{failure, report};
use crate::config::Config;
use crate::control::{Event, Failure, FailureKind, MountCall, MountReport, Owner};
use crate::digest::Digest;
use crate::errors::with_causes;
use crate::flight::Flight;
use crate::fuse::{Options, Provide, Ready, Root, Session, Shelf, Unavailable};
use crate::image::{Image, ImageError, Images};
use crate::sync::Mutex;
use crate::sys::mount as kernel;
use crate::view::ViewSlot;

/// What a mount of ours is called in the kernel's table.
pub const KIND: &str = "fuse.oncefs";

/// Clones share the mounts.
#[derive(Clone)]
pub(super) struct Mounts {
    shared: Arc<Shared>,
}

struct Shared {
    node: Node,
    config: Config,
    shelf: Shelf,
    state: Mutex<State>,
    /// Held while the kernel's table is changed: by system calls only, never over the network.
    changing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    mounted: BTreeMap<PathBuf, Mounted>,
    /// The same manifest has the same slot as long as this process lives, mounted or not.
    slots: HashMap<Digest, ViewSlot>,
    /// Root's one mount.
    everything: Option<Session>,
}

struct Mounted {
    image: Arc<Image>,
    slot: ViewSlot,
    /// A mount of its own; `None` is a bind mount of a view under root's one mount.
    own: Option<Session>,
}

/// Makes an image's layers usable when somebody looks into its view.
struct Lazily {
    images: Images,
    image: Arc<Image>,
    slot: ViewSlot,
    /// So that a failure is logged once and not by each who waits.
    opening: Flight<(), Arc<Ready>, Unavailable>,
}

/// Takes a mount away again unless its call ends well, also when the caller goes away.
struct Undo {
    mounts: Mounts,
    at: Option<PathBuf>,
}

// === impl Mounts ===

impl Mounts {
    pub(super) fn new(node: Node, config: Config) -> Self {
        let shared = Shared {
            node,
            config,
            shelf: Shelf::default(),
            state: Mutex::new(State::default()),
            changing: tokio::sync::Mutex::new(()),
        };
        Self { shared: Arc::new(shared) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.shared.state.lock().mounted.is_empty()
    }

    /// Mounts as soon as manifest and config are known; waits for the layers only if the call says so.
    pub(super) async fn mount(&self, call: &MountCall, news: &News) -> Result<PathBuf, Failure> {
        let at = self.place(&call.at)?;
        let image = self.shared.node.resolve(&call.image, call.platform.as_deref()).await?;
        let images = self.shared.node.images();
        let _nobody_listens = news.send(Event::Resolved(report::of_image(images, &image)));
        let slot = self.show(&image, &at, call.owner).await?;
        let mut undo = Undo { mounts: self.clone(), at: Some(at.clone()) };
        if call.wait {
            self.shared.node.with_news(&image, news, images.open_view(&image, slot)).await?;
        }
        undo.at = None;
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
        for at in &known {
            self.take_away(at).await?;
        }
        Ok(known)
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

    /// Forgets what others unmounted.
    pub(super) async fn prune(&self) {
        // A mount that is being made is not in the kernel's table yet.
        let _one_at_a_time = self.shared.changing.lock().await;
        let Ok(table) = kernel::table() else { return };
        let mut state = self.shared.state.lock();
        let is_there = |at: &Path| table.iter().any(|mount| mount.at == at && mount.kind == KIND);
        let gone: Vec<PathBuf> = state.mounted.keys().filter(|at| !is_there(at)).cloned().collect();
        for at in &gone {
            state.mounted.remove(at);
            tracing::info!(at = %at.display(), "unmounted");
        }
        self.put_away(&mut state);
    }

    /// Unmounts everything, root's one mount too.
    pub(super) async fn close(&self) {
        if let Err(failed) = self.unmount(None).await {
            tracing::warn!(error = %failed, "a mount is left");
        }
        let everything = self.shared.state.lock().everything.take();
        if let Some(mut session) = everything {
            let ended = session.ended();
            let fs = session.mountpoint().to_owned();
            let _detached = blocking(move || session.unmount()).await;
            // Containers may still use a view; the kernel keeps what they have open until they leave.
            let _in_use = tokio::time::timeout(std::time::Duration::from_secs(2), ended).await;
            let _not_empty = std::fs::remove_dir(fs);
        }
    }

    fn place(&self, at: &Path) -> Result<PathBuf, Failure> {
        let usage = |message: String| Err(Failure::new(FailureKind::Usage, message));
        let is_ours = |at: &Path| self.shared.state.lock().mounted.contains_key(at);
        // Before anything looks at the place itself: one whose server has died gives errors only.
        let kind = kernel::mounted_at(at).ok().flatten().map(|mounted| mounted.kind);
        if kind.is_some_and(|kind| kind == KIND) && !is_ours(at) {
            let whose = "another server has mounted an image, or a server that has died";
            return usage(format!("at {0} {whose}; oncefs umount {0}", at.display()));
        }
        if !at.is_absolute() || !at.is_dir() {
            return usage(format!("{} is no directory; make it first: mkdir -p {0}", at.display()));
        }
        let at = match at.canonicalize() {
            Ok(at) => at,
            Err(error) => return usage(format!("{}: {error}", at.display())),
        };
        if is_ours(&at) {
            return usage(format!("an image is mounted at {0} already; oncefs umount {0}", at.display()));
        }
        Ok(at)
    }

    async fn show(&self, image: &Arc<Image>, at: &Path, owner: Owner) -> Result<ViewSlot, Failure> {
        let _one_at_a_time = self.shared.changing.lock().await;
        self.place(at)?;
        let slot = self.slot(image.manifest_digest).await?;
        let images = self.shared.node.images().clone();
        let lazily = Lazily { images, image: image.clone(), slot, opening: Flight::new() };
        self.shared.shelf.add(slot, &image.view_name(), Arc::new(lazily));
        let shown = match owner {
            Owner::Image if rustix::process::geteuid().is_root() => self.bind(image, at).await.map(|()| None),
            Owner::Image => self.mount_one(slot, at, None).await.map(Some),
            Owner::Of(uid, gid) => self.mount_one(slot, at, Some((uid, gid))).await.map(Some),
        };
        let mut state = self.shared.state.lock();
        match shown {
            Ok(own) => state.mounted.insert(at.to_owned(), Mounted { image: image.clone(), slot, own }),
            Err(failed) => {
                self.put_away(&mut state);
                return Err(failed);
            }
        };
        Ok(slot)
    }

    async fn slot(&self, manifest: Digest) -> Result<ViewSlot, Failure> {
        if let Some(slot) = self.shared.state.lock().slots.get(&manifest) {
            return Ok(*slot);
        }
        let store = self.shared.node.images().store().clone();
        let slot = blocking(move || store.new_view_slot()).await?.map_err(|error| failure::of_store(&error))?;
        Ok(*self.shared.state.lock().slots.entry(manifest).or_insert(ViewSlot(slot)))
    }

    async fn bind(&self, image: &Image, at: &Path) -> Result<(), Failure> {
        let fs = self.shared.config.run.join("fs");
        if self.shared.state.lock().everything.is_none() {
            let session = self.start_everything(fs.clone()).await?;
            self.shared.state.lock().everything = Some(session);
        }
        let (from, to) = (fs.join(image.view_name()), at.to_owned());
        let bound = blocking(move || kernel::bind_read_only(&from, &to)).await?;
        let failed = |error| Failure::new(FailureKind::Other, format!("cannot mount at {}: {error}", at.display()));
        bound.map_err(failed)
    }

    async fn start_everything(&self, fs: PathBuf) -> Result<Session, Failure> {
        let failed = {
            let fs = fs.clone();
            move |error: std::io::Error| {
                Failure::new(FailureKind::Other, format!("cannot prepare {}: {error}", fs.display()))
            }
        };
        let prepare = {
            let fs = fs.clone();
            move || {
                // A server that was killed leaves a dead mount behind.
                while kernel::mounted_at(&fs)?.is_some_and(|mounted| mounted.kind == KIND) {
                    kernel::detach(&fs)?;
                }
                std::fs::create_dir_all(&fs)
            }
        };
        blocking(prepare).await?.map_err(failed)?;
        self.start_session(fs, Options { root: Root::All, allow_other: true, owner: None }).await
    }

    async fn mount_one(&self, slot: ViewSlot, at: &Path, owner: Option<(u32, u32)>) -> Result<Session, Failure> {
        // Only root may let others look without asking /etc/fuse.conf.
        let allow_other = rustix::process::geteuid().is_root();
        self.start_session(at.to_owned(), Options { root: Root::One(slot), allow_other, owner }).await
    }

    async fn start_session(&self, at: PathBuf, options: Options) -> Result<Session, Failure> {
        let (shelf, config) = (self.shared.shelf.clone(), self.shared.config.fuse.clone());
        let runtime = Handle::current();
        let start = move || Session::start(&shelf, &at, &options, &config, runtime);
        blocking(start).await?.map_err(|error| failure::of_session(&error))
    }

    async fn take_away(&self, at: &Path) -> Result<(), Failure> {
        let _one_at_a_time = self.shared.changing.lock().await;
        let Some(mounted) = self.shared.state.lock().mounted.remove(at) else { return Ok(()) };
        let place = at.to_owned();
        let taken = blocking(move || match mounted.own {
            Some(mut session) => {
                session.unmount();
                Ok(())
            }
            None => kernel::unmount(&place).or_else(|_| kernel::detach(&place)),
        });
        let taken = taken.await?;
        self.put_away(&mut self.shared.state.lock());
        let failed = |error| Failure::new(FailureKind::Other, format!("cannot unmount {}: {error}", at.display()));
        taken.map_err(failed)?;
        tracing::info!(at = %at.display(), "unmounted");
        Ok(())
    }

    /// Stops showing the views that nobody has mounted. Called with `changing` held: a view is shown before it is mounted.
    fn put_away(&self, state: &mut State) {
        let used: Vec<ViewSlot> = state.mounted.values().map(|mounted| mounted.slot).collect();
        for slot in state.slots.values().filter(|slot| !used.contains(slot)) {
            self.shared.shelf.remove(*slot);
        }
    }
}

// === impl Undo ===

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some(at) = self.at.take() {
            let mounts = self.mounts.clone();
            crate::sync::spawn(async move {
                if let Err(failed) = mounts.take_away(&at).await {
                    tracing::warn!(error = %failed, "a mount whose call did not end well is left");
                }
            });
        }
    }
}

// === impl Lazily ===

impl Provide for Lazily {
    fn view(&self) -> BoxFuture<'static, Result<Arc<Ready>, Unavailable>> {
        let ticket = self.opening.join((), || {
            let (images, image, slot) = (self.images.clone(), self.image.clone(), self.slot);
            async move {
                let opened = images.open_view(&image, slot).await.map_err(|failed| {
                    let error = ImageError::from(failed);
                    let text = with_causes(error.cause());
                    tracing::error!(image = image.reference, error = text, "readers get EIO");
                    Unavailable(text.into())
                })?;
                Ok(Arc::new(Ready { view: opened.view, layers: opened.layers }))
            }
        });
        let unavailable = |failed: crate::flight::Failed<Unavailable>| Unavailable(failed.to_string().into());
        ticket.map(move |ready| ready.map_err(unavailable)).boxed()
    }
}
