//! Calls about the cache: what stays, what goes, how full it is.

use super::failure;
use super::node::{Node, blocking, named};
use crate::control::FailureKind;
use crate::control::{CacheReport, Failure, PinSummary, PruneCall, PruneSummary, PullCall, RemoveSummary};
use crate::errors::with_causes;
use crate::image::{Images, Prune};

impl Node {
    /// Keeps the image's layers, whatever the cache's bound says.
    pub async fn pin(&self, call: &PullCall) -> Result<PinSummary, Failure> {
        let (reference, platform) = named(&call.image, call.platform.as_deref())?;
        let was_pinned = self.is_pinned(&reference.to_string(), &platform.to_string());
        let image = self.images().pin(&reference, &platform).await.map_err(failure::of_image)?;
        let store = self.images().store().clone();
        let resident = blocking(move || {
            let layers = image.layers.iter().filter_map(|layer| store.layer(&layer.digest).ok()?);
            layers.map(|layer| layer.resident_bytes()).sum()
        });
        Ok(PinSummary {
            reference: reference.to_string(),
            platform: platform.to_string(),
            resident_bytes: Some(resident.await?),
            was_pinned,
        })
    }

    pub async fn unpin(&self, call: &PullCall) -> Result<PinSummary, Failure> {
        let (reference, platform) = named(&call.image, call.platform.as_deref())?;
        let unpinned = self.images().unpin(&reference, &platform).await;
        let was_pinned = unpinned.map_err(|error| Failure::new(FailureKind::Store, with_causes(&error)))?;
        let (reference, platform) = (reference.to_string(), platform.to_string());
        if !was_pinned {
            let message = format!("{reference} for {platform} is not pinned; `oncefs status` says what is");
            return Err(Failure::new(FailureKind::NotFound, message));
        }
        Ok(PinSummary { reference, platform, resident_bytes: None, was_pinned })
    }

    /// Forgets the image, with the layers that nobody else needs.
    pub async fn remove(&self, call: &PullCall) -> Result<RemoveSummary, Failure> {
        let (reference, platform) = named(&call.image, call.platform.as_deref())?;
        let images = self.images().clone();
        blocking(move || {
            let removed = images.remove(&reference, &platform).map_err(|error| failure::of_remove(&error))?;
            Ok(RemoveSummary {
                reference: reference.to_string(),
                platform: platform.to_string(),
                layers: removed.layers,
                layer_bytes: removed.layer_bytes,
            })
        })
        .await?
    }

    /// Lets go of what nothing needs, and of more if told to.
    pub async fn prune(&self, call: &PruneCall) -> Result<PruneSummary, Failure> {
        let (images, how) = (self.images().clone(), Prune { to_bytes: call.to_bytes });
        blocking(move || {
            let pruned = images.prune(how).map_err(|error| failure::of_store(&error))?;
            Ok(PruneSummary {
                layers: pruned.layers,
                layer_bytes: pruned.layer_bytes,
                frames: pruned.evicted.frames,
                frame_bytes: pruned.evicted.bytes,
                cache: report(&images),
            })
        })
        .await?
    }

    fn is_pinned(&self, reference: &str, platform: &str) -> bool {
        let pinned = self.images().pinned();
        pinned.iter().any(|pinned| pinned.reference == reference && pinned.platform == platform)
    }
}

/// How full the cache is. Blocking: every layer is looked at.
pub(super) fn report(images: &Images) -> CacheReport {
    let usage = images.store().cache_usage();
    let pinned = images.pinned().into_iter().map(|pinned| match pinned.image {
        Some(_) => format!("{} {}", pinned.reference, pinned.platform),
        None => format!("{} {} (not known here)", pinned.reference, pinned.platform),
    });
    CacheReport {
        used_bytes: usage.used_bytes,
        max_bytes: usage.max_bytes,
        high_bytes: usage.high_bytes,
        low_bytes: usage.low_bytes,
        evicted_frames: usage.evicted.frames,
        evicted_bytes: usage.evicted.bytes,
        unkept_frames: usage.unkept_frames,
        pinned: pinned.collect(),
    }
}
