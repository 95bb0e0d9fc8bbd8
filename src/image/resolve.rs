//! From a reference to an image: its manifest and config, from the registry or, where that is away, from memory.

use std::time::{SystemTime, UNIX_EPOCH};

use super::{Image, ImageError, ImageFailed, Images};
use crate::registry::{Platform, Reference, RegistryError, Resolved};
use crate::store::ImageRecord;
use crate::sync::Arc;

impl Images {
    /// The image's manifest and config, asked of the registry once for all who want it at the moment.
    ///
    /// A registry that cannot be reached does not matter to an image that was resolved here before and whose layers
    /// are all in the store: it is taken as it was then, and says so ([`Image::remembered`]).
    pub async fn resolve(&self, reference: &Reference, platform: &Platform) -> Result<Arc<Image>, ImageFailed> {
        let key = (reference.to_string(), platform.to_string());
        let ticket = self.shared.resolving.join(key, || {
            let (images, reference, platform) = (self.clone(), reference.clone(), platform.clone());
            async move { images.resolve_alone(&reference, &platform).await }
        });
        ticket.await
    }

    async fn resolve_alone(&self, reference: &Reference, platform: &Platform) -> Result<Arc<Image>, ImageError> {
        match self.shared.registry.resolve(reference, platform).await {
            Ok(resolved) => {
                self.remember(&resolved, platform).await?;
                Ok(Arc::new(Image::new(resolved, false)))
            }
            Err(source) if is_away(&source) => match self.remembered(reference, platform).await {
                Some(image) => {
                    tracing::warn!(image = %reference, cause = %source, "registry away: using the image as it was last resolved");
                    Ok(image)
                }
                None => Err(ImageError::Resolve { image: reference.to_string(), source: Box::new(source) }),
            },
            Err(source) => Err(ImageError::Resolve { image: reference.to_string(), source: Box::new(source) }),
        }
    }

    /// Writes down how the reference resolved for the platform that was asked for, which the image itself may name with
    /// other words, and where the layers that are here already can be had again.
    async fn remember(&self, resolved: &Resolved, platform: &Platform) -> Result<(), ImageError> {
        let record = ImageRecord {
            reference: resolved.reference.to_string(),
            platform: platform.to_string(),
            manifest_digest: resolved.manifest_digest,
            manifest: resolved.manifest.to_vec(),
            config: resolved.config.to_vec(),
            origin: resolved.origin.clone(),
            seen_at_secs: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        };
        let (store, layers) = (self.shared.store.clone(), resolved.layers.clone());
        let remember = move || {
            store.remember_image(&record)?;
            let here = layers.iter().filter(|layer| store.has(&layer.digest));
            here.into_iter().try_for_each(|layer| store.set_origin(&layer.digest, &record.origin))
        };
        match tokio::task::spawn_blocking(remember).await {
            Ok(remembered) => Ok(remembered?),
            Err(_) => Err(ImageError::Stopping),
        }
    }

    async fn remembered(&self, reference: &Reference, platform: &Platform) -> Option<Arc<Image>> {
        let record = self.shared.store.image(&reference.to_string(), &platform.to_string()).ok()??;
        let resolved = Resolved::from_parts(
            reference.clone(),
            platform.clone(),
            record.manifest_digest,
            record.manifest.into(),
            record.config.into(),
            record.origin,
        );
        let image = Image::new(resolved.ok()?, true);
        image.layers.iter().all(|layer| self.shared.store.has(&layer.digest)).then(|| Arc::new(image))
    }
}

impl Image {
    fn new(resolved: Resolved, remembered: bool) -> Self {
        Self {
            reference: resolved.reference.to_string(),
            platform: resolved.platform.to_string(),
            manifest_digest: resolved.manifest_digest,
            media_type: resolved.media_type,
            layers: resolved.layers,
            origin: resolved.origin,
            config: resolved.config.to_vec(),
            remembered,
        }
    }
}

/// Whether it is the network or the registry that is missing, and not the image.
fn is_away(error: &RegistryError) -> bool {
    matches!(
        error,
        RegistryError::Unreachable { .. }
            | RegistryError::Silent { .. }
            | RegistryError::Stalled { .. }
            | RegistryError::Broken { .. }
            | RegistryError::Busy { .. }
            | RegistryError::Status { status: 500.., .. }
    )
}
