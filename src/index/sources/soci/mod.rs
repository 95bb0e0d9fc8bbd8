//! SOCI (soci-snapshotter, docs/soci-index-manifest-v2.md): an index beside the image, which the image's manifest names; in
//! version 1 the index names the image, and nothing binds it. It is a manifest whose layers are ztocs, one for each of the image's
//! layers that is worth it, and what else it says of them.

mod flat;
mod prefetch;
mod ztoc;

use futures::future::BoxFuture;
use serde::Deserialize;

use super::{Contents, Fault, Source, Wanted, aside};
use crate::blob::Layered;
use crate::digest::{Digest, LayerDigest, check};
use crate::index::frames::IndexSource;

#[doc(hidden)] // for fuzzing
pub use ztoc::{Ztoc, read_ztoc};

use prefetch::{is_prefetch, wanted_first};

pub(super) struct Soci;

/// What the image's manifest calls its index, kept with each of its layers.
const INDEX_DIGEST: &str = "com.amazon.soci.index-digest";
/// What an index is that refers to the image.
const VERSION_1: &str = "application/vnd.amazon.soci.index.v1+json";
/// What the index calls the layer that a ztoc is of.
const LAYER_DIGEST: &str = "com.amazon.soci.image-layer-digest";

/// Some 1 % of the tar: enough for layers of 12 GB.
const ZTOC_BYTES_MAX: u64 = 128 << 20;

/// What of the index manifest matters.
#[derive(Deserialize)]
struct IndexText {
    layers: Vec<AboutLayer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AboutLayer {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

impl Source for Soci {
    fn kind(&self) -> IndexSource {
        IndexSource::Soci
    }

    fn bound_by(&self, layer: &Layered) -> Option<Digest> {
        layer.annotations.get(INDEX_DIGEST)?.parse().ok()
    }

    fn read<'a>(&'a self, wanted: &'a Wanted<'a>, bound_by: Digest) -> BoxFuture<'a, Result<Option<Contents>, Fault>> {
        Box::pin(read_index(wanted, bound_by))
    }
}

/// What version 1 has about the image: the first such index that its registry lists, as the format's own programs do.
pub(super) async fn beside_image(wanted: &Wanted<'_>) -> Result<Option<Contents>, Fault> {
    let referrers = wanted.beside.referrers().await?;
    match referrers.iter().find(|one| one.artifact_type == VERSION_1) {
        Some(index) => read_index(wanted, index.digest).await,
        None => Ok(None),
    }
}

async fn read_index(wanted: &Wanted<'_>, index: Digest) -> Result<Option<Contents>, Fault> {
    let layer = wanted.layer;
    let index: IndexText = serde_json::from_slice(&wanted.beside.manifest(index).await?)?;
    // Small layers are left out, and those that are no gzip.
    let ztoc = index.of_layer(layer.digest, |media_type| !is_prefetch(media_type)).next();
    let Some((digest, size)) = ztoc else { return Ok(None) };
    if size > ZTOC_BYTES_MAX {
        return Err(Fault::TooLarge(ZTOC_BYTES_MAX));
    }
    let bytes = check(wanted.beside.blob(digest, size).await?, &digest)?;
    let (blob_bytes, limits) = (layer.size, wanted.limits.clone());
    let mut ztoc = aside(move || read_ztoc(bytes.get(), blob_bytes, &limits)).await?;
    if ztoc.assumes_short_header {
        check_header(wanted).await?;
    }
    ztoc.contents.wanted_first = wanted_first(wanted, &index, &ztoc.frames_before).await;
    Ok(Some(ztoc.contents))
}

impl IndexText {
    /// Digest and size of what the index has of this kind about the layer.
    fn of_layer(&self, layer: LayerDigest, kind: fn(&str) -> bool) -> impl Iterator<Item = (Digest, u64)> {
        let layer = layer.to_string();
        let is_meant = move |about: &&AboutLayer| {
            kind(&about.media_type) && about.annotations.get(LAYER_DIGEST).is_some_and(|name| *name == layer)
        };
        self.layers.iter().filter(is_meant).map(|about| (about.digest, about.size))
    }
}

/// That the blob begins with a gzip header that has no field more than all have.
async fn check_header(wanted: &Wanted<'_>) -> Result<(), Fault> {
    let head = wanted.blob.range(0..wanted.layer.size.min(4)).await?;
    match head.as_ref() {
        [0x1f, 0x8b, 8, 0] => Ok(()),
        _ => Err(Fault::Format("its ztoc is of a version that expects another gzip header than the blob has")),
    }
}
