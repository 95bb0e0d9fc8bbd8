//! A registry that has what an input says: one blob, documents beside it by their digests, and a list of those that are about the image.

use std::collections::BTreeMap;
use std::sync::Arc;

use oncefs::blob::{Beside, BlobError, Layered, Referrer};
use oncefs::digest::{DiffId, Digest, LayerDigest};

type Future<'a, T> = std::pin::Pin<Box<dyn std::future::Future<Output = Result<T, BlobError>> + Send + 'a>>;

/// What lies beside the layer.
#[derive(Default)]
pub(crate) struct Documents {
    by_digest: BTreeMap<[u8; 32], Vec<u8>>,
    /// The manifest that any ending after the tag gives.
    pub(crate) called: Option<Vec<u8>>,
    /// What the registry says is about the image.
    pub(crate) referrers: Arc<[Referrer]>,
}

impl Documents {
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.by_digest.insert(*digest.as_bytes(), bytes.to_vec());
        digest
    }

    fn get(&self, digest: Digest) -> Result<bytes::Bytes, BlobError> {
        let found = self.by_digest.get(digest.as_bytes()).cloned();
        found.map(bytes::Bytes::from).ok_or_else(|| BlobError::NotFound(digest.to_string()))
    }
}

impl Beside for Documents {
    fn manifest(&self, digest: Digest) -> Future<'_, bytes::Bytes> {
        Box::pin(async move { self.get(digest) })
    }

    fn called<'a>(&'a self, ending: &'a str) -> Future<'a, bytes::Bytes> {
        let found = self.called.clone();
        Box::pin(async move { found.map(bytes::Bytes::from).ok_or_else(|| BlobError::NotFound(ending.to_owned())) })
    }

    fn blob(&self, digest: Digest, _: u64) -> Future<'_, bytes::Bytes> {
        Box::pin(async move { self.get(digest) })
    }

    fn referrers(&self) -> Future<'_, Arc<[Referrer]>> {
        Box::pin(async { Ok(self.referrers.clone()) })
    }
}

/// The layer that this blob is.
pub(crate) fn layer_of(blob: &[u8], packing: &str, annotations: &[(&str, String)]) -> Layered {
    Layered {
        digest: LayerDigest(Digest::of(blob)),
        diff_id: DiffId(Digest::of(b"tar")),
        size: blob.len() as u64,
        media_type: format!("application/vnd.oci.image.layer.v1.tar+{packing}"),
        annotations: annotations.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect(),
    }
}
