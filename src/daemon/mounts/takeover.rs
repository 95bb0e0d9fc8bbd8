//! Going on with the mounts of the server before: what it showed is shown again under the same slots, and then its connections to
//! the kernel are served. What it could not hand over is dead, and is taken away.
//!
//! Nothing here asks a registry: images are as the database has them, and views are made ready when somebody looks, or a moment later.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::runtime::Handle;

use super::change::{Top, top, view_name};
use super::connection::Connection;
use super::lazily::Lazily;
use super::remembered::{ConnectionRecord, PlaceRecord, Remembered, ViewRecord};
use super::{Everything, KIND, Mounted, Mounts};
use crate::control::Failure;
use crate::daemon::node::blocking;
use crate::fuse::{Root, Session};
use crate::image::Image;
use crate::sys::descriptor;
use crate::sys::mount as kernel;
use crate::view::{LayerSlot, ViewSlot};

/// Places whose images are known.
type Places = BTreeMap<PathBuf, (PlaceRecord, Arc<Image>)>;

impl Mounts {
    /// Serves what these connections show. To be called before anything else is.
    pub(in crate::daemon) async fn take_over(&self, descriptors: BTreeMap<u64, OwnedFd>) -> Result<(), Failure> {
        let _one_at_a_time = self.shared.changing.lock().await;
        let (mounts, runtime) = (self.clone(), Handle::current());
        self.shared.state.lock().is_taking_over = true;
        let taken = blocking(move || mounts.take_over_now(descriptors, &runtime)).await?;
        {
            let mut state = self.shared.state.lock();
            state.is_taking_over = false;
            if let Ok(true) = taken {
                self.note(&state);
            }
        }
        taken?;
        self.shared.shelf.load_known();
        Ok(())
    }

    /// All claims are made again, and root's mount stays if it is to: what is shown and mounted for nobody goes.
    pub(in crate::daemon) async fn taken_over(&self) {
        let claimed: Vec<_> = self.shared.state.lock().claimed.iter().copied().collect();
        claimed.iter().for_each(|chain| self.hide_chain(chain));
        let _one_at_a_time = self.shared.changing.lock().await;
        self.retire_unused().await;
    }

    /// Whether there was anything.
    fn take_over_now(&self, descriptors: BTreeMap<u64, OwnedFd>, runtime: &Handle) -> Result<bool, Failure> {
        let _inside = runtime.enter();
        let remembered = self.shared.memory.read(!descriptors.is_empty())?;
        let known = remembered.by_number();
        let (alive, dead): (BTreeMap<_, _>, BTreeMap<_, _>) = descriptors
            .into_iter()
            .partition(|(number, kept)| known.contains_key(number) && descriptor::is_connected(kept));
        dead.keys().for_each(|number| self.shared.keeping.let_go_of_connection(*number));
        drop(dead);
        self.shared.state.lock().next_connection = remembered.next;
        if !alive.is_empty() {
            remembered.views.iter().for_each(|view| self.show_again(view));
        }
        let connections = self.serve_again(&known, alive, runtime);
        let alive: HashSet<u64> = connections.keys().copied().collect();
        clear_dead(&remembered, &alive, &self.fs());
        if alive.is_empty() {
            return Ok(false);
        }
        let places = self.places(&remembered, &alive);
        let (count, views) = (places.len(), remembered.views.len());
        self.put_back(&known, connections, places);
        tracing::info!(
            mounts = count,
            views,
            connections = alive.len(),
            "going on with the mounts of the server before"
        );
        Ok(true)
    }

    fn show_again(&self, view: &ViewRecord) {
        let (chain, slot) = (view.chain, ViewSlot(view.slot));
        let layers: Vec<LayerSlot> = view.layers.iter().copied().map(LayerSlot).collect();
        let images = self.images();
        let name = images.name_of(&chain).unwrap_or_else(|| chain.to_string());
        let mut state = self.shared.state.lock();
        state.slots.insert(chain, slot);
        for manifest in &view.manifests {
            if let Some(image) = images.with_manifest(manifest, None) {
                state.held.entry(slot).or_default().insert(*manifest, images.hold(&image));
            }
        }
        if view.is_claimed {
            state.claimed.insert(chain);
        }
        let lazily = Lazily::new(self, chain, name, slot);
        self.shared.shelf.add_known(slot, &view_name(&chain), Arc::new(lazily), &layers);
        if !layers.is_empty() {
            state.loaded.insert(slot, layers);
        }
    }

    fn serve_again(
        &self,
        known: &HashMap<u64, &ConnectionRecord>,
        alive: BTreeMap<u64, OwnedFd>,
        runtime: &Handle,
    ) -> BTreeMap<u64, Connection> {
        let (shelf, config) = (&self.shared.shelf, &self.shared.config.fuse);
        let mut served = BTreeMap::new();
        for (number, kept) in alive {
            let Some(ConnectionRecord { mountpoint, device, options, .. }) = known.get(&number) else { continue };
            let taken = Session::take_over(shelf, (mountpoint, *device), kept, options, config, runtime.clone());
            match taken {
                Ok(session) => {
                    served.insert(number, Connection { number, session, options: options.clone() });
                }
                Err(error) => {
                    tracing::error!(at = %mountpoint.display(), %error, "a mount of the server before is lost");
                    self.shared.keeping.let_go_of_connection(number);
                }
            }
        }
        served
    }

    /// Where images are mounted still. What nobody was told of is taken away, as its caller asks again.
    fn places(&self, remembered: &Remembered, alive: &HashSet<u64>) -> Places {
        let table = kernel::table().unwrap_or_default();
        let mut places = Places::new();
        for place in &remembered.places {
            let is_dead = place.connection.is_some_and(|number| !alive.contains(&number));
            let is_gone = matches!(top(&table, &place.at, place.device), Top::Gone);
            if is_dead || is_gone {
                continue;
            }
            match self.images().with_manifest(&place.manifest, Some(&place.reference)) {
                Some(image) if place.is_answered => {
                    places.insert(place.at.clone(), (place.clone(), image));
                }
                _ => {
                    tracing::info!(at = %place.at.display(), "taking away a mount that the server before had not finished");
                    let _gone_already = kernel::detach_as_anybody(&place.at);
                }
            }
        }
        places
    }

    fn put_back(
        &self,
        known: &HashMap<u64, &ConnectionRecord>,
        mut connections: BTreeMap<u64, Connection>,
        places: Places,
    ) {
        let mut state = self.shared.state.lock();
        for (at, (place, image)) in places {
            let own = place.connection.and_then(|number| connections.remove(&number));
            if own.is_none() && place.connection.is_some() {
                continue;
            }
            let (slot, device) = (ViewSlot(place.slot), place.device);
            state.mounted.insert(at, Mounted { image, slot, own, device, is_answered: true });
        }
        for (number, connection) in connections {
            let Some(record) = known.get(&number) else { continue };
            let in_use: HashSet<ViewSlot> = record.in_use.iter().copied().map(ViewSlot).collect();
            if connection.options.root == Root::All && !record.is_leaving && state.everything.is_none() {
                state.everything = Some(Everything { connection, in_use });
            } else {
                let views = match connection.options.root {
                    Root::One(slot) => vec![slot],
                    Root::All => in_use.into_iter().collect(),
                };
                self.let_go(&mut state, &connection, views);
            }
        }
    }
}

/// Takes away what is left of connections that nobody kept: everything there only says that it is dead.
fn clear_dead(remembered: &Remembered, alive: &HashSet<u64>, fs: &Path) {
    let devices = remembered.devices_but(alive);
    let starting = remembered.connections.iter().filter(|record| record.device.is_none());
    let starting: HashSet<&Path> =
        starting.filter(|record| !alive.contains(&record.number)).map(|record| &*record.mountpoint).collect();
    let is_left = |mounted: &&kernel::Mounted| {
        mounted.kind == KIND && (devices.contains(&mounted.device) || starting.contains(&*mounted.at))
    };
    for mounted in kernel::table().unwrap_or_default().iter().rev().filter(is_left) {
        if kernel::is_dead(&mounted.at) {
            tracing::warn!(at = %mounted.at.display(), "taking away a mount whose server has died and had nobody to keep it");
            let _gone_already = kernel::detach_as_anybody(&mounted.at);
        }
    }
    let _in_use_or_not_there = std::fs::remove_dir(fs);
}
