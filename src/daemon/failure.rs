//! The edge where errors become what a program is told: a kind for its exit code, and one line for people.

use std::error::Error;

use crate::blob::BlobError;
use crate::config::ConfigError;
use crate::control::{Failure, FailureKind};
use crate::errors::with_causes;
use crate::fuse::SessionError;
use crate::image::{ImageError, ImageFailed, LayerError, PublishError, RemoveError};
use crate::index::scan::ScanError;
use crate::registry::RegistryError;
use crate::snapshotter::{CompareError, SnapshotError};
use crate::store::{FillError, StoreError};

pub fn of_config(error: &ConfigError) -> Failure {
    failure(FailureKind::Usage, error)
}

pub(super) fn of_store(error: &StoreError) -> Failure {
    failure(FailureKind::Store, error)
}

pub(super) fn of_snapshots(error: &SnapshotError) -> Failure {
    failure(FailureKind::Store, error)
}

pub(super) fn of_compare(error: &CompareError) -> Failure {
    failure(FailureKind::Other, error)
}

pub(super) fn of_registry(error: &RegistryError) -> Failure {
    failure(registry_kind(error), error)
}

pub(super) fn of_publish(error: &PublishError) -> Failure {
    let kind = match error {
        PublishError::Registry(error) => registry_kind(error),
        PublishError::Image(error) => image_kind(error.cause()),
        PublishError::Store(_) | PublishError::Pack { .. } => FailureKind::Store,
        PublishError::NoTag | PublishError::Itself(_) | PublishError::Taken(_) => FailureKind::Usage,
        PublishError::Manifest => FailureKind::Corrupt,
        PublishError::NoLayers | PublishError::Key { .. } | PublishError::KeyFile { .. } | PublishError::Stopping => {
            FailureKind::Other
        }
    };
    failure(kind, error)
}

pub(super) fn of_remove(error: &RemoveError) -> Failure {
    let kind = match error {
        RemoveError::Unknown { .. } => FailureKind::NotFound,
        RemoveError::Store(_) => FailureKind::Store,
        RemoveError::Pinned { .. }
        | RemoveError::Held { .. }
        | RemoveError::Claimed { .. }
        | RemoveError::Unsettled { .. } => FailureKind::Other,
    };
    failure(kind, error)
}

pub(super) fn of_session(error: &SessionError) -> Failure {
    failure(FailureKind::Other, error)
}

pub(super) fn of_image(failed: ImageFailed) -> Failure {
    let error = ImageError::from(failed);
    failure(image_kind(error.cause()), error.cause())
}

fn failure(kind: FailureKind, error: &(dyn Error + 'static)) -> Failure {
    Failure::new(kind, with_causes(error))
}

fn image_kind(error: &ImageError) -> FailureKind {
    match error {
        ImageError::Resolve { source, .. } => registry_kind(source),
        ImageError::Layer { source, .. } => layer_kind(source),
        ImageError::View { .. } => FailureKind::Corrupt,
        ImageError::Store(_) => FailureKind::Store,
        ImageError::UnknownChain(_) | ImageError::Shared(_) | ImageError::Stopping => FailureKind::Other,
    }
}

fn registry_kind(error: &RegistryError) -> FailureKind {
    use RegistryError as E;
    match error {
        E::NotFound { .. } | E::NoPlatform { .. } | E::NoTag { .. } | E::SeveralTags { .. } | E::NoLayout { .. } => {
            FailureKind::NotFound
        }
        E::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => FailureKind::NotFound,
        E::Denied { .. } | E::Login { .. } => FailureKind::Denied,
        E::Unreachable { .. }
        | E::Untrusted { .. }
        | E::NotHttps { .. }
        | E::Silent { .. }
        | E::Stalled { .. }
        | E::Broken { .. }
        | E::Busy { .. } => FailureKind::Unreachable,
        E::TooLarge { .. } | E::Size { .. } | E::Mismatch { .. } | E::Manifest { .. } | E::Protocol { .. } => {
            FailureKind::Corrupt
        }
        E::CaFile { .. } | E::HostFile { .. } | E::HostInConfig(_) | E::KubeletHalf | E::NotPushed(_) => {
            FailureKind::Usage
        }
        E::Status { .. } | E::Io { .. } | E::Client(_) | E::Origin(..) | E::Stopped(_) | E::NotMounted { .. } => {
            FailureKind::Other
        }
    }
}

fn layer_kind(error: &LayerError) -> FailureKind {
    match error {
        LayerError::Blob(blob) => blob_kind(blob),
        LayerError::Scan(ScanError::Blob { source, .. }) => blob_kind(source),
        LayerError::Fill(FillError::Blob { source, .. }) => blob_kind(source),
        LayerError::Fill(FillError::Full { .. } | FillError::Io { .. })
        | LayerError::Scan(ScanError::Disk { .. })
        | LayerError::Store(_) => FailureKind::Store,
        LayerError::Fill(FillError::NoOrigin { .. } | FillError::Stopping) => FailureKind::Other,
        LayerError::Scan(_) | LayerError::Fill(_) | LayerError::OtherContent { .. } => FailureKind::Corrupt,
        LayerError::Stopping => FailureKind::Other,
    }
}

fn blob_kind(error: &BlobError) -> FailureKind {
    match error {
        BlobError::NotFound(_) => FailureKind::NotFound,
        BlobError::Denied(_) => FailureKind::Denied,
        BlobError::Unreachable(_) => FailureKind::Unreachable,
        BlobError::Size { .. } => FailureKind::Corrupt,
        BlobError::Other(_) => FailureKind::Other,
    }
}
