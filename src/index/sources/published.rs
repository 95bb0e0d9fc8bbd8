//! oncefs's own index, as another node has published it (`index/published.rs`): named by the layer's annotations, or found among
//! what refers to the image: signed with a key that is believed here, or, where that is wanted, by anybody.

use futures::future::BoxFuture;

use super::{Beliefs, Contents, Fault, Source, Wanted, aside};
use crate::blob::{Layered, Referrer};
use crate::digest::{Digest, check};
use crate::index::frames::{Bond, IndexSource};
use crate::index::published::artifact::{ARTIFACT_TYPE, Artifact, BOUND_DIGEST, BOUND_SIZE, Listed, key_of};
use crate::index::published::{PACKED_BYTES_MAX, unpack};

pub(super) struct Published;

/// More of one kind are somebody's attempt to keep us busy.
const CANDIDATES_MAX: usize = 4;

impl Source for Published {
    fn kind(&self) -> IndexSource {
        IndexSource::Published
    }

    fn bound_by(&self, layer: &Layered) -> Option<Digest> {
        let _must_be_there: u64 = layer.annotations.get(BOUND_SIZE)?.parse().ok()?;
        layer.annotations.get(BOUND_DIGEST)?.parse().ok()
    }

    fn read<'a>(&'a self, wanted: &'a Wanted<'a>, bound_by: Digest) -> BoxFuture<'a, Result<Option<Contents>, Fault>> {
        Box::pin(async move {
            let layer = wanted.layer;
            let size = layer.annotations.get(BOUND_SIZE).and_then(|size| size.parse().ok()).unwrap_or(u64::MAX);
            read(wanted, &Listed { layer: layer.digest, digest: bound_by, size }).await.map(Some)
        })
    }
}

/// oncefs's artifacts among what refers to an image: those first that a key of ours is said to have signed, and then, if they are
/// wanted, the others.
pub fn candidates<'a>(referrers: &'a [Referrer], beliefs: &Beliefs<'a>) -> impl Iterator<Item = &'a Referrer> {
    let (keys, with_others) = (beliefs.keys, beliefs.unsigned.is_some());
    let names_key = move |one: &&Referrer| key_of(&one.annotations, keys).is_some();
    let ours = move || referrers.iter().filter(|one| one.artifact_type == ARTIFACT_TYPE);
    let others = ours().filter(move |one| with_others && !names_key(one)).take(CANDIDATES_MAX);
    ours().filter(names_key).take(CANDIDATES_MAX).chain(others)
}

/// The layer's index among what refers to the image: one that a key has signed before those that nobody has.
pub(super) async fn beside_image(
    wanted: &Wanted<'_>,
    beliefs: &Beliefs<'_>,
) -> Result<Option<(Contents, Bond)>, Fault> {
    let referrers = wanted.beside.referrers().await?;
    let mut last = None;
    for one in candidates(&referrers, beliefs) {
        match candidate(wanted, beliefs, one.digest).await {
            Ok(None) => {}
            Ok(found) => return Ok(found),
            Err(fault) => last = Some(fault),
        }
    }
    last.map_or(Ok(None), Err)
}

async fn candidate(
    wanted: &Wanted<'_>,
    beliefs: &Beliefs<'_>,
    artifact: Digest,
) -> Result<Option<(Contents, Bond)>, Fault> {
    let artifact = Artifact::read(&wanted.beside.manifest(artifact).await?);
    let artifact = artifact.ok_or(Fault::Format("what refers to the image is no index"))?;
    let bond = match (artifact.signer(beliefs.keys), beliefs.unsigned) {
        (Some(key), _) => Bond::Signature(key.id()),
        (None, Some(image)) => Bond::Referrer(image),
        (None, None) => return Err(Fault::Format("its signature is not that of the key it names")),
    };
    match artifact.indexes().find(|index| index.layer == wanted.layer.digest) {
        Some(index) => Ok(Some((read(wanted, &index).await?, bond))),
        None => Ok(None),
    }
}

async fn read(wanted: &Wanted<'_>, index: &Listed) -> Result<Contents, Fault> {
    if index.size > PACKED_BYTES_MAX {
        return Err(Fault::TooLarge(PACKED_BYTES_MAX));
    }
    let packed = check(wanted.beside.blob(index.digest, index.size).await?, &index.digest)?;
    let (layer, limits) = (wanted.layer.clone(), wanted.limits.clone());
    aside(move || unpack(packed.get(), &layer, &limits)).await
}
