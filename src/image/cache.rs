//! What stays and what goes of the cache: pins, which images the store's layers serve, and making room on demand.

use std::collections::HashSet;

use super::chains::ImageKey;
use super::resolve::Asker;
use super::{Image, ImageError, ImageFailed, Images};
use crate::digest::LayerDigest;
use crate::registry::{Platform, Reference};
use crate::store::{Evicted, Store, StoreError, Uses};
use crate::sync::Arc;

/// A name whose image stays, whatever the cache's bound says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    pub reference: String,
    pub platform: String,
    /// None if the database was lost: it is pinned again when it is known again.
    pub image: Option<Arc<Image>>,
}

/// How far to go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Prune {
    /// Down to so many bytes of content. None leaves the layers that something needs as they are.
    pub to_bytes: Option<u64>,
}

/// What went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Layers that nothing needed, and the content that they held.
    pub layers: Vec<LayerDigest>,
    pub layer_bytes: u64,
    /// Of layers that stay.
    pub evicted: Evicted,
}

// === impl Images ===

impl Images {
    /// Keeps what is here of the image, and what comes of it, until it is unpinned; across restarts.
    pub async fn pin(&self, reference: &Reference, platform: &Platform) -> Result<Arc<Image>, ImageFailed> {
        let image = self.resolve(reference, platform, Asker::User).await?;
        let key = ImageKey::new(&reference.to_string(), &platform.to_string());
        let (store, pin) = (self.shared.store.clone(), key.clone());
        let write = move || store.put_pin(&pin.reference, &pin.platform);
        self.off_thread(write).await.map_err(|error| ImageFailed::Work(Arc::new(error)))?;
        self.shared.ledger.lock().pins.insert(key);
        Ok(image)
    }

    /// From now on the image goes as others do. Says whether it was pinned.
    pub async fn unpin(&self, reference: &Reference, platform: &Platform) -> Result<bool, ImageError> {
        let key = ImageKey::new(&reference.to_string(), &platform.to_string());
        let (store, pin) = (self.shared.store.clone(), key.clone());
        let was_pinned = self.off_thread(move || store.remove_pin(&pin.reference, &pin.platform)).await?;
        self.shared.ledger.lock().pins.remove(&key);
        Ok(was_pinned)
    }

    /// By name.
    pub fn pinned(&self) -> Vec<Pinned> {
        let ledger = self.shared.ledger.lock();
        let pinned = ledger.pins.iter().map(|key| Pinned {
            reference: key.reference.to_string(),
            platform: key.platform.to_string(),
            image: ledger.image(key),
        });
        pinned.collect()
    }

    /// Every image whose record is in the database, by name.
    pub fn known_images(&self) -> Vec<Arc<Image>> {
        let mut images = self.shared.ledger.lock().all_images();
        images.sort_by(|a, b| (&a.reference, &a.platform).cmp(&(&b.reference, &b.platform)));
        images
    }

    /// Removes layers that nothing needs (no mount, no snapshot, no image, no pin), then lets frames go. Blocking.
    pub fn prune(&self, how: Prune) -> Result<Pruned, StoreError> {
        self.settle_where_nothing_is_claimed();
        let (mut pruned, removed) = remove_layers(self, self.take_unreferenced());
        removed?;
        self.forget_unreferenced()?;
        if let Some(bytes) = how.to_bytes {
            pruned.evicted = self.shared.store.evict_to(bytes)?;
        }
        Ok(pruned)
    }

    /// Forgets images that nobody asked for by name and nothing needs.
    fn forget_unreferenced(&self) -> Result<(), StoreError> {
        let images = self.shared.ledger.lock().take_unreferenced_images();
        let mut forgotten = Ok(());
        for key in images {
            forgotten = forgotten.and(self.shared.store.forget_image(&key.reference, &key.platform));
            self.shared.ledger.lock().deleting.images.remove(&key);
            self.shared.freed.send_replace(());
        }
        forgotten
    }

    /// Which layers the cache must not let go of, and which it should rather keep.
    pub(super) fn uses(&self) -> Uses {
        let ledger = self.shared.ledger.lock();
        Uses { in_use: ledger.in_use(), pinned: ledger.pinned() }
    }

    /// Layers of the store that nothing needs. Nobody takes them for there from now on.
    fn take_unreferenced(&self) -> Vec<LayerDigest> {
        let here: HashSet<LayerDigest> = self.shared.store.digests().into_iter().collect();
        self.shared.ledger.lock().take_unreferenced(&here)
    }

    /// Takes the pins of the database into memory. Blocking.
    pub(super) fn recall_pins(&self) {
        let pins = self.shared.store.pins().unwrap_or_else(|error| {
            tracing::warn!(%error, "the pins in the database cannot be read: nothing is pinned until the next start");
            Vec::new()
        });
        let keys = pins.iter().map(|(reference, platform)| ImageKey::new(reference, platform));
        self.shared.ledger.lock().pins.extend(keys);
    }
}

/// Removes layers that were taken out of the ledger. To the end of them, also where one fails.
pub(super) fn remove_layers(images: &Images, layers: Vec<LayerDigest>) -> (Pruned, Result<(), StoreError>) {
    let (mut pruned, mut failed) = (Pruned::default(), Ok(()));
    for layer in layers {
        let removed = remove(&images.shared.store, &layer);
        images.shared.ledger.lock().put_back(&layer);
        images.shared.freed.send_replace(());
        match removed {
            Ok(bytes) => {
                pruned.layer_bytes += bytes;
                pruned.layers.push(layer);
            }
            Err(error) => failed = failed.and(Err(error)),
        }
    }
    (pruned, failed)
}

/// The content that went with the layer.
fn remove(store: &Store, layer: &LayerDigest) -> Result<u64, StoreError> {
    let bytes = store.layer(layer)?.map_or(0, |layer| layer.resident_bytes());
    store.remove(layer)?;
    tracing::info!(%layer, "nothing needs this layer: pruned");
    Ok(bytes)
}
