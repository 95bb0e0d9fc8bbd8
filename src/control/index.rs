//! What is said of indexes that are published.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, LayerDigest};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexCall {
    pub image: String,
    pub platform: Option<String>,
    pub action: IndexAction,
}

/// What is done with an image's published indexes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IndexAction {
    /// One is made and pushed, signed with the key in this file if there is one.
    Push {
        sign: Option<PathBuf>,
    },
    /// The image is pushed under a new name, with a manifest that binds its layers to their indexes.
    Convert {
        to: String,
        sign: Option<PathBuf>,
        /// Also where something has that name.
        #[serde(default)]
        force: bool,
    },
    List,
    /// They are compared with what a scan here says.
    Verify,
    /// All of them are taken away, or this one.
    Remove {
        digest: Option<Digest>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexSummary {
    pub reference: String,
    pub platform: String,
    pub manifest_digest: Digest,
    /// Bytes of all its layers' blobs.
    pub image_bytes: u64,
    pub indexes: Vec<IndexReport>,
}

/// One published index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexReport {
    /// Of its manifest.
    pub digest: Digest,
    pub layers: Vec<IndexLayer>,
    /// Bytes of the profile of the image's starts, if it has come along.
    pub profile_bytes: Option<u64>,
    /// The public key of the configuration that has signed it.
    pub signed_by: Option<String>,
    /// If it is none of those: what the index says of the key it is signed with, its digest. Nobody has looked whether that is so.
    #[serde(default)]
    pub unknown_key: Option<Digest>,
    /// After verifying: what is wrong with it, one sentence each; after removing: why it is not gone.
    pub problems: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexLayer {
    pub layer: LayerDigest,
    pub size: u64,
}

// === impl IndexReport ===

impl IndexReport {
    /// Bytes of all its blobs.
    pub fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }
}
