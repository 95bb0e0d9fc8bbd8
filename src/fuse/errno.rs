//! The one edge where what went wrong becomes an errno. errno has no word for a wrong digest or an absent registry, so what
//! a reader sees as EIO is said in the log.

use fuser::Errno;

use super::read::{ReadFailed, Wanted};
use crate::errors::with_causes;
use crate::view::ViewError;

pub(super) fn of_view(error: &ViewError) -> Errno {
    match error {
        ViewError::Stale { .. } => Errno::ESTALE,
        ViewError::Kind { .. } => Errno::EINVAL,
        other => {
            tracing::error!(error = with_causes(other), "a view does not answer");
            Errno::EIO
        }
    }
}

pub(super) fn of_read(wanted: &Wanted, failed: &ReadFailed) -> Errno {
    tracing::error!(layer = %wanted.layer.digest(), at = wanted.at, error = with_causes(failed), "a read failed");
    Errno::EIO
}
