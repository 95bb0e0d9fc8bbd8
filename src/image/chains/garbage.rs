//! What nobody needs any more: found in the ledger under its lock, deleted without it, one piece at a time.

use std::collections::HashSet;

use tokio::sync::watch;

use super::ledger::{ImageKey, Ledger, Pending};
use crate::blob::Layered;
use crate::digest::{ChainId, LayerDigest};
use crate::image::{Image, Images, Shared};
use crate::store::Store;
use crate::sync::{Arc, Weak};

/// What is to be deleted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Garbage {
    layers: Vec<LayerDigest>,
    images: Vec<ImageKey>,
}

// === impl Ledger ===

impl Ledger {
    /// Takes out what nobody needs of what is pending. It is in `deleting` from now on, so that nobody takes it for there.
    fn collect(&mut self, in_store: impl Fn(&LayerDigest) -> bool) -> Garbage {
        if !self.is_settled {
            return Garbage::default();
        }
        let pending = std::mem::take(&mut self.pending);
        // Looked at again when what is at work on them has ended: it says so.
        let unsure = pending.chains.iter().filter(|id| self.is_at_work(id)).copied().collect();
        self.pending.chains = unsure;
        let mut layers = self.strays(&pending);
        let mut images = Vec::new();
        let (released, let_go) = self.candidates(&pending);
        for key in released.iter().chain(&let_go) {
            let Some(known) = self.images.get(key) else { continue };
            let all: Vec<LayerDigest> = known.image.layers.iter().map(|layer| layer.digest).collect();
            self.serve_with_others(key);
            let is_unneeded = self.is_unneeded(key);
            // Of one that is being pulled, layers may be here that are not claimed yet.
            if is_unneeded || released.contains(key) {
                layers.extend(all);
            }
            if is_unneeded {
                self.forget(key);
                images.push(key.clone());
            }
        }
        let needed = self.needed();
        layers.retain(|layer| !needed.contains(layer) && in_store(layer));
        for layer in &layers {
            self.measures.remove(layer);
        }
        self.deleting.layers.extend(&layers);
        self.deleting.images.extend(images.iter().cloned());
        Garbage { layers: layers.into_iter().collect(), images }
    }

    /// Whether layers of the chain's images come just now.
    fn is_at_work(&self, id: &ChainId) -> bool {
        let images = self.chains.get(id).into_iter().flat_map(|chain| &chain.images);
        let mut known = images.filter_map(|key| self.images.get(key));
        known.any(|known| {
            let comes = |layer: &Layered| self.at_work.contains_key(&layer.digest);
            known.scans.is_some() || known.image.layers.iter().any(comes)
        })
    }

    /// Images that may not be needed any more, or not all their layers, and those that may only go as a whole.
    fn candidates(&self, pending: &Pending) -> (HashSet<ImageKey>, HashSet<ImageKey>) {
        let unkept = |key: &&ImageKey| self.images.get(*key).is_some_and(|known| !known.kept);
        let that_have = |id: &ChainId| self.chains.get(id).into_iter().flat_map(|chain| &chain.images);
        let released: HashSet<ImageKey> = match pending.everything {
            true => self.images.keys().filter(unkept).cloned().collect(),
            false => pending.chains.iter().flat_map(that_have).filter(unkept).cloned().collect(),
        };
        let let_go = pending.images.iter().flat_map(|held| &held.chains).flat_map(that_have).filter(unkept);
        (released, let_go.cloned().collect())
    }

    /// Layers that came when nobody waited for them any more, unless somebody still wants an image that has them.
    fn strays(&self, pending: &Pending) -> HashSet<LayerDigest> {
        if pending.layers.is_empty() {
            return HashSet::new();
        }
        let wanted = self.images.iter().filter(|(key, _)| !self.is_unneeded(key)).map(|(_, known)| &known.image);
        let wanted: HashSet<_> = wanted.flat_map(|image| &image.layers).map(|layer| layer.digest).collect();
        pending.layers.difference(&wanted).copied().collect()
    }

    /// Lets the chains that are served with this image's layers be served as the same layers of another image.
    pub(super) fn serve_with_others(&mut self, key: &ImageKey) {
        for id in self.served_by(key) {
            let images = self.images_of(&id);
            let Some((_, served, length)) = images.iter().find(|(other, ..)| other == key) else { continue };
            let same = |image: &Image| {
                let digests = image.layers.iter().take(*length).map(|layer| &layer.digest);
                digests.eq(served.layers.iter().take(*length).map(|layer| &layer.digest))
            };
            let other = images.iter().find(|(other, image, _)| other != key && same(image));
            if let (Some((other, ..)), Some(chain)) = (other, self.chains.get_mut(&id)) {
                chain.served = Some(other.clone());
            }
        }
    }

    pub(super) fn is_unneeded(&self, key: &ImageKey) -> bool {
        self.images.get(key).is_some_and(|known| {
            !known.kept
                && known.scans.is_none()
                && !self.writing.contains(key)
                && !self.is_held(&known.image)
                && self.served_by(key).is_empty()
        })
    }

    /// Every layer that something needs.
    pub(super) fn needed(&self) -> HashSet<LayerDigest> {
        let whole = |image: &Arc<Image>| image.layers.iter().map(|layer| layer.digest).collect::<Vec<_>>();
        let known = self.images.values().filter(|known| known.kept || known.scans.is_some());
        let mut needed: HashSet<LayerDigest> = known.flat_map(|known| whole(&known.image)).collect();
        needed.extend(self.held.values().flat_map(|held| whole(&held.image)));
        needed.extend(self.at_work.keys());
        for chain in self.chains.values().filter(|chain| chain.claims > 0) {
            let served = chain.served.as_ref().and_then(|key| self.images.get(key));
            let layers = served.into_iter().flat_map(|known| known.image.layers.iter().take(chain.length));
            needed.extend(layers.map(|layer| layer.digest));
        }
        needed
    }
}

// === the work ===

impl Images {
    /// From now on what nobody needs is deleted, one piece after the other, until the last clone of this is gone.
    pub(super) fn start_deleting(&self, mut work: watch::Receiver<()>) {
        let shared = Arc::downgrade(&self.shared);
        crate::sync::spawn(async move {
            while work.changed().await.is_ok() {
                if !delete_what_is_pending(&shared).await {
                    return;
                }
            }
        });
    }
}

/// Whether there may be more to do one day.
async fn delete_what_is_pending(shared: &Weak<Shared>) -> bool {
    let Some(shared) = shared.upgrade() else { return false };
    let store = shared.store.clone();
    let Garbage { layers, images } = {
        let in_store = |layer: &LayerDigest| store.has(layer);
        shared.ledger.lock().collect(in_store)
    };
    let mut all_gone = true;
    for layer in layers {
        all_gone &= in_background(&store, move |store| remove(store, &layer)).await;
        shared.ledger.lock().deleting.layers.remove(&layer);
        shared.freed.send_replace(());
    }
    for key in images {
        // As long as one of its layers is left, the record leads to it after a crash.
        if all_gone {
            let record = key.clone();
            in_background(&store, move |store| forget(store, &record)).await;
        }
        shared.ledger.lock().deleting.images.remove(&key);
        shared.freed.send_replace(());
    }
    true
}

async fn in_background(store: &Store, work: impl FnOnce(&Store) -> bool + Send + 'static) -> bool {
    let store = store.clone();
    tokio::task::spawn_blocking(move || work(&store)).await.unwrap_or(false)
}

fn remove(store: &Store, layer: &LayerDigest) -> bool {
    match store.remove(layer) {
        Ok(()) => tracing::info!(%layer, "nobody needs this layer any more: removed"),
        Err(error) => {
            tracing::warn!(%layer, %error, "a layer that nobody needs cannot be removed; the next start tries again");
            return false;
        }
    }
    true
}

fn forget(store: &Store, ImageKey { reference, platform }: &ImageKey) -> bool {
    if let Err(error) = store.forget_image(reference, platform) {
        tracing::warn!(image = &**reference, %error, "cannot forget an image; the next start tries again");
        return false;
    }
    true
}

#[cfg(test)]
mod tests;
