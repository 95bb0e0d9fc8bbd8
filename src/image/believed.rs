//! Which indexes that were not made here are believed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Image;
use super::publishing::Publish;
use crate::blob::Layered;
use crate::digest::Digest;
use crate::index::frames::{Bond, Heading, IndexSource};
use crate::index::published::signature::PublicKey;
use crate::index::sources::{self, Beliefs, Binding};
use crate::sync::Arc;

/// What a user may set about indexes: those that others have made, and those that are made for others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IndexConfig {
    pub trust: Trust,
    /// Whose signatures of published indexes are believed.
    pub keys: Vec<PublicKey>,
    /// Whether what a scan here finds out is published by itself.
    pub publish: Publish,
    /// An Ed25519 private key in PEM: what is published by itself is signed with it.
    pub signing_key: Option<PathBuf>,
}

/// Which indexes are used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trust {
    /// None but this node's own: every layer is scanned.
    None,
    /// Those that a digest in the image's manifest covers, and published ones that a key of the configuration has signed.
    #[default]
    Bound,
    /// The same; and all of a layer is compared with its index in the background.
    Registry,
}

/// What the configuration says of it. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Believed {
    trust: Trust,
    keys: Arc<[PublicKey]>,
}

impl Believed {
    pub(super) fn new(config: &IndexConfig) -> Self {
        Self { trust: config.trust, keys: config.keys.clone().into() }
    }

    pub(super) fn keys(&self) -> &[PublicKey] {
        &self.keys
    }

    /// What is believed of indexes that lie beside the image.
    pub(super) fn beside(&self, image: &Image) -> Beliefs<'_> {
        Beliefs { keys: &self.keys, unsigned: (self.trust == Trust::Registry).then(|| called(image)) }
    }

    /// Whether the content of layers is compared with their indexes, in the background.
    pub(super) fn compares_content(&self) -> bool {
        self.trust == Trust::Registry
    }

    /// The index that may come to be used for the image's layer, if it is not scanned: the one that the manifest binds, or else
    /// one beside the image. What a key of ours says of a layer counts for all images that have it; what nobody vouches for
    /// counts for the image that it lies beside: who puts something there need not be believed of another's layers.
    pub(super) fn binding(&self, image: &Image, layer: &Layered) -> Option<Binding> {
        let beside = || match self.trust {
            Trust::Registry => Some(Binding::Referrer(called(image))),
            _ => (!self.keys.is_empty()).then_some(Binding::Signature),
        };
        match self.trust {
            Trust::None => None,
            Trust::Bound | Trust::Registry => sources::binding(layer).or_else(beside),
        }
    }

    /// Whether an index of this heading is the one that is used for the image's layer.
    pub(super) fn believes(&self, heading: &Heading, image: &Image, layer: &Layered) -> bool {
        let source = heading.index_source;
        let is_signed = |bond| match bond {
            Bond::Signature(key) => source == IndexSource::Published && self.keys.iter().any(|one| one.id() == key),
            Bond::Manifest(_) | Bond::Referrer(_) => false,
        };
        let is_it = |bond| match self.binding(image, layer) {
            Some(Binding::Manifest(kind, digest)) => kind == source && bond == Bond::Manifest(digest),
            Some(Binding::Signature) => is_signed(bond),
            Some(Binding::Referrer(image)) => bond == Bond::Referrer(image) || is_signed(bond),
            None => false,
        };
        heading.bond.is_some_and(is_it) && heading.diff_id == layer.diff_id
    }
}

/// What the image is called in headings: its manifest in this very place, as others may put other things beside it elsewhere.
fn called(image: &Image) -> Digest {
    Digest::of(format!("{} {}", image.manifest_digest, image.origin).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::Origin;
    use crate::digest::{DiffId, LayerDigest};

    fn image(repository: &str, manifest: &[u8]) -> Image {
        Image {
            reference: String::new(),
            platform: String::new(),
            manifest_digest: Digest::of(manifest),
            media_type: String::new(),
            layers: Vec::new(),
            origin: Origin(format!("docker://registry.example/{repository}")),
            config: Vec::new(),
            remembered: false,
        }
    }

    fn layer() -> Layered {
        Layered {
            digest: LayerDigest(Digest::of(b"layer")),
            diff_id: DiffId(Digest::of(b"tar")),
            size: 7,
            media_type: String::new(),
            annotations: Default::default(),
        }
    }

    fn heading(bond: Bond) -> Heading {
        let Layered { digest, diff_id, size, .. } = layer();
        let index_source = IndexSource::Published;
        Heading { layer: digest, diff_id, blob_bytes: size, data_bytes: 512, index_source, bond: Some(bond) }
    }

    #[test]
    fn what_nobody_vouches_for_counts_for_the_image_it_lies_beside_and_where_registries_are_trusted() {
        let key: PublicKey = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=".parse().unwrap();
        let ours = image("app", b"manifest");
        let unsigned = heading(Bond::Referrer(called(&ours)));
        let signed = heading(Bond::Signature(key.id()));
        let believed = |trust, keys: &[PublicKey]| {
            Believed::new(&IndexConfig { trust, keys: keys.to_vec(), ..IndexConfig::default() })
        };
        let registry = believed(Trust::Registry, &[]);
        assert!(registry.believes(&unsigned, &ours, &layer()));
        for other in [image("app", b"another"), image("attacker/app", b"manifest")] {
            assert!(!registry.believes(&unsigned, &other, &layer()), "{other:?}");
        }
        assert!(!registry.believes(&signed, &ours, &layer()), "no key of ours");
        let other = Layered { diff_id: DiffId(Digest::of(b"another")), ..layer() };
        assert!(!registry.believes(&unsigned, &ours, &other));
        for trust in [Trust::Bound, Trust::Registry] {
            let with_key = believed(trust, std::slice::from_ref(&key));
            assert!(with_key.believes(&signed, &image("elsewhere", b"another"), &layer()));
            assert_eq!(with_key.believes(&unsigned, &ours, &layer()), trust == Trust::Registry);
        }
        assert!(!believed(Trust::None, &[key]).believes(&signed, &ours, &layer()));
    }
}
