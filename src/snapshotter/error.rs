//! Why a call of containerd's failed.

use std::io;
use std::path::PathBuf;

use super::chains::NotShown;
use crate::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("snapshot {0:?} does not exist")]
    NotFound(String),
    #[error("snapshot {0:?} exists already")]
    Exists(String),
    /// Not a failure: containerd finds the layer under its chain id, and need not unpack it.
    #[error("chain {0} is served without being unpacked")]
    Served(String),
    #[error("snapshot {name:?} has {children} children")]
    HasChildren { name: String, children: usize },
    #[error("parent {0:?} is not a committed snapshot")]
    ParentNotCommitted(String),
    /// Another code than [`Self::ParentNotCommitted`] to containerd, for reasons of its own.
    #[error("parent {0:?} of what is to be committed is not a committed snapshot")]
    RebaseOnUncommitted(String),
    #[error("snapshot {0:?} is not active")]
    NotActive(String),
    #[error("snapshot {0:?} is committed and has no mounts of its own")]
    Committed(String),
    #[error("{0}")]
    Invalid(String),
    #[error("snapshot {name:?}: {source}")]
    NotShown { name: String, source: NotShown },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot {what} {}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("the record of snapshot {id} cannot be read: {cause}")]
    Record { id: u64, cause: String },
    #[error("oncefs is stopping")]
    Stopping,
}

impl SnapshotError {
    pub(super) fn io(what: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}
