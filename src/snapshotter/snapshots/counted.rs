//! What snapshots take on disk. A committed one is counted once, in the background, for containerd commits inside a
//! transaction of its own database, and everybody waits for that.

use std::sync::Arc;

use super::Snapshots;
use crate::snapshotter::book::{Kind, Snapshot};
use crate::snapshotter::chains::Usage;
use crate::snapshotter::error::SnapshotError;

impl Snapshots {
    /// Bytes and inodes of the snapshot itself, without its parents. What is only looked at takes nothing.
    pub async fn usage(&self, key: &str) -> Result<Usage, SnapshotError> {
        let snapshot = self.stat(key)?;
        if let Some(chain) = snapshot.remote() {
            return Ok(self.shared.chains.usage(&chain));
        }
        match (snapshot.kind, snapshot.usage) {
            (Kind::View, _) => Ok(Usage::default()),
            (_, Some(usage)) => Ok(usage),
            (Kind::Active, None) => self.shared.directories.usage(snapshot.id).await,
            // Just committed, or the daemon ended before it was counted.
            (Kind::Committed, None) => {
                let usage = self.shared.directories.usage(snapshot.id).await?;
                let counting = self.clone();
                crate::sync::spawn(async move { counting.remember_usage(&snapshot, usage).await });
                Ok(usage)
            }
        }
    }

    pub(super) fn count_in_background(&self, committed: Arc<Snapshot>) {
        let counting = self.clone();
        crate::sync::spawn(async move {
            // A failure is told to whoever asks.
            if let Ok(usage) = counting.shared.directories.usage(committed.id).await {
                counting.remember_usage(&committed, usage).await;
            }
        });
    }

    async fn remember_usage(&self, snapshot: &Snapshot, usage: Usage) {
        let _one_at_a_time = self.shared.changing.lock().await;
        // It may have gone, or have changed, while it was counted.
        let Ok(now) = self.stat(&snapshot.name) else { return };
        if now.id != snapshot.id || now.usage.is_some() {
            return;
        }
        let counted = Snapshot { usage: Some(usage), ..Snapshot::clone(&now) };
        if self.write(&counted).await.is_ok() {
            let _is_there = self.shared.book.lock().update(Arc::new(counted));
        }
    }
}
