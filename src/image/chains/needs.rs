//! Needing something for a while: guards that say so to the ledger as long as they are kept.

use std::collections::HashMap;
use std::hash::Hash;

use super::ledger::{Holding, ImageKey, Ledger};
use crate::digest::LayerDigest;
use crate::image::{Image, Images, Shared};
use crate::sync::Arc;

/// Keeps an image's layers, whatever becomes of its record and of the claims on its chains.
#[must_use = "the image's layers may be deleted when this is dropped"]
pub struct Held {
    shared: Arc<Shared>,
    number: u64,
}

/// Somebody waits for the layer: it is not deleted.
pub(in crate::image) struct AtWork {
    shared: Arc<Shared>,
    layer: LayerDigest,
}

/// An image's record is being written: it is not forgotten.
pub(in crate::image) struct Writing {
    shared: Arc<Shared>,
    key: ImageKey,
}

// === impl Images ===

impl Images {
    /// Keeps the image's layers for as long as the result is kept.
    pub fn hold(&self, image: &Arc<Image>) -> Held {
        let holding = Holding { image: image.clone(), chains: image.chains() };
        let mut ledger = self.shared.ledger.lock();
        let number = ledger.number();
        ledger.held.insert(number, holding);
        Held { shared: self.shared.clone(), number }
    }

    /// Waits until nobody is deleting the layer; then nobody does.
    pub(in crate::image) async fn at_work(&self, layer: LayerDigest) -> Arc<AtWork> {
        let taken = |ledger: &mut Ledger| {
            let is_free = !ledger.deleting.layers.contains(&layer);
            if is_free {
                *ledger.at_work.entry(layer).or_default() += 1;
            }
            is_free
        };
        self.when_free(taken).await;
        Arc::new(AtWork { shared: self.shared.clone(), layer })
    }

    /// Waits until nobody is writing or forgetting the image's record; then nobody else does.
    pub(in crate::image) async fn writing(&self, key: &ImageKey) -> Writing {
        let taken = |ledger: &mut Ledger| !ledger.deleting.images.contains(key) && ledger.writing.insert(key.clone());
        self.when_free(taken).await;
        Writing { shared: self.shared.clone(), key: key.clone() }
    }

    /// Tries again each time that something is nobody's any more.
    async fn when_free(&self, mut take: impl FnMut(&mut Ledger) -> bool) {
        let mut freed = self.shared.freed.subscribe();
        while !take(&mut self.shared.ledger.lock()) {
            let _the_sender_is_ours = freed.changed().await;
        }
    }
}

// === dropping ===

impl Drop for Held {
    fn drop(&mut self) {
        {
            let mut ledger = self.shared.ledger.lock();
            let Some(holding) = ledger.held.remove(&self.number) else { return };
            if ledger.is_settled && !ledger.is_held(&holding.image) {
                ledger.pending.images.push(holding);
            }
        }
        self.shared.work.send_replace(());
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        {
            let mut ledger = self.shared.ledger.lock();
            if !is_last(&mut ledger.at_work, &self.layer) || !ledger.is_settled {
                return;
            }
            // Who wanted it may have left while it came.
            ledger.pending.layers.insert(self.layer);
        }
        self.shared.work.send_replace(());
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.shared.ledger.lock().writing.remove(&self.key);
        self.shared.freed.send_replace(());
    }
}

/// Takes one off a count, and the count away when it was the last.
fn is_last<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) -> bool {
    let Some(count) = counts.get_mut(key) else { return false };
    *count -= 1;
    let is_last = *count == 0;
    if is_last {
        counts.remove(key);
    }
    is_last
}
