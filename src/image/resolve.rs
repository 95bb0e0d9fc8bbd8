//! From a reference to an image: its manifest and config, from the registry or, where that is away, from memory.

use std::time::{SystemTime, UNIX_EPOCH};

use super::chains::{Held, ImageKey};
use super::{Image, ImageError, ImageFailed, Images};
use crate::digest::Digest;
use crate::registry::{Platform, Reference, RegistryError, Remote, Resolved, Want};
use crate::store::{ImageRecord, Store, StoreError};
use crate::sync::Arc;

/// Who wants to know what a reference means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Asker {
    /// A user who wants the image here: its layers are kept.
    User,
    /// Somebody who only looks.
    Onlooker,
    /// containerd, or who asks on its behalf: what it has no claim on may be deleted.
    Containerd,
}

/// What is in the database under an image's key.
enum Recorded {
    Nothing,
    /// The same manifest.
    Same(ImageRecord),
    /// What the reference meant before.
    Other(ImageRecord),
}

impl Images {
    /// The image's manifest and config, asked of the registry once for all who want it at the moment.
    ///
    /// A registry that cannot be reached does not matter to an image that was resolved here before and whose layers
    /// are all in the store: it is taken as it was then, and says so ([`Image::remembered`]).
    pub async fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
        asker: Asker,
    ) -> Result<Arc<Image>, ImageFailed> {
        let key = (reference.to_string(), platform.to_string(), asker);
        let ticket = self.shared.resolving.join(key, || {
            let (images, reference, platform) = (self.clone(), reference.clone(), platform.clone());
            async move { images.resolve_alone(&reference, &platform, asker).await }
        });
        ticket.await
    }

    async fn resolve_alone(
        &self,
        reference: &Reference,
        platform: &Platform,
        asker: Asker,
    ) -> Result<Arc<Image>, ImageError> {
        let key = ImageKey::new(&reference.to_string(), &platform.to_string());
        let config = self.known_config(&key);
        let want = Want { platform: Some(platform.clone()), config };
        match self.shared.registry.resolve_as(reference, &want).await {
            Ok(resolved) => {
                let key = if asker == Asker::Containerd { by_digest(&resolved) } else { key };
                Ok(self.remember(key, resolved, asker).await?.0)
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

    /// The image of this very manifest, whatever platform it is for, on behalf of containerd.
    pub(super) async fn resolve_exactly(&self, image: &Remote) -> Result<(ImageKey, Arc<Image>, Held), ImageError> {
        let reference = Reference::Remote(image.clone());
        let resolved = self.shared.registry.resolve_as(&reference, &Want::default()).await;
        let resolved = resolved
            .map_err(|source| ImageError::Resolve { image: reference.to_string(), source: Box::new(source) })?;
        let key = by_digest(&resolved);
        let (image, held) = self.remember(key.clone(), resolved, Asker::Containerd).await?;
        Ok((key, image, held))
    }

    /// Writes down how the reference resolved for the platform that was asked for, which the image itself may name with
    /// other words, and where the layers that are here already can be had again. What the reference meant before goes on
    /// under its digest: somebody may have claims on it.
    async fn remember(
        &self,
        key: ImageKey,
        resolved: Resolved,
        asker: Asker,
    ) -> Result<(Arc<Image>, Held), ImageError> {
        let _writing = self.writing(&key).await;
        let mut record = ImageRecord {
            reference: key.reference.to_string(),
            platform: key.platform.to_string(),
            manifest_digest: resolved.manifest_digest,
            manifest: resolved.manifest.to_vec(),
            config: resolved.config.to_vec(),
            origin: resolved.origin.clone(),
            seen_at_secs: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            kept: asker == Asker::User,
        };
        let image = Arc::new(Image::new(resolved, false));
        let (store, read, digest) = (self.shared.store.clone(), key.clone(), record.manifest_digest);
        let recorded = self.off_thread(move || recorded(&store, &read, &digest)).await?;
        let before = match recorded {
            Recorded::Nothing => None,
            Recorded::Same(same) => {
                record.kept |= same.kept;
                None
            }
            // Who only looks changes nothing of what others want.
            Recorded::Other(_) if asker == Asker::Onlooker => {
                let held = self.hold(&image);
                return Ok((image, held));
            }
            Recorded::Other(before) => {
                record.kept |= before.kept;
                Some(under_its_digest(before, &key))
            }
        };
        if let Some((to, before)) = before {
            let _writing = self.writing(&to).await;
            let store = self.shared.store.clone();
            self.off_thread(move || put_unless_there(&store, &before)).await?;
            self.shared.ledger.lock().rename(&key, &to);
        }
        let kept = record.kept;
        let (store, layers) = (self.shared.store.clone(), image.layers.clone());
        let write = move || {
            store.remember_image(&record)?;
            // Who only looks has said nothing of where he would have them from.
            if asker == Asker::Onlooker {
                return Ok(());
            }
            let here = layers.iter().filter(|layer| store.has(&layer.digest));
            here.into_iter().try_for_each(|layer| store.set_origin(&layer.digest, &record.origin))
        };
        self.off_thread(write).await?;
        self.shared.ledger.lock().note(&key, &image, kept);
        // Before the record can be forgotten again.
        let held = self.hold(&image);
        Ok((image, held))
    }

    pub(super) async fn off_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, ImageError> {
        tokio::task::spawn_blocking(work).await.map_or(Err(ImageError::Stopping), |done| Ok(done?))
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
    pub(super) fn new(resolved: Resolved, remembered: bool) -> Self {
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

fn recorded(store: &Store, key: &ImageKey, manifest: &Digest) -> Result<Recorded, StoreError> {
    Ok(match store.image(&key.reference, &key.platform)? {
        None => Recorded::Nothing,
        Some(record) if record.manifest_digest == *manifest => Recorded::Same(record),
        Some(record) => Recorded::Other(record),
    })
}

/// The record of an image whose name has come to mean another, as nobody wants it but who has a claim on it.
fn under_its_digest(record: ImageRecord, key: &ImageKey) -> (ImageKey, ImageRecord) {
    let digest = record.manifest_digest;
    let reference = match record.reference.parse() {
        Ok(Reference::Remote(remote)) => Remote { tag: None, digest: Some(digest), ..remote }.to_string(),
        _ => format!("{}@{}", record.reference, digest.hex()),
    };
    let to = ImageKey::new(&reference, &key.platform);
    (to, ImageRecord { reference, kept: false, ..record })
}

fn put_unless_there(store: &Store, record: &ImageRecord) -> Result<(), StoreError> {
    match store.image(&record.reference, &record.platform)? {
        Some(_) => Ok(()),
        None => store.remember_image(record),
    }
}

/// What containerd's images are kept under: a tag may come to mean another.
fn by_digest(resolved: &Resolved) -> ImageKey {
    let reference = match &resolved.reference {
        Reference::Remote(remote) => {
            Remote { tag: None, digest: Some(resolved.manifest_digest), ..remote.clone() }.to_string()
        }
        local => format!("{local}@{}", resolved.manifest_digest.hex()),
    };
    ImageKey::new(&reference, &resolved.platform.to_string())
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
