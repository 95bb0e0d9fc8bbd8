//! What lies in a repository, or in a layout, beside the image's layers.

use bytes::Bytes;
use futures::future::BoxFuture;

use super::{Image, Images};
use crate::blob::{Beside, BlobError, Blobs as _, Referrer};
use crate::digest::{Digest, LayerDigest};
use crate::errors::with_causes;
use crate::registry::{Reference, Remote, Tag};
use crate::sync::Arc;

pub(super) struct BesideImage<'a> {
    pub(super) images: &'a Images,
    pub(super) image: &'a Image,
}

impl Beside for BesideImage<'_> {
    fn manifest(&self, digest: Digest) -> BoxFuture<'_, Result<Bytes, BlobError>> {
        Box::pin(self.images.manifest_beside(self.image, digest))
    }

    fn called<'a>(&'a self, ending: &'a str) -> BoxFuture<'a, Result<Bytes, BlobError>> {
        Box::pin(async move {
            let Ok(Reference::Remote(Remote { repository, tag: Some(tag), .. })) = self.image.reference.parse() else {
                let message = format!("{} has no tag, and so nothing that is called like it", self.image.reference);
                return Err(BlobError::NotFound(message));
            };
            let tag: Tag =
                format!("{tag}{ending}").parse().map_err(|error| BlobError::NotFound(with_causes(&error)))?;
            Ok(self.images.shared.registry.manifest_of_tag(&repository, &tag).await?)
        })
    }

    fn blob(&self, digest: Digest, size: u64) -> BoxFuture<'_, Result<Bytes, BlobError>> {
        Box::pin(async move {
            // Whatever it holds, it is had as a layer is.
            let blob = self.images.shared.registry.open(LayerDigest(digest), size, self.image.origin.clone());
            let blob = blob.await?;
            blob.range(0..size).await
        })
    }

    fn referrers(&self) -> BoxFuture<'_, Result<Arc<[Referrer]>, BlobError>> {
        Box::pin(self.images.referrers(self.image))
    }
}
