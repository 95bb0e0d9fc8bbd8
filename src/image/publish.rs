//! Publishing what a scan here has found out of an image's layers, and looking after what was published.

use std::path::PathBuf;

use bytes::Bytes;

use super::{Image, ImageError, Images};
use crate::blob::{Beside as _, BlobError, Layered, Origin, Referrer};
use crate::digest::{Digest, LayerDigest, check};
use crate::image::beside::BesideImage;
use crate::index::profile::Profile;
use crate::index::published::artifact::{ARTIFACT_TYPE, Artifact, EMPTY, Listed, ListedProfile, Subject};
use crate::index::published::signature::{KeyError, PublicKey, SigningKey};
use crate::index::published::{PACKED_BYTES_MAX, PackError, pack, unpack};
use crate::index::sources::Fault;
use crate::registry::RegistryError;
use crate::store::{Layer, StoreError};
use crate::sync::Arc;

/// An index of an image that lies beside it.
#[derive(Debug, Clone)]
pub struct PublishedIndex {
    pub digest: Digest,
    pub indexes: Vec<Listed>,
    /// What starts of the image want first has come along.
    pub profile: Option<ListedProfile>,
    /// Who has signed it, of those that are believed here.
    pub signer: Option<PublicKey>,
    /// The key that it says it is signed with.
    pub claimed_key: Option<Digest>,
}

/// What came of publishing.
#[derive(Debug, Clone)]
pub struct Pushed {
    pub index: PublishedIndex,
    /// Bytes that had to be sent.
    pub sent_bytes: u64,
}

/// How a published index compares with a scan: one sentence for each thing that is wrong.
pub type Verdict = Vec<String>;

/// Why an index was not published, or not found out about.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot make the index of layer {layer}")]
    Pack { layer: LayerDigest, source: PackError },
    #[error("the image has no layers")]
    NoLayers,
    #[error("the new image needs a tag, and no digest: that follows from what is made")]
    NoTag,
    #[error(
        "{0} is the image itself: an index that is signed would stay with the manifest that it has now; give the new one another name"
    )]
    Itself(String),
    #[error("{0} is there already; --force replaces it, be it an image for one platform or for several")]
    Taken(String),
    #[error("the image's manifest does not name the layers that it was resolved to")]
    Manifest,
    #[error("the key {} cannot be used", path.display())]
    Key { path: PathBuf, source: KeyError },
    #[error("the key {} cannot be read", path.display())]
    KeyFile { path: PathBuf, source: std::io::Error },
    #[error("oncefs is stopping")]
    Stopping,
}

impl Images {
    /// Whether something can be put beside the image: it is in a registry.
    ///
    /// # Errors
    /// Says why not, before anything is scanned for it.
    pub fn may_publish(&self, image: &Image) -> Result<(), PublishError> {
        Ok(self.shared.registry.takes_pushes(&image.origin)?)
    }

    /// Makes one index of all the image's layers, which are scanned where they were not, and puts it beside the image. Doing it
    /// again sends nothing again.
    pub async fn publish(&self, image: &Arc<Image>, key: Option<&SigningKey>) -> Result<Pushed, PublishError> {
        let (indexes, sent_bytes) = self.push_indexes(image, &image.origin).await?;
        let index = self.publish_listed(image, indexes, key).await?;
        tracing::info!(image = image.reference, index = %index.digest, sent_bytes, "index published");
        Ok(Pushed { index, sent_bytes })
    }

    /// The artifact of indexes whose blobs are beside the image already.
    pub(super) async fn publish_listed(
        &self,
        image: &Image,
        indexes: Vec<Listed>,
        key: Option<&SigningKey>,
    ) -> Result<PublishedIndex, PublishError> {
        let manifest = self.shared.registry.manifest(image.manifest_digest, &image.origin).await?;
        let (media_type, size) = (image.media_type.clone(), manifest.len() as u64);
        let subject = Subject { media_type, digest: image.manifest_digest, size };
        self.push_artifact(image, &subject, indexes, key, &image.origin).await
    }

    /// The index of each layer as a blob there, and how many bytes had to be sent.
    pub(super) async fn push_indexes(
        &self,
        image: &Arc<Image>,
        to: &Origin,
    ) -> Result<(Vec<Listed>, u64), PublishError> {
        let layers = self.layers(image).await.map_err(ImageError::from)?;
        if layers.is_empty() {
            return Err(PublishError::NoLayers);
        }
        let (mut indexes, mut sent_bytes): (Vec<Listed>, u64) = (Vec::new(), 0);
        for layer in layers {
            let digest = layer.digest();
            if indexes.iter().any(|index| index.layer == digest) {
                continue; // an image may have a layer twice
            }
            let packed = packed(layer).await?;
            if self.shared.registry.push_blob(&packed, to).await? {
                sent_bytes += packed.len() as u64;
            }
            indexes.push(Listed { layer: digest, digest: Digest::of(&packed), size: packed.len() as u64 });
        }
        Ok((indexes, sent_bytes))
    }

    /// The manifest that holds these indexes, and what is known of the image's starts, beside the one that it is about.
    pub(super) async fn push_artifact(
        &self,
        image: &Image,
        subject: &Subject,
        indexes: Vec<Listed>,
        key: Option<&SigningKey>,
        to: &Origin,
    ) -> Result<PublishedIndex, PublishError> {
        let registry = &self.shared.registry;
        registry.push_blob(&EMPTY, to).await?;
        let profile = self.push_profile(image, subject, to).await?;
        let artifact = Artifact::new(subject, &indexes, profile.as_ref(), key);
        let bytes = artifact.bytes();
        let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
        let (artifact_type, annotations) = (ARTIFACT_TYPE.to_owned(), artifact.annotations().clone());
        let referrer = Referrer { digest, size, artifact_type, annotations };
        registry.push_referrer(subject.digest, &referrer, bytes, to).await?;
        self.shared.referrers.forget(to, subject.digest);
        let signer = key.and_then(SigningKey::public);
        Ok(PublishedIndex { digest, indexes, profile, claimed_key: signer.as_ref().map(PublicKey::id), signer })
    }

    /// The profile of the image's starts as that of `subject`, which has the same layers.
    async fn push_profile(
        &self,
        image: &Image,
        subject: &Subject,
        to: &Origin,
    ) -> Result<Option<ListedProfile>, PublishError> {
        let (images, manifest) = (self.clone(), image.manifest_digest);
        let reading = tokio::task::spawn_blocking(move || images.profile(&manifest));
        let Some(kept) = reading.await.map_err(|_| PublishError::Stopping)? else { return Ok(None) };
        let Ok(profile) = Profile::from_bytes(&kept, &manifest) else { return Ok(None) };
        let bytes: Bytes = profile.to_bytes(&subject.digest).into();
        self.shared.registry.push_blob(&bytes, to).await?;
        Ok(Some(ListedProfile { digest: Digest::of(&bytes), size: bytes.len() as u64 }))
    }

    /// The indexes that are published of the image, whoever made them.
    pub async fn published(&self, image: &Image) -> Result<Vec<PublishedIndex>, PublishError> {
        let registry = &self.shared.registry;
        let found = registry.referrers(image.manifest_digest, Some(ARTIFACT_TYPE), &image.origin).await?;
        let mut published = Vec::new();
        for Referrer { digest, .. } in found {
            let bytes = registry.manifest(digest, &image.origin).await?;
            let artifact = Artifact::read(&bytes);
            let signer = artifact.as_ref().and_then(|artifact| artifact.signer(self.shared.believed.keys()).cloned());
            let claimed_key = artifact.as_ref().and_then(Artifact::claimed_key);
            let profile = artifact.as_ref().and_then(Artifact::profile);
            let indexes = artifact.map(|artifact| artifact.indexes().collect()).unwrap_or_default();
            published.push(PublishedIndex { digest, indexes, profile, signer, claimed_key });
        }
        Ok(published)
    }

    /// What of a published index is not as a scan here says. Layers that were not scanned are.
    pub async fn verify_published(
        &self,
        image: &Arc<Image>,
        published: &PublishedIndex,
    ) -> Result<Verdict, PublishError> {
        let layers = self.layers(image).await.map_err(ImageError::from)?;
        let mut wrong = Vec::new();
        for (layer, says) in layers.into_iter().zip(&image.layers) {
            let digest = layer.digest();
            let Some(index) = published.indexes.iter().find(|index| index.layer == digest) else {
                wrong.push(format!("layer {digest}: it has no index"));
                continue;
            };
            let ours = packed(layer).await?;
            if Digest::of(&ours) == index.digest {
                continue;
            }
            match self.unpacked(image, says, index).await {
                // Another release may pack the same otherwise.
                Ok(theirs) if self.contents(says, &ours).await.is_ok_and(|ours| ours == theirs) => {}
                Ok(_) => wrong.push(format!("layer {digest}: it says something else than the layer is")),
                Err(fault) => wrong.push(format!("layer {digest}: {}", crate::errors::with_causes(&fault))),
            }
        }
        Ok(wrong)
    }

    /// Takes a published index away. False if the registry deletes nothing: it is only not found any more.
    pub async fn unpublish(&self, image: &Image, index: Digest) -> Result<bool, PublishError> {
        let removed = self.shared.registry.remove_referrer(image.manifest_digest, index, &image.origin).await;
        self.shared.referrers.forget(&image.origin, image.manifest_digest);
        Ok(removed?)
    }

    async fn unpacked(&self, image: &Image, layer: &Layered, index: &Listed) -> Result<String, Fault> {
        if index.size > PACKED_BYTES_MAX {
            return Err(Fault::TooLarge(PACKED_BYTES_MAX));
        }
        let beside = BesideImage { images: self, image };
        let bytes = check(beside.blob(index.digest, index.size).await?, &index.digest)?;
        self.contents(layer, bytes.get()).await
    }

    /// What an index says, in a form that can be compared.
    async fn contents(&self, layer: &Layered, packed: &[u8]) -> Result<String, Fault> {
        let limits = self.shared.limits.lock().clone();
        let (layer, packed) = (layer.clone(), Bytes::copy_from_slice(packed));
        let unpacked = tokio::task::spawn_blocking(move || {
            let contents = unpack(&packed, &layer, &limits)?;
            Ok(Digest::of(format!("{contents:?}").as_bytes()).to_string())
        });
        unpacked.await.unwrap_or(Err(Fault::Blob(BlobError::Other("oncefs is stopping".to_owned()))))
    }
}

/// The layer's index as it is published. It is all here, whatever of the layer's data was let go of.
async fn packed(layer: Arc<Layer>) -> Result<Bytes, PublishError> {
    let digest = layer.digest();
    let packing = tokio::task::spawn_blocking(move || pack(layer.tree(), layer.frames()));
    match packing.await.map_err(|_| PublishError::Stopping)? {
        Ok(packed) => Ok(packed.into()),
        Err(source) => Err(PublishError::Pack { layer: digest, source }),
    }
}
