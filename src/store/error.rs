//! What can go wrong with a store, with the object named and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::LayerDigest;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "the store {} is in use by {}; stop it, or choose another root with --root",
        .root.display(),
        .pid.map_or("another process".to_owned(), |pid| format!("process {pid}"))
    )]
    Locked { root: PathBuf, pid: Option<u32> },
    #[error("cannot write to {}: the file system is mounted read-only; choose another root with --root", .path.display())]
    ReadOnly { path: PathBuf, source: io::Error },
    #[error("the disk is full: {action} {} failed; free some space, or choose another root with --root", .path.display())]
    Full { action: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot {action} {}", .path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "the store {} was written by a newer oncefs (version {has} of its database, this program knows up to {known})",
        .root.display()
    )]
    Newer { root: PathBuf, has: u32, known: u32 },
    #[error("the database {} failed", .path.display())]
    Database { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the database {} failed earlier; restart oncefs to use it again", .path.display())]
    DatabaseFailed { path: PathBuf },
    #[error("the database {} cannot be read and was not repaired: {cause}", .path.display())]
    DatabaseBroken { path: PathBuf, cause: String },
    #[error("the files of layer {layer} are damaged: {cause}")]
    Damaged { layer: LayerDigest, cause: String },
    #[error("the files received for layer {wanted} are those of layer {got}")]
    WrongLayer { wanted: LayerDigest, got: LayerDigest },
    #[error("the store {} has handed out all its {kind} numbers; start a new store with --root", .root.display())]
    NoSlots { root: PathBuf, kind: &'static str },
}

impl StoreError {
    /// Names what was being done to which path, and tells a full or read-only disk from other trouble.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::Full { action, path: path.to_path_buf(), source }
            }
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { path: path.to_path_buf(), source },
            _ => Self::Io { action, path: path.to_path_buf(), source },
        }
    }
}
