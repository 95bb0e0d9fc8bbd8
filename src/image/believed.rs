//! Which indexes that were not made here are believed.

use super::{IndexConfig, Trust};
use crate::blob::Layered;
use crate::index::frames::Heading;
use crate::index::published::signature::PublicKey;
use crate::index::sources::{self, Binding, Bond};
use crate::sync::Arc;

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

    /// Whether the content of layers is compared with their indexes, in the background.
    pub(super) fn compares_content(&self) -> bool {
        self.trust == Trust::Registry
    }

    /// The index that may come to be used for the layer, if it is not scanned: the one that the manifest binds, or else any that
    /// is signed. What a key of ours says of a layer counts for all images that have it.
    pub(super) fn binding(&self, layer: &Layered) -> Option<Binding> {
        match self.trust {
            Trust::None => None,
            Trust::Bound | Trust::Registry => {
                sources::binding(layer).or_else(|| (!self.keys.is_empty()).then_some(sources::SIGNED))
            }
        }
    }

    /// Whether an index of this heading is the one that is used for the layer.
    pub(super) fn believes(&self, heading: &Heading, layer: &Layered) -> bool {
        let Some(Binding { source, bond }) = self.binding(layer) else { return false };
        let is_it = match bond {
            Bond::Manifest(digest) => heading.bound_by == Some(digest),
            Bond::Signature => self.keys.iter().any(|key| heading.bound_by == Some(key.id())),
        };
        is_it && heading.index_source == source && heading.diff_id == layer.diff_id
    }
}
