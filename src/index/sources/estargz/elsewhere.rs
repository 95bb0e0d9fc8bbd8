//! eStargz whose table of contents is in another image (stargz-snapshotter, docs/smaller-estargz.md): it is called as the layer's
//! own, with an ending after its tag, and its layers are the tables. What is found there counts for nothing until the table's
//! digest has matched the one that the manifest names.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;

use super::super::{Fault, Wanted};
use super::TOC_PACKED_BYTES_MAX;
use crate::digest::{Digest, check};

/// The footer of a blob without a table: an empty gzip member whose extra field says so.
pub(super) const FOOTER: &[u8] =
    b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x15\0SG\x11\0STARGZEXTERNALTOC\x01\0\0\xff\xff\0\0\0\0\0\0\0\0";

const TAG_ENDING: &str = "-esgztoc";
/// What a table is called the layer of.
const LAYER_DIGEST: &str = "containerd.io/snapshot/stargz/layer.digest";

/// Of an image for several platforms, so many are looked through.
const PLATFORMS_MAX: usize = 16;

/// A manifest, or an index of some.
#[derive(Deserialize)]
struct DocumentText {
    #[serde(default)]
    layers: Vec<DescriptorText>,
    #[serde(default)]
    manifests: Vec<DescriptorText>,
}

#[derive(Deserialize)]
struct DescriptorText {
    digest: Digest,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// The packed table of the layer.
pub(super) async fn fetch(wanted: &Wanted<'_>) -> Result<Bytes, Fault> {
    let document = wanted.beside.called(TAG_ENDING).await?;
    let document: DocumentText = serde_json::from_slice(&document)?;
    let mut table = document.table_of(wanted);
    for manifest in document.manifests.iter().take(PLATFORMS_MAX) {
        if table.is_none() {
            let manifest = wanted.beside.manifest(manifest.digest).await?;
            table = serde_json::from_slice::<DocumentText>(&manifest)?.table_of(wanted);
        }
    }
    let (digest, size) = table.ok_or(Fault::Format("the image of its tables has none of this layer"))?;
    if size > TOC_PACKED_BYTES_MAX {
        return Err(Fault::TooLarge(TOC_PACKED_BYTES_MAX));
    }
    Ok(check(wanted.beside.blob(digest, size).await?, &digest)?.into_inner())
}

impl DocumentText {
    fn table_of(&self, wanted: &Wanted<'_>) -> Option<(Digest, u64)> {
        let layer = wanted.layer.digest.to_string();
        let table = self.layers.iter().find(|table| table.annotations.get(LAYER_DIGEST) == Some(&layer))?;
        Some((table.digest, table.size))
    }
}
