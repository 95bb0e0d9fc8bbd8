//! Whether the server does what it is there for: the store lets go of its lock, its database takes changes, and the FUSE mount is there and
//! answers. All of it is known from memory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::mounts::KIND;
use super::node::{Node, blocking};
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sys::mount as kernel;

/// What is looked at.
#[derive(Clone)]
pub(super) struct Health {
    node: Node,
    /// Root's one mount, where a service has it.
    fs: Option<PathBuf>,
    /// Somebody is looking at the mount just now. Of one that hangs, each look would cost a thread.
    looking: Arc<AtomicBool>,
}

/// Both answer from memory.
const PATIENCE: Duration = Duration::from_secs(5);

/// Marks a look as over, however it ends.
struct Look(Arc<AtomicBool>);

// === impl Health ===

impl Health {
    pub(super) fn new(node: Node, fs: Option<PathBuf>) -> Self {
        Self { node, fs, looking: Arc::default() }
    }

    /// Why not, if it is not well.
    pub(super) async fn check(&self) -> Result<(), String> {
        if !self.node.answers_within(PATIENCE).await {
            return Err(format!("the store does not answer within {} s", PATIENCE.as_secs()));
        }
        if let Some(failure) = self.node.database_failure() {
            return Err(format!("nothing can be recorded until the server is started again: {failure}"));
        }
        let Some(fs) = self.fs.clone() else { return Ok(()) };
        let hangs = format!("the mount at {} does not answer", fs.display());
        if self.looking.swap(true, Ordering::AcqRel) {
            // Somebody else looks just now, or has been looking for long.
            tokio::time::sleep(PATIENCE / 10).await;
            if self.looking.swap(true, Ordering::AcqRel) {
                return Err(hangs);
            }
        }
        let look = Look(self.looking.clone());
        let looked = blocking(move || {
            let _look = look;
            is_served(&fs)
        });
        match tokio::time::timeout(PATIENCE, looked).await {
            Ok(Ok(seen)) => seen,
            Ok(Err(_)) | Err(_) => Err(hangs),
        }
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

fn is_served(fs: &Path) -> Result<(), String> {
    let unreadable = |error| format!("cannot see what is mounted: {error}");
    let is_ours = kernel::mounted_at(fs).map_err(unreadable)?.is_some_and(|mounted| mounted.kind == KIND);
    if !is_ours {
        return Err(format!("oncefs is not mounted at {}", fs.display()));
    }
    // Asks whoever serves it: the attributes of its root are not kept.
    fs.symlink_metadata().map(drop).map_err(|error| format!("the mount at {} gives errors: {error}", fs.display()))
}
