//! The scan: the one streaming pass over a layer that has no index. It fetches, verifies, unpacks, fills the data file
//! and builds tree and frames.
//!
//! One task fetches; three threads  do the rest, so that both cores of a small machine have work and a
//! slow disk or network holds up only itself. What a scan holds in memory besides the draft of the tree is bounded
//! whatever the layer's size: about 1 MiB of fetched bytes, 4 MiB of fetched bytes to be hashed, 4 MiB of tar, 1 MiB of
//! windows; and for zstd the blob's own window, usually 8 MiB and at most 128.
//!
//! Nothing counts until [`Verified`] exists: the files of a failed scan are worthless and their maker deletes them.
//! What is written is not durable yet either; that is the store's to see to.

use std::fs::File;
use std::sync::atomic::AtomicU64;

use serde::{Deserialize, Serialize};

use crate::index::frames::Heading;
use crate::index::tree::write::Written;

/// The three files of a layer, made empty by the store in a place where nobody looks for layers.
#[derive(Debug)]
pub struct Parts {
    pub data: File,
    pub tree: File,
    pub frames: File,
}

/// What a layer may be at most. A layer beyond is refused while it streams by, before it does harm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of the unpacked tar. The default, 64 GiB, is six times the largest layer found in the wild (model weights).
    pub data_bytes_max: u64,
    /// How many times its blob's size a layer may unpack to. Programs and texts reach 3 to 10, sparse databases 100;
    /// gzip's own limit is 1032.
    pub ratio_max: u64,
    /// Up to this size the ratio is not looked at, so that a small blob may hold a large file of zeros.
    pub ratio_from_bytes: u64,
    /// Names in the layer. The draft of the tree takes some 300 bytes of memory for each while the scan lasts.
    pub inodes_max: u32,
}

/// How far a scan has come, for whoever shows it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of the blob that arrived.
    pub fetched: AtomicU64,
    /// Bytes of the tar that were unpacked.
    pub data: AtomicU64,
}

/// Proof that a layer was scanned to its end and both digests matched. Only [`scan`] makes one.
#[derive(Debug)]
pub struct Verified {
    heading: Heading,
    tree: Written,
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self { data_bytes_max: 64 << 30, ratio_max: 200, ratio_from_bytes: 256 << 20, inodes_max: 10_000_000 }
    }
}

// === impl Verified ===

impl Verified {
    pub fn heading(&self) -> &Heading {
        &self.heading
    }

    pub fn tree(&self) -> &Written {
        &self.tree
    }
}
