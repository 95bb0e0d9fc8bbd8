//! Why a scan failed, said so that a reader knows whom to turn to: the network, the image's builder or the disk.

use std::fmt;
use std::io;

use crate::blob::{BlobError, Layered};
use crate::digest::{DiffId, LayerDigest};
use crate::index::codec::DecodeError;
use crate::index::tar::TarError;
use crate::index::tree::draft::DraftError;
use crate::index::tree::write::WriteError;

/// Why a layer could not be scanned.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    #[error("layer {layer} cannot be fetched")]
    Blob {
        layer: LayerDigest,
        #[source]
        source: BlobError,
    },
    #[error("layer {layer} ended after {got} of {want} bytes: the registry or the network cut it short, try again")]
    TooShort { layer: LayerDigest, want: u64, got: u64 },
    #[error("layer {layer} is longer than the {want} bytes its manifest gives: the registry sends something else")]
    TooLong { layer: LayerDigest, want: u64 },
    /// `source` is how the damage showed, if it did before the end.
    #[error(
        "layer {layer} arrived with digest {got}: the registry or the network damaged it, try again or pull from elsewhere"
    )]
    BlobDigest {
        layer: LayerDigest,
        got: LayerDigest,
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    #[error(
        "layer {layer} unpacks to a tar with digest {got}, but the image's config says {want}: the image is wrong and \
         must be built or pushed again"
    )]
    DiffId { layer: LayerDigest, want: DiffId, got: DiffId },
    #[error("layer {layer} is what its digest says, but cannot be unpacked: the image must be built again")]
    Decode {
        layer: LayerDigest,
        #[source]
        source: DecodeError,
    },
    #[error("layer {layer} is what its digest says, but not a tar that can be used: the image must be built again")]
    Tar {
        layer: LayerDigest,
        #[source]
        source: TarError,
    },
    #[error("layer {layer} takes more than a layer may here; raise {setting} in [scan.limits] if you trust the image")]
    Limit {
        layer: LayerDigest,
        setting: &'static str,
        #[source]
        source: TarError,
    },
    #[error("the files of layer {layer} make no tree")]
    Draft {
        layer: LayerDigest,
        #[source]
        source: DraftError,
    },
    #[error("the tree of layer {layer} cannot be made")]
    Tree {
        layer: LayerDigest,
        #[source]
        source: WriteError,
    },
    #[error(
        "layer {layer} unpacks to more than {max} bytes, the limit data_bytes_max; raise it in [scan.limits] if you \
         trust the image"
    )]
    TooLarge { layer: LayerDigest, max: u64 },
    #[error(
        "layer {layer} unpacks to more than {ratio_max} times its {blob_bytes} bytes, as only a bomb should; raise \
         ratio_max in [scan.limits] if you trust the image"
    )]
    Ratio { layer: LayerDigest, blob_bytes: u64, ratio_max: u64 },
    #[error("layer {layer}: its {part} cannot be written; {}", remedy(.source))]
    Disk {
        layer: LayerDigest,
        part: Part,
        #[source]
        source: io::Error,
    },
    #[error("layer {layer}: no more threads can be started")]
    Threads {
        layer: LayerDigest,
        #[source]
        source: io::Error,
    },
    #[error("the scan of layer {layer} was stopped")]
    Stopped { layer: LayerDigest },
}

/// What was being written when the disk failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Staging,
    Data,
    Tree,
    Frames,
}

// === impl ScanError ===

impl ScanError {
    pub(super) fn disk(layer: &Layered, part: Part, source: io::Error) -> Self {
        Self::Disk { layer: layer.digest, part, source }
    }

    /// A tar that would do elsewhere is not to be built again.
    pub(super) fn tar(layer: LayerDigest, source: TarError) -> Self {
        match source.fault.setting() {
            Some(setting) => Self::Limit { layer, setting, source },
            None => Self::Tar { layer, source },
        }
    }
}

impl ScanError {
    /// Whether it was the place the bytes came from that failed, and not the layer.
    pub fn is_of_the_place(&self) -> bool {
        match self {
            Self::TooShort { .. } | Self::TooLong { .. } | Self::BlobDigest { .. } => true,
            Self::Blob { source, .. } => matches!(source, BlobError::Size { .. }),
            _ => false,
        }
    }

    /// What was seen of the damage, without what would be true of a blob that is what its digest says.
    pub(super) fn into_damage(self) -> Box<dyn std::error::Error + Send + Sync> {
        match self {
            Self::Decode { source, .. } => Box::new(source),
            Self::Tar { source, .. } | Self::Limit { source, .. } => Box::new(source),
            Self::Draft { source, .. } => Box::new(source),
            other => Box::new(other),
        }
    }

    /// A tree that cannot be written is a full disk more often than a tree that cannot be.
    pub(super) fn tree(layer: &Layered, source: WriteError) -> Self {
        match source {
            WriteError::Io(source) => Self::disk(layer, Part::Tree, source),
            source => Self::Tree { layer: layer.digest, source },
        }
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "a scan keeps all of the unpacked layer: free space on the store's disk, or put the store (--root) on a larger one"
        }
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => "the store must be writable",
        io::ErrorKind::FileTooLarge => "the store's file system, or a limit of this process, holds no file so large",
        _ => "look at the store's disk (dmesg)",
    }
}

// === impl Part ===

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Staging => "staging files",
            Self::Data => "data",
            Self::Tree => "tree",
            Self::Frames => "frames",
        })
    }
}
