//! The one place where errors become what containerd understands: it looks at the code only.

use tonic::{Code, Status};

use super::chains::NotShown;
use super::error::SnapshotError;
use crate::errors::with_causes;

impl From<SnapshotError> for Status {
    fn from(error: SnapshotError) -> Self {
        Self::new(code(&error), with_causes(&error))
    }
}

fn code(error: &SnapshotError) -> Code {
    match error {
        SnapshotError::NotFound(_) => Code::NotFound,
        SnapshotError::Exists(_) | SnapshotError::Served(_) => Code::AlreadyExists,
        SnapshotError::HasChildren { .. }
        | SnapshotError::NotActive(_)
        | SnapshotError::Committed(_)
        | SnapshotError::RebaseOnUncommitted(_)
        | SnapshotError::NotShown { source: NotShown::Unknown(_), .. } => Code::FailedPrecondition,
        SnapshotError::ParentNotCommitted(_) | SnapshotError::Invalid(_) => Code::InvalidArgument,
        SnapshotError::Store(_) | SnapshotError::Io { .. } | SnapshotError::Record { .. } => Code::Internal,
        SnapshotError::Stopping | SnapshotError::NotShown { source: NotShown::Now(_), .. } => Code::Unavailable,
    }
}
