//! The chains that containerd has claimed, shown in root's one mount, which is there for as long as the server is.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _, Shared};

use super::change::view_name;
use super::lazily::Lazily;
use super::{Everything, Mounts, State};
use crate::control::Failure;
use crate::daemon::failure;
use crate::daemon::node::blocking;
use crate::digest::ChainId;
use crate::store::StoreError;
use crate::view::ViewSlot;

/// Slots taken from the database at once, and how many must be left: showing a chain then need not wait for the disk.
const SLOTS_AT_ONCE: u32 = 32;
const SPARE_SLOTS_MIN: usize = 8;

/// How long a mount that somebody took away stays away, should mounting it again fail.
const REMOUNT_PAUSE: Duration = Duration::from_secs(1);

impl Mounts {
    /// Mounts root's one mount now, and again should somebody take it away, until [`Mounts::close`].
    pub async fn stay(&self) -> Result<(), Failure> {
        let ended = self.start_staying().await?;
        let mounts = self.clone();
        crate::sync::spawn(async move {
            let mut ended = ended;
            loop {
                ended.await;
                ended = loop {
                    if mounts.shared.state.lock().is_closed {
                        return;
                    }
                    match mounts.start_staying().await {
                        Ok(again) => break again,
                        Err(failed) => tracing::error!(error = %failed, "claimed chains are not shown"),
                    }
                    tokio::time::sleep(REMOUNT_PAUSE).await;
                };
            }
        });
        Ok(())
    }

    /// Gives what resolves when the mount is gone.
    async fn start_staying(&self) -> Result<Shared<BoxFuture<'static, ()>>, Failure> {
        let _one_at_a_time = self.shared.changing.lock().await;
        {
            let mut state = self.shared.state.lock();
            state.stays = true;
            let taken_over =
                state.everything.as_ref().map(|everything| everything.connection.session.ended().boxed().shared());
            if let Some(ended) = taken_over.filter(|ended| ended.clone().now_or_never().is_none()) {
                return Ok(ended);
            }
        }
        let connection = self.start_everything().await?;
        let ended = connection.session.ended().boxed().shared();
        let mut state = self.shared.state.lock();
        let in_use = state.everything.take().map_or_else(HashSet::new, |gone| gone.in_use);
        state.everything = Some(Everything { connection, in_use });
        self.started(&mut state);
        Ok(ended)
    }

    /// Where the chain's merged tree is from now on. Nothing is fetched before somebody looks.
    pub(in crate::daemon) fn show_chain(&self, chain: &ChainId) -> Result<PathBuf, Failure> {
        let mut state = self.shared.state.lock();
        let slot = self.slot_now(&mut state, chain).map_err(|error| failure::of_store(&error))?;
        if state.claimed.insert(*chain) || !self.shared.shelf.has(slot) {
            let name = self.images().name_of(chain).unwrap_or_else(|| chain.to_string());
            let lazily = Lazily::new(self, *chain, name, slot);
            // Under the lock: nobody puts it away again because it did not seem to be used.
            self.shared.shelf.add(slot, &view_name(chain), Arc::new(lazily));
            if let Err(failed) = self.noted(&state) {
                // As if nobody had asked: what the kernel does not know yet is not missed by the next server.
                state.claimed.remove(chain);
                self.put_away(&mut state);
                return Err(failed);
            }
        }
        Ok(self.fs().join(view_name(chain)))
    }

    /// Stops showing a chain that nobody claims any more.
    pub(in crate::daemon) fn hide_chain(&self, chain: &ChainId) {
        let mut state = self.shared.state.lock();
        // Somebody may have claimed it again.
        if !self.shared.node.images().is_claimed(chain) && state.claimed.remove(chain) {
            self.put_away(&mut state);
        }
    }

    /// Makes sure that the next few chains can be shown from memory.
    pub(in crate::daemon) async fn have_slots(&self) {
        if self.shared.state.lock().spare_slots.len() >= SPARE_SLOTS_MIN {
            return;
        }
        let store = self.shared.node.images().store().clone();
        match blocking(move || store.new_view_slots(SLOTS_AT_ONCE)).await {
            Ok(Ok(slots)) => self.shared.state.lock().spare_slots.extend(slots.map(ViewSlot)),
            Ok(Err(error)) => tracing::warn!(%error, "no numbers for new views"),
            Err(stopping) => tracing::warn!(error = %stopping, "no numbers for new views"),
        }
    }

    fn slot_now(&self, state: &mut State, chain: &ChainId) -> Result<ViewSlot, StoreError> {
        if let Some(slot) = state.slots.get(chain).filter(|slot| !self.shared.shelf.is_tainted(**slot)) {
            return Ok(*slot);
        }
        let slot = match state.spare_slots.pop() {
            Some(slot) => slot,
            // The first one after a start.
            None => ViewSlot(self.shared.node.images().store().new_view_slot()?),
        };
        state.slots.insert(*chain, slot);
        Ok(slot)
    }
}
