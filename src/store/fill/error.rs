//! Why a frame could not be filled, said so that people know whom to turn to.

use std::io;

use crate::blob::BlobError;
use crate::digest::{LayerDigest, Mismatch};
use crate::index::codec::DecodeError;
use crate::index::frames::FramesError;
use crate::store::layer::Layer;
use crate::sync::Arc;

/// Why frames could not be made resident. The layer stays as it was, and the next call tries again.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FillError {
    #[error(
        "bytes of layer {layer} are needed that are not on disk, and no image says where to fetch them: pull one that has it"
    )]
    NoOrigin { layer: LayerDigest },
    #[error("cannot fetch bytes of layer {layer}")]
    Blob { layer: LayerDigest, source: BlobError },
    #[error("cannot unpack frame {frame} of layer {layer}")]
    Decode { layer: LayerDigest, frame: u32, source: Arc<DecodeError> },
    #[error("frame {frame} of layer {layer} is not what its index says; its source sends other bytes")]
    Mismatch { layer: LayerDigest, frame: u32, source: Mismatch },
    #[error("the disk is full: frame {frame} of layer {layer} cannot be kept; free some space")]
    Full { layer: LayerDigest, frame: u32, source: Arc<io::Error> },
    #[error("cannot write frame {frame} of layer {layer}")]
    Io { layer: LayerDigest, frame: u32, source: Arc<io::Error> },
    #[error("the index of layer {layer} cannot be used; `oncefs check --repair` removes it, and it is made again")]
    Index { layer: LayerDigest, source: Arc<FramesError> },
    #[error("layer {layer} is quarantined: its index was found to be wrong; mount the image anew")]
    Quarantined { layer: LayerDigest },
    #[error("oncefs is stopping")]
    Stopping,
}

// === impl FillError ===

impl FillError {
    /// Whether what came was not the layer's.
    pub(in crate::store) fn is_of_bytes(&self) -> bool {
        matches!(self, Self::Decode { .. } | Self::Mismatch { .. })
    }
}

// === impl Layer ===

impl Layer {
    pub(in crate::store) fn index_error(&self, error: FramesError) -> FillError {
        FillError::Index { layer: self.digest(), source: Arc::new(error) }
    }

    pub(in crate::store) fn decode_error(&self, frame: u32, error: DecodeError) -> FillError {
        match error {
            DecodeError::Write(error) => self.write_error(frame, error),
            other => FillError::Decode { layer: self.digest(), frame, source: Arc::new(other) },
        }
    }

    pub(in crate::store) fn mismatch(&self, frame: u32, source: Mismatch) -> FillError {
        FillError::Mismatch { layer: self.digest(), frame, source }
    }

    /// What is not kept must pass through memory, and this frame is too large for that.
    pub(in crate::store) fn no_room(&self, frame: u32) -> FillError {
        let cause = "the cache is full of what may not go; make max_bytes in [cache] larger, or unpin an image";
        let source = Arc::new(io::Error::new(io::ErrorKind::StorageFull, cause));
        FillError::Full { layer: self.digest(), frame, source }
    }

    pub(in crate::store) fn write_error(&self, frame: u32, error: io::Error) -> FillError {
        let (layer, kind, source) = (self.digest(), error.kind(), Arc::new(error));
        match kind {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FillError::Full { layer, frame, source },
            _ => FillError::Io { layer, frame, source },
        }
    }
}
