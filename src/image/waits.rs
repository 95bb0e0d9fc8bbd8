//! Who waits for chains whose layers are on their way.

use std::collections::HashMap;

use super::{Image, Images};
use crate::digest::ChainId;
use crate::store::{Waiter, Waiting, Waits};
use crate::sync::Mutex;

/// By chain; one that nobody waits for any more goes with the next that comes.
#[derive(Default)]
pub(super) struct ChainWaits {
    chains: Mutex<HashMap<ChainId, Waits>>,
}

impl Images {
    /// Somebody waits for the chain's layers, for as long as the result is kept.
    pub fn wait_for(&self, chain: ChainId) -> Waiter {
        let mut chains = self.shared.waits.chains.lock();
        chains.retain(|_, waits| waits.now().is_some());
        chains.entry(chain).or_default().begin(0..0)
    }

    /// Those who wait for any of the image's layers before they can look into it.
    pub(super) fn waiting_for(&self, image: &Image) -> Option<Waiting> {
        let chains = self.shared.waits.chains.lock();
        if chains.is_empty() {
            return None;
        }
        let waiting = image.chains().into_iter().filter_map(|chain| chains.get(&chain)?.now());
        waiting.reduce(|a, b| Waiting { count: a.count + b.count, longest: a.longest.max(b.longest), frames: a.frames })
    }
}
