//! What is said of the cache: how full it is, what stays, what goes.

use serde::{Deserialize, Serialize};

use crate::digest::LayerDigest;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PruneCall {
    /// Beside what nothing needs, content goes until no more than so many bytes are left.
    pub to_bytes: Option<u64>,
}

/// What went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneSummary {
    /// Layers that nothing needed, and the content that they held.
    pub layers: Vec<LayerDigest>,
    pub layer_bytes: u64,
    /// Of layers that stay.
    pub frames: u64,
    pub frame_bytes: u64,
    pub cache: CacheReport,
}

/// An image that was pinned, or unpinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinSummary {
    pub reference: String,
    pub platform: String,
    /// Content of its layers that is here, of those that are known; none for one that is unpinned.
    pub resident_bytes: Option<u64>,
    /// Whether it was pinned before.
    pub was_pinned: bool,
}

/// An image that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveSummary {
    pub reference: String,
    pub platform: String,
    /// Layers that went with it, and the content that they held.
    pub layers: Vec<LayerDigest>,
    pub layer_bytes: u64,
}

/// How full the cache is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheReport {
    /// Content on disk.
    pub used_bytes: u64,
    /// Its bound; 0 is without one.
    pub max_bytes: u64,
    /// Above this some goes, until no more than that is left.
    pub high_bytes: u64,
    pub low_bytes: u64,
    /// What went since the server started.
    pub evicted_frames: u64,
    pub evicted_bytes: u64,
    /// What was served without being kept since then.
    pub unkept_frames: u64,
    /// Pinned images, as in `docker.io/library/redis:7 linux/amd64`.
    pub pinned: Vec<String>,
}
