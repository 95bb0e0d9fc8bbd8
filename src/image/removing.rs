//! Letting an image go that nobody needs: its record, and those of its layers that no other image, mount or snapshot has.

use super::Images;
use super::cache::{Pruned, remove_layers};
use super::chains::{ImageKey, Needed};
use crate::registry::{Platform, Reference};
use crate::store::StoreError;

/// Why an image is not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    #[error("{image} for {platform} is not known here; `oncefs status` says what is")]
    Unknown { image: String, platform: String },
    #[error("{image} is pinned; `oncefs unpin {image}` first")]
    Pinned { image: String },
    #[error("{image} is mounted, or somebody is at work on it; `oncefs status` says where, `oncefs umount` ends it")]
    Held { image: String },
    #[error("containerd has snapshots of {image}; it goes when containerd is done with it")]
    Claimed { image: String },
    #[error("{image} may have snapshots of containerd, which only `oncefs serve` knows; start it, and try again")]
    Unsettled { image: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Images {
    /// Forgets the image, durably, unless somebody needs it, and removes those of its layers that nobody else does. Blocking.
    pub fn remove(&self, reference: &Reference, platform: &Platform) -> Result<Pruned, RemoveError> {
        self.settle_where_nothing_is_claimed();
        let (image, platform) = (reference.to_string(), platform.to_string());
        let key = ImageKey::new(&image, &platform);
        let store = &self.shared.store;
        let here = store.digests().into_iter().collect();
        let taken = self.shared.ledger.lock().take_image(&key, &here);
        let layers = taken.map_err(|needed| match needed {
            Needed::Unknown => RemoveError::Unknown { image: image.clone(), platform },
            Needed::Pinned => RemoveError::Pinned { image: image.clone() },
            Needed::Held => RemoveError::Held { image: image.clone() },
            Needed::Claimed => RemoveError::Claimed { image: image.clone() },
            Needed::Unsettled => RemoveError::Unsettled { image: image.clone() },
        })?;
        // As everywhere: as long as one of its layers is left, the record leads to it.
        let (pruned, removed) = remove_layers(self, layers);
        let forgotten = removed.and_then(|()| store.forget_image(&key.reference, &key.platform));
        self.shared.ledger.lock().deleting.images.remove(&key);
        self.shared.freed.send_replace(());
        forgotten?;
        tracing::info!(image, layers = pruned.layers.len(), "image removed");
        Ok(pruned)
    }
}
