//! The profile of an image's starts that another node has published: for the first start here.
//!
//! It is advice like one's own, and whoever may write beside the image may have written it: what it can do is bounded where it is
//! used.

use tokio::sync::oneshot;

use crate::blob::{Beside as _, BlobError};
use crate::digest::check;
use crate::errors::with_causes;
use crate::image::beside::BesideImage;
use crate::image::{Image, Images};
use crate::index::frames::IndexSource;
use crate::index::profile::PROFILE_BYTES_MAX;
use crate::index::published::artifact::Artifact;
use crate::index::sources::{Beliefs, Binding, candidates};
use crate::sync::Arc;

/// A profile that is on its way, if there may be one.
pub(super) struct Coming(Option<oneshot::Receiver<bool>>);

// === impl Coming ===

impl Coming {
    /// Returns when it is here, or is known not to come, and says which.
    pub(super) async fn arrived(self) -> bool {
        match self.0 {
            Some(arrived) => arrived.await.unwrap_or(false),
            None => false,
        }
    }
}

// === impl Images ===

impl Images {
    /// Fetches it while the layers' indexes come, unless this node has a profile of its own.
    pub(super) fn profile_from_elsewhere(&self, image: &Arc<Image>, length: usize) -> Coming {
        if length < image.layers.len() || !self.may_have_profile(image) {
            return Coming(None);
        }
        let (images, image) = (self.clone(), image.clone());
        let (over, arrived) = oneshot::channel();
        crate::sync::spawn(async move {
            let manifest = image.manifest_digest;
            let own = images.clone();
            let has_own = tokio::task::spawn_blocking(move || own.profile(&manifest).is_some());
            if has_own.await.unwrap_or(true) {
                return;
            }
            match images.published_profile(&image).await {
                Ok(Some(bytes)) => {
                    let taking = tokio::task::spawn_blocking(move || images.take_profile(&manifest, &bytes));
                    let is_taken = taking.await.unwrap_or(false);
                    tracing::info!(image = image.reference, is_taken, "start-up profile of another node");
                    let _nobody_may_wait_for_it = over.send(is_taken);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(image = image.reference, error = with_causes(&error), "no profile of another node");
                }
            }
        });
        Coming(Some(arrived))
    }

    /// Whether somebody may have published one, and it would be of use: the registry is asked for what is beside the image in any
    /// case, or the image's maker has used oncefs.
    fn may_have_profile(&self, image: &Image) -> bool {
        let binding = |layer| self.binding(image, layer);
        let may_be_beside = |binding| {
            matches!(binding, Binding::Manifest(IndexSource::Published, _) | Binding::Signature | Binding::Referrer(_))
        };
        let fetches_ahead = self.shared.starts.config.lock().ahead_bytes_max > 0;
        let is_first = image.layers.iter().any(|layer| !self.shared.store.has(&layer.digest));
        fetches_ahead && is_first && image.layers.iter().filter_map(binding).any(may_be_beside)
    }

    async fn published_profile(&self, image: &Image) -> Result<Option<Vec<u8>>, BlobError> {
        let referrers = self.referrers(image).await?;
        // No signature covers a profile, so it does not matter whose it is; but those come first whose index is used.
        let beliefs = Beliefs { unsigned: Some(image.manifest_digest), ..self.shared.believed.beside(image) };
        for candidate in candidates(&referrers, &beliefs) {
            let artifact = Artifact::read(&self.manifest_beside(image, candidate.digest).await?);
            let listed = artifact.and_then(|artifact| artifact.profile());
            let Some(listed) = listed.filter(|profile| profile.size <= PROFILE_BYTES_MAX as u64) else { continue };
            let bytes = BesideImage { images: self, image }.blob(listed.digest, listed.size).await?;
            let checked = check(bytes, &listed.digest).map_err(|error| BlobError::Other(error.to_string()))?;
            return Ok(Some(checked.get().to_vec()));
        }
        Ok(None)
    }
}
