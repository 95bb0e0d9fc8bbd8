//! The artifact that holds the indexes of an image's layers: an OCI image manifest about the image's own, with a blob for each
//! layer. Blobs of other kinds may be in it too, such as the profile of the image's starts; who does not know one passes over it.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::signature::{PublicKey, SigningKey};
use crate::digest::{Digest, LayerDigest};

pub const ARTIFACT_TYPE: &str = "application/vnd.oncefs.index.v1+json";
/// Of a blob that [`super::pack`] has made.
pub const LAYER_TYPE: &str = "application/vnd.oncefs.index.layer.v1+zstd";

/// Of the profile of the image's starts. It is advice, and no signature covers it.
pub const PROFILE_TYPE: &str = "application/vnd.oncefs.profile.v1";

/// Of a layer's index: the layer.
const LAYER: &str = "vnd.oncefs.index.layer";
/// Of the artifact: who signed it, and the signature.
const KEY: &str = "vnd.oncefs.index.key";
const SIGNATURE: &str = "vnd.oncefs.index.signature";
/// Of a layer in an image's manifest: the index that it is bound to.
pub const BOUND_DIGEST: &str = "vnd.oncefs.index.digest";
pub const BOUND_SIZE: &str = "vnd.oncefs.index.size";

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
/// What an artifact has in place of a config (image-spec, "Guidance for an Empty Descriptor").
pub const EMPTY: Bytes = Bytes::from_static(b"{}");

/// As much of an artifact as oncefs reads.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Artifact {
    schema_version: u32,
    media_type: String,
    artifact_type: String,
    config: Descriptor,
    layers: Vec<Descriptor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

/// The index of one layer within an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    pub layer: LayerDigest,
    pub digest: Digest,
    pub size: u64,
}

/// The profile of an image's starts within an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedProfile {
    pub digest: Digest,
    pub size: u64,
}

/// What an artifact is about.
#[derive(Debug, Clone)]
pub struct Subject {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
}

// === impl Artifact ===

impl Artifact {
    /// Of these indexes, signed if there is a key.
    pub fn new(
        subject: &Subject,
        indexes: &[Listed],
        profile: Option<&ListedProfile>,
        key: Option<&SigningKey>,
    ) -> Self {
        let layers = indexes.iter().map(|index| Descriptor {
            annotations: [(LAYER.to_owned(), index.layer.to_string())].into(),
            ..Descriptor::new(LAYER_TYPE, index.digest, index.size)
        });
        let profile = profile.map(|profile| Descriptor::new(PROFILE_TYPE, profile.digest, profile.size));
        let subject = Descriptor::new(&subject.media_type, subject.digest, subject.size);
        let mut artifact = Self {
            schema_version: 2,
            media_type: MANIFEST_TYPE.to_owned(),
            artifact_type: ARTIFACT_TYPE.to_owned(),
            config: Descriptor::new(EMPTY_TYPE, Digest::of(&EMPTY), EMPTY.len() as u64),
            layers: layers.chain(profile).collect(),
            subject: Some(subject),
            annotations: BTreeMap::new(),
        };
        if let Some((key, public)) = key.and_then(|key| Some((key, key.public()?))) {
            let signature = key.sign(&artifact.signed());
            artifact.annotations.insert(KEY.to_owned(), public.id().to_string());
            artifact.annotations.insert(SIGNATURE.to_owned(), STANDARD.encode(signature));
        }
        artifact
    }

    /// Reads one; `None` for what is none.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let artifact: Self = serde_json::from_slice(bytes).ok()?;
        (artifact.artifact_type == ARTIFACT_TYPE).then_some(artifact)
    }

    pub fn bytes(&self) -> Bytes {
        serde_json::to_vec(self).unwrap_or_default().into() // of strings and numbers alone
    }

    pub fn annotations(&self) -> &BTreeMap<String, String> {
        &self.annotations
    }

    /// The layers' indexes, in the order of the artifact.
    pub fn indexes(&self) -> impl Iterator<Item = Listed> {
        self.layers.iter().filter(|blob| blob.media_type == LAYER_TYPE).filter_map(|blob| {
            let layer = blob.annotations.get(LAYER)?.parse().ok()?;
            Some(Listed { layer: LayerDigest(layer), digest: blob.digest, size: blob.size })
        })
    }

    /// The profile of the image's starts, if it has come along.
    pub fn profile(&self) -> Option<ListedProfile> {
        let blob = self.layers.iter().find(|blob| blob.media_type == PROFILE_TYPE)?;
        Some(ListedProfile { digest: blob.digest, size: blob.size })
    }

    /// The digest of the key that it says it is signed with.
    pub fn claimed_key(&self) -> Option<Digest> {
        self.annotations.get(KEY)?.parse().ok()
    }

    /// Who of these has signed it.
    pub fn signer<'a>(&self, keys: &'a [PublicKey]) -> Option<&'a PublicKey> {
        let key = key_of(&self.annotations, keys)?;
        let signature = STANDARD.decode(self.annotations.get(SIGNATURE)?).ok()?;
        key.verifies(&self.signed(), &signature).then_some(key)
    }

    /// What a signature is of: which index is whose, and that in no other context.
    fn signed(&self) -> Vec<u8> {
        let lines = self.indexes().map(|index| format!("{} {} {}\n", index.layer, index.digest, index.size));
        std::iter::once(format!("{ARTIFACT_TYPE}\n")).chain(lines).collect::<String>().into_bytes()
    }
}

impl Descriptor {
    fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self { media_type: media_type.to_owned(), digest, size, annotations: BTreeMap::new() }
    }
}

/// The key that annotations claim to be signed with, if it is one of these. Registries show annotations before the artifact.
pub fn key_of<'a>(annotations: &BTreeMap<String, String>, keys: &'a [PublicKey]) -> Option<&'a PublicKey> {
    let id = annotations.get(KEY)?;
    keys.iter().find(|key| key.id().to_string() == *id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIMWqjfQ/n4N77bdELzHct7Fm04U1B28JS4XOOi4LRFj3\n-----END PRIVATE KEY-----\n";

    fn listed(n: u8) -> Listed {
        Listed { layer: LayerDigest(Digest::of(&[n])), digest: Digest::of(&[n, n]), size: n.into() }
    }

    #[test]
    fn a_signature_covers_which_index_is_whose_and_nothing_else() {
        let key = SigningKey::of_pem(PEM).unwrap();
        let keys = [key.public().unwrap()];
        let subject = Subject { media_type: MANIFEST_TYPE.to_owned(), digest: Digest::of(b"image"), size: 7 };
        let profile = ListedProfile { digest: Digest::of(b"profile"), size: 7 };
        let artifact = Artifact::new(&subject, &[listed(1), listed(2)], Some(&profile), Some(&key));
        let read = Artifact::read(&artifact.bytes()).unwrap();
        assert_eq!(read.bytes(), artifact.bytes());
        assert_eq!(read.indexes().collect::<Vec<_>>(), [listed(1), listed(2)]);
        assert_eq!((read.signer(&keys), read.profile()), (Some(&keys[0]), Some(profile)));
        assert_eq!((read.signer(&[]), read.claimed_key()), (None, Some(keys[0].id())));
        // Another image may have the same layers; blobs of other kinds may be added.
        let mut other = read.clone();
        other.subject = None;
        other.layers.retain(|blob| blob.media_type != PROFILE_TYPE);
        other.layers.push(Descriptor { media_type: "application/vnd.other".to_owned(), ..read.config.clone() });
        assert_eq!(other.signer(&keys), Some(&keys[0]));
        // Each part of what is signed counts.
        for change in [
            |artifact: &mut Artifact| artifact.layers[0].digest = Digest::of(b"x"),
            |artifact: &mut Artifact| artifact.layers[1].size += 1,
            |artifact: &mut Artifact| artifact.layers.swap(0, 1),
            |artifact: &mut Artifact| drop(artifact.layers.remove(1)),
            |artifact: &mut Artifact| {
                drop(artifact.layers[0].annotations.insert(LAYER.to_owned(), Digest::of(&[2]).to_string()))
            },
            |artifact: &mut Artifact| drop(artifact.annotations.insert(SIGNATURE.to_owned(), "AAAA".to_owned())),
        ] {
            let mut changed = read.clone();
            change(&mut changed);
            assert_eq!(changed.signer(&keys), None);
        }
        let unsigned = Artifact::new(&subject, &[listed(1)], None, None);
        assert_eq!((unsigned.signer(&keys), unsigned.claimed_key(), unsigned.profile()), (None, None, None));
        assert!(Artifact::read(b"{}").is_none());
    }
}
