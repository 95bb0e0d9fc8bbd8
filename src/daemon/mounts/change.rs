//! Mounting and unmounting. One change at a time, and each to its end.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt as _};
use tokio::sync::oneshot;

use super::connection::Connection;
use super::lazily::Lazily;
use super::leaving::Leaving;
use super::remembered::PlaceRecord;
use super::{AUTOMOUNT, Everything, KIND, Mounted, Mounts, State, opened};
use crate::control::{Failure, FailureKind, MountCall, Owner};
use crate::daemon::failure;
use crate::daemon::node::blocking;
use crate::digest::ChainId;
use crate::fuse::{Options, Root};
use crate::image::Image;
use crate::sys::mount as kernel;
use crate::sys::mount::Restrictions;
use crate::view::ViewSlot;

/// An image that has been mounted. Unless kept, it is taken away again: its call did not end well, or its caller left.
pub(super) struct Shown {
    mounts: Mounts,
    slot: ViewSlot,
    at: Option<PathBuf>,
}

/// Counts a change as under way.
struct UnderWay(Mounts);

/// What is at a place of ours, seen from above.
pub(super) enum Top {
    Ours,
    /// Something of this kind, over ours.
    Other(String),
    /// Ours is not there.
    Gone,
}

// === impl Mounts ===

impl Mounts {
    /// Makes a change to its end, also when who asked for it leaves: half a mount is nothing that anybody could take back.
    pub(super) fn to_the_end<T: Send + 'static>(
        &self,
        change: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, Failure>> {
        let (answer, answered) = oneshot::channel();
        // From now on and not only when the task runs: else the server might end in between.
        let under_way = UnderWay::new(self);
        crate::sync::spawn(async move {
            let result = change.await;
            // First: who gets the answer finds nothing under way.
            drop(under_way);
            let _who_asked_has_left = answer.send(result);
        });
        let without = |_| Failure::new(FailureKind::Other, "the work ended without a result (see the log)");
        async move { answered.await.unwrap_or_else(|gone| Err(without(gone))) }.boxed()
    }

    pub(super) async fn show(&self, image: &Arc<Image>, call: &MountCall) -> Result<Shown, Failure> {
        let (at, owner, restrictions) = (call.at.as_path(), call.owner, call.restrictions);
        let _one_at_a_time = self.shared.changing.lock().await;
        if self.shared.state.lock().is_closed {
            return Err(Failure::new(FailureKind::Other, "oncefs is stopping"));
        }
        self.place(call)?;
        let (images, chain) = (self.shared.node.images().clone(), image.chain());
        if !images.may_share(image) {
            let message = format!(
                "another image says that it has the same content as {}, from other blobs, and is mounted unverified; \
                 unmount that one first",
                image.reference
            );
            return Err(Failure::new(FailureKind::Other, message));
        }
        let slot = self.slot(chain).await?;
        let held = images.hold(image);
        self.shared.state.lock().held.entry(slot).or_default().insert(image.manifest_digest, held);
        let lazily = Lazily::new(self, chain, image.reference.clone(), slot);
        self.shared.shelf.add(slot, &view_name(&chain), Arc::new(lazily));
        let noted = self.note_starting(PlaceRecord {
            at: at.to_owned(),
            connection: None,
            device: None,
            reference: image.reference.clone(),
            manifest: image.manifest_digest,
            slot: slot.0,
            is_answered: false,
        });
        let shown = match (noted, owner) {
            (Err(failed), _) => Err(failed),
            (_, Owner::Image) if rustix::process::geteuid().is_root() => self.bind(&chain, call).await.map(|()| None),
            (_, Owner::Image) => self.mount_one(slot, at, None, restrictions).await.map(Some),
            (_, Owner::Of(uid, gid)) => self.mount_one(slot, at, Some((uid, gid)), restrictions).await.map(Some),
        };
        match shown {
            Ok(own) => {
                let device = kernel::mounted_at(at).ok().flatten().map(|mounted| mounted.device);
                let mounted = Mounted { image: image.clone(), slot, own, device, is_answered: false };
                let mut state = self.shared.state.lock();
                state.mounted.insert(at.to_owned(), mounted);
                state.mounting = None;
                self.started(&mut state);
                Ok(Shown { mounts: self.clone(), slot, at: Some(at.to_owned()) })
            }
            Err(failed) => {
                {
                    let mut state = self.shared.state.lock();
                    state.mounting = None;
                    self.started(&mut state);
                }
                self.retire_unused().await;
                Err(failed)
            }
        }
    }

    /// The chain's slot, in use from now on.
    async fn slot(&self, chain: ChainId) -> Result<ViewSlot, Failure> {
        {
            let mut state = self.shared.state.lock();
            // A view of what was found to be wrong is left to those who have it.
            if let Some(slot) = state.slots.get(&chain).copied().filter(|slot| !self.shared.shelf.is_tainted(*slot)) {
                state.mounting = Some(slot);
                return Ok(slot);
            }
        }
        let store = self.shared.node.images().store().clone();
        let slot = blocking(move || store.new_view_slot()).await?.map_err(|error| failure::of_store(&error))?;
        let mut state = self.shared.state.lock();
        let known = state.slots.get(&chain).copied().filter(|slot| !self.shared.shelf.is_tainted(*slot));
        let slot = known.unwrap_or(ViewSlot(slot));
        state.slots.insert(chain, slot);
        state.mounting = Some(slot);
        Ok(slot)
    }

    async fn bind(&self, chain: &ChainId, call: &MountCall) -> Result<(), Failure> {
        if self.shared.state.lock().everything.is_none() {
            let connection = self.start_everything().await?;
            self.shared.state.lock().everything = Some(Everything { connection, in_use: HashSet::new() });
        }
        let (at, restrictions) = (&call.at, call.restrictions);
        let (from, to) = (self.fs().join(view_name(chain)), opened(call).unwrap_or(at).to_owned());
        let bound = blocking(move || kernel::bind_read_only(&from, &to, restrictions)).await?;
        let failed = |error| Failure::new(FailureKind::Other, format!("cannot mount at {}: {error}", at.display()));
        bound.map_err(failed)
    }

    /// Where root's one mount is.
    pub(super) fn fs(&self) -> PathBuf {
        self.shared.config.run.join("fs")
    }

    pub(super) async fn start_everything(&self) -> Result<Connection, Failure> {
        let fs = self.fs();
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
        let restrictions = Restrictions::default();
        self.connect(fs, Options { root: Root::All, allow_other: true, owner: None, restrictions }).await
    }

    async fn mount_one(
        &self,
        slot: ViewSlot,
        at: &Path,
        owner: Option<(u32, u32)>,
        restrictions: Restrictions,
    ) -> Result<Connection, Failure> {
        if kernel::mounted_at(at).is_ok_and(|mounted| mounted.is_some_and(|mounted| mounted.kind == AUTOMOUNT)) {
            // FUSE mounts by name, and would wait for itself.
            let message = format!(
                "{} is an automount, which cannot show files as another's: leave uid= and gid= out",
                at.display()
            );
            return Err(Failure::new(FailureKind::Usage, message));
        }
        // Only root may let others look without asking /etc/fuse.conf.
        let allow_other = rustix::process::geteuid().is_root();
        self.connect(at.to_owned(), Options { root: Root::One(slot), allow_other, owner, restrictions }).await
    }

    pub(super) async fn take_away(&self, at: &Path) -> Result<(), Failure> {
        let _one_at_a_time = self.shared.changing.lock().await;
        let device = match self.shared.state.lock().mounted.get(at) {
            Some(mounted) => mounted.device,
            None => return Ok(()),
        };
        let unreadable = |error| Failure::new(FailureKind::Other, format!("cannot see what is mounted: {error}"));
        let top = top(&kernel::table().map_err(unreadable)?, at, device);
        if let Top::Other(kind) = &top {
            let message = format!(
                "cannot unmount the image at {0}: a {kind} is mounted over it; take that away first: umount {0}",
                at.display()
            );
            return Err(Failure::new(FailureKind::Other, message));
        }
        let Some(mounted) = self.shared.state.lock().mounted.remove(at) else { return Ok(()) };
        match mounted {
            Mounted { own: Some(own), slot, .. } => {
                let retiring = self.retire(&mut self.shared.state.lock(), own, vec![slot]);
                retiring.await;
            }
            Mounted { own: None, slot, .. } if matches!(top, Top::Ours) => self.unbind(at, slot).await?,
            Mounted { own: None, .. } => {}
        }
        tracing::info!(at = %at.display(), "unmounted");
        self.retire_unused().await;
        Ok(())
    }

    async fn unbind(&self, at: &Path, slot: ViewSlot) -> Result<(), Failure> {
        let place = at.to_owned();
        let unbound = blocking(move || match kernel::unmount(&place) {
            Ok(()) => Ok(false),
            Err(_in_use) => kernel::detach(&place).map(|()| true),
        });
        let failed = |error| Failure::new(FailureKind::Other, format!("cannot unmount {}: {error}", at.display()));
        let is_in_use = unbound.await?.map_err(failed)?;
        if is_in_use && let Some(everything) = &mut self.shared.state.lock().everything {
            everything.in_use.insert(slot);
        }
        Ok(())
    }

    /// Forgets what others unmounted.
    pub(in crate::daemon) async fn prune(&self) {
        // A mount that is being made is not in the kernel's table yet.
        let _one_at_a_time = self.shared.changing.lock().await;
        let Ok(table) = kernel::table() else { return };
        let mut retiring = Vec::new();
        {
            let mut state = self.shared.state.lock();
            let is_gone = |(at, mounted): &(&PathBuf, &Mounted)| matches!(top(&table, at, mounted.device), Top::Gone);
            let gone: Vec<PathBuf> = state.mounted.iter().filter(is_gone).map(|(at, _)| at.clone()).collect();
            for at in gone {
                tracing::info!(at = %at.display(), "unmounted");
                let Some(Mounted { own, slot, .. }) = state.mounted.remove(&at) else { continue };
                match own {
                    Some(own) => retiring.push(self.retire(&mut state, own, vec![slot])),
                    // It may have been a lazy unmount. Of the last mount that can be told, and so it is served to its end.
                    None if state.mounted.values().all(|other| other.own.is_some()) => {
                        if let Some(everything) = &mut state.everything {
                            everything.in_use.insert(slot);
                        }
                    }
                    None => {}
                }
            }
            retiring.extend(self.retire_everything(&mut state));
        }
        for retired in retiring {
            retired.await;
        }
        self.retire_unused().await;
    }

    /// Stops showing what nobody uses: views, and root's one mount. Called with `changing` held, since a view is shown
    /// before it is mounted.
    pub(super) async fn retire_unused(&self) {
        let retiring = self.retire_everything(&mut self.shared.state.lock());
        if let Some(retiring) = retiring {
            retiring.await;
        }
        self.put_away(&mut self.shared.state.lock());
    }

    /// Root's one mount, if nothing under it is mounted any more.
    fn retire_everything(&self, state: &mut State) -> Option<BoxFuture<'static, ()>> {
        if state.mounted.values().any(|mounted| mounted.own.is_none()) || (state.stays && !state.is_closed) {
            return None;
        }
        let Everything { connection, in_use } = state.everything.take()?;
        let fs = connection.session.mountpoint().to_owned();
        let retiring = self.retire(state, connection, in_use.into_iter().collect());
        let retiring = async move {
            retiring.await;
            let _not_empty = std::fs::remove_dir(fs);
        };
        Some(retiring.boxed())
    }

    pub(super) fn put_away(&self, state: &mut State) {
        let in_use = state.everything.iter().flat_map(|everything| &everything.in_use);
        let claimed = state.claimed.iter().filter_map(|chain| state.slots.get(chain));
        let leaving = state.leaving.iter().flat_map(Leaving::views);
        let mut used: HashSet<ViewSlot> = in_use.chain(claimed).chain(leaving).copied().collect();
        used.extend(state.mounted.values().map(|mounted| mounted.slot));
        used.extend(state.mounting);
        self.shared.shelf.keep(|slot| used.contains(&slot));
        state.held.retain(|slot, _| used.contains(slot));
        state.loaded.retain(|slot, _| used.contains(slot));
        if state.stays {
            // Layers may be removed and come back under other numbers, and the kernel remembers what it has seen of a view.
            state.slots.retain(|_, slot| used.contains(slot));
        }
        self.note(state);
    }
}

/// The directory name of a chain's view: the same for every image that has the chain.
pub(super) fn view_name(chain: &ChainId) -> String {
    chain.0.hex()
}

pub(super) fn top(table: &[kernel::Mounted], at: &Path, device: Option<(u32, u32)>) -> Top {
    // Numbers of devices are used again.
    let is_ours = |mount: &&kernel::Mounted| mount.kind == KIND && device.is_none_or(|device| mount.device == device);
    let mut here = table.iter().rev().filter(|mount| mount.at == at);
    match here.next() {
        None => Top::Gone,
        Some(mount) if is_ours(&mount) => Top::Ours,
        Some(other) => here.find(is_ours).map_or(Top::Gone, |_| Top::Other(other.kind.clone())),
    }
}

// === impl Shown ===

impl Shown {
    pub(super) fn slot(&self) -> ViewSlot {
        self.slot
    }

    /// Fails, and takes it away, if it cannot be noted.
    pub(super) fn keep(mut self) -> Result<(), Failure> {
        let Some(at) = &self.at else { return Ok(()) };
        {
            let mut state = self.mounts.shared.state.lock();
            if let Some(mounted) = state.mounted.get_mut(at) {
                mounted.is_answered = true;
            }
            self.mounts.noted(&state)?;
        }
        self.at = None;
        Ok(())
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        let Some(at) = self.at.take() else { return };
        let mounts = self.mounts.clone();
        let taking = self.mounts.to_the_end(async move {
            let taken = mounts.take_away(&at).await;
            if let Err(failed) = taken {
                tracing::warn!(error = %failed, "a mount whose call did not end well is left");
            }
            Ok(())
        });
        drop(taking);
    }
}

// === impl UnderWay ===

impl UnderWay {
    fn new(mounts: &Mounts) -> Self {
        mounts.shared.state.lock().changes += 1;
        Self(mounts.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.shared.state.lock().changes -= 1;
        self.0.shared.changed.send_replace(());
    }
}
