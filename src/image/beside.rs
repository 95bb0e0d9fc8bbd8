//! What lies in a repository, or in a layout, beside the image's layers.

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::blob::{Beside, BlobError, Blobs as _, Origin};
use crate::digest::{Digest, LayerDigest};
use crate::registry::Registry;

pub(super) struct BesideImage {
    pub(super) registry: Registry,
    pub(super) origin: Origin,
}

impl Beside for BesideImage {
    fn manifest(&self, digest: Digest) -> BoxFuture<'_, Result<Bytes, BlobError>> {
        Box::pin(async move { Ok(self.registry.manifest(digest, &self.origin).await?) })
    }

    fn blob(&self, digest: Digest, size: u64) -> BoxFuture<'_, Result<Bytes, BlobError>> {
        Box::pin(async move {
            // Whatever it holds, it is had as a layer is.
            let blob = self.registry.open(LayerDigest(digest), size, self.origin.clone()).await?;
            blob.range(0..size).await
        })
    }
}
