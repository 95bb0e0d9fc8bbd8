//! Layers that containerd need not unpack: the AlreadyExists of its contract with remote snapshotters.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::{New, Snapshots, blocking, non_empty};
use crate::digest::ChainId;
use crate::mount::Mapping;
use crate::snapshotter::book::{CHAIN, Content, Kind, Snapshot};
use crate::snapshotter::error::SnapshotError;
use crate::snapshotter::labels;

impl Snapshots {
    /// Commits a remote snapshot for the layer that the labels ask for, if it can be served; the chain that containerd
    /// will look for.
    pub(super) async fn serve(&self, new: &New) -> Result<Option<String>, SnapshotError> {
        let Some(label) = new.labels.get(CHAIN).cloned() else { return Ok(None) };
        let parent_name = non_empty(&new.parent);
        let (parent, there) = {
            let book = self.shared.book.lock();
            book.may_add(&new.key, parent_name)?;
            let there = book.committed(&label, parent_name).cloned();
            (parent_name.map(|name| book.get(name)).transpose()?, there)
        };
        let there = there.map(|there| there.id);
        if there.is_some_and(|id| !self.shared.unclaimed.lock().contains(&id)) {
            return Ok(Some(label));
        }
        // Over a layer that containerd unpacked it unpacks all others too: it has begun to fetch them.
        let below = match &parent {
            None => None,
            Some(parent) => match parent.remote() {
                Some(chain) => Some(chain),
                None => return Ok(None),
            },
        };
        let Some(wanted) = labels::wanted(&new.labels, below) else { return Ok(None) };
        let chain = wanted.chain;
        if self.shared.chains.find(wanted).await.is_none() {
            return Ok(None);
        }
        let committed = match there {
            Some(id) => Ok(self.keep_claim(id).await),
            None => self.commit_remote(new, &label, chain).await,
        };
        if !matches!(committed, Ok(true)) {
            self.shared.chains.release(&chain);
        }
        committed.map(|_| Some(label))
    }

    /// Gives a snapshot the claim that it could not have when the daemon started. False if another call was faster, or the
    /// snapshot is gone: then containerd finds none, and asks again.
    async fn keep_claim(&self, id: u64) -> bool {
        let _one_at_a_time = self.shared.changing.lock().await;
        self.shared.unclaimed.lock().remove(&id)
    }

    /// False if another call was faster.
    async fn commit_remote(&self, new: &New, label: &str, chain: ChainId) -> Result<bool, SnapshotError> {
        let parent = non_empty(&new.parent);
        let _one_at_a_time = self.shared.changing.lock().await;
        let id = self.number();
        let name = {
            let book = self.shared.book.lock();
            if book.committed(label, parent).is_some() {
                return Ok(false);
            }
            // Unique, and nothing that containerd would make of a key: its own begin with a namespace.
            let name = format!("remote/{id}/{chain}");
            book.may_add(&name, parent)?;
            name
        };
        let now = SystemTime::now();
        let snapshot = Snapshot {
            id,
            name: name.into(),
            parent: parent.map(Into::into),
            kind: Kind::Committed,
            content: Content::Remote(chain),
            created: now,
            updated: now,
            labels: new.labels.clone(),
            usage: None,
        };
        self.write(&snapshot).await?;
        self.shared.book.lock().add(Arc::new(snapshot))?;
        Ok(true)
    }

    /// What is below with the owners of the mapping, and the mapping that is left to containerd: all of it where the kernel
    /// has no idmapped FUSE mounts (before 6.12).
    pub(super) async fn mapped(
        &self,
        id: u64,
        lower: Vec<PathBuf>,
        mapping: Mapping,
    ) -> Result<(Vec<PathBuf>, Mapping), SnapshotError> {
        let shared = self.shared.clone();
        blocking(move || match shared.mapped.show(id, &lower, &mapping) {
            Ok(mapped) => (mapped, Mapping::default()),
            Err(error) => {
                tracing::warn!(snapshot = id, %error, "owners cannot be mapped here; that is left to containerd");
                (lower, mapping)
            }
        })
        .await
    }
}
