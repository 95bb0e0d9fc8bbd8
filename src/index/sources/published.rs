//! oncefs's own index, as another node has published it (`index/published.rs`): named by the layer's annotations, or found among
//! what refers to the image and signed with a key that is believed here.

use futures::future::BoxFuture;

use super::{Contents, Fault, Source, Wanted, aside};
use crate::blob::Layered;
use crate::digest::{Digest, check};
use crate::index::frames::IndexSource;
use crate::index::published::artifact::{ARTIFACT_TYPE, Artifact, BOUND_DIGEST, BOUND_SIZE, Listed, key_of};
use crate::index::published::signature::PublicKey;
use crate::index::published::{PACKED_BYTES_MAX, unpack};

pub(super) struct Published;

/// More that claim to be signed with a key of ours are somebody's attempt to keep us busy.
const CANDIDATES_MAX: usize = 4;

impl Source for Published {
    fn kind(&self) -> IndexSource {
        IndexSource::Published
    }

    fn bound_by(&self, layer: &Layered) -> Option<Digest> {
        let _must_be_there: u64 = layer.annotations.get(BOUND_SIZE)?.parse().ok()?;
        layer.annotations.get(BOUND_DIGEST)?.parse().ok()
    }

    fn read<'a>(&'a self, wanted: &'a Wanted<'a>) -> BoxFuture<'a, Result<Option<Contents>, Fault>> {
        Box::pin(async move {
            let layer = wanted.layer;
            let size = layer.annotations.get(BOUND_SIZE).and_then(|size| size.parse().ok()).unwrap_or(u64::MAX);
            read(wanted, &Listed { layer: layer.digest, digest: wanted.bound_by, size }).await.map(Some)
        })
    }
}

/// The layer's index that one of these keys has signed, and that key's name.
pub(super) async fn signed(wanted: &Wanted<'_>, keys: &[PublicKey]) -> Result<Option<(Contents, Digest)>, Fault> {
    let mut last = None;
    let referrers = wanted.beside.referrers().await?;
    let ours = referrers.iter().filter(|one| one.artifact_type == ARTIFACT_TYPE);
    for candidate in ours.filter(|one| key_of(&one.annotations, keys).is_some()).take(CANDIDATES_MAX) {
        let found = async {
            let Some(artifact) = Artifact::read(&wanted.beside.manifest(candidate.digest).await?) else {
                return Err(Fault::Format("what refers to the image is no index"));
            };
            let key = artifact.signer(keys).ok_or(Fault::Format("its signature is not that of the key it names"))?;
            match artifact.indexes().find(|index| index.layer == wanted.layer.digest) {
                Some(index) => Ok(Some((read(wanted, &index).await?, key.id()))),
                None => Ok(None),
            }
        };
        match found.await {
            Ok(Some(found)) => return Ok(Some(found)),
            Ok(None) => {}
            Err(fault) => last = Some(fault),
        }
    }
    last.map_or(Ok(None), Err)
}

async fn read(wanted: &Wanted<'_>, index: &Listed) -> Result<Contents, Fault> {
    if index.size > PACKED_BYTES_MAX {
        return Err(Fault::TooLarge(PACKED_BYTES_MAX));
    }
    let packed = check(wanted.beside.blob(index.digest, index.size).await?, &index.digest)?;
    let (layer, limits) = (wanted.layer.clone(), wanted.limits.clone());
    aside(move || unpack(packed.get(), &layer, &limits)).await
}
