//! Layers that containerd need not unpack: the AlreadyExists of its contract with remote snapshotters.

use std::sync::Arc;
use std::time::SystemTime;

use super::{New, Snapshots, non_empty};
use crate::digest::ChainId;
use crate::snapshotter::book::{CHAIN, Content, Kind, Snapshot};
use crate::snapshotter::error::SnapshotError;
use crate::snapshotter::labels;

impl Snapshots {
    /// Commits a remote snapshot for the layer that the labels ask for, if it can be served; the chain that containerd
    /// will look for.
    pub(super) async fn serve(&self, new: &New) -> Result<Option<String>, SnapshotError> {
        let Some(label) = new.labels.get(CHAIN).cloned() else { return Ok(None) };
        let parent_name = non_empty(&new.parent);
        let parent = {
            let book = self.shared.book.lock();
            book.may_add(&new.key, parent_name)?;
            if book.committed(&label, parent_name).is_some() {
                return Ok(Some(label));
            }
            parent_name.map(|name| book.get(name)).transpose()?
        };
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
        let committed = self.commit_remote(new, chain).await;
        if !matches!(committed, Ok(true)) {
            self.shared.chains.release(&chain);
        }
        committed.map(|_| Some(label))
    }

    /// False if another call was faster.
    async fn commit_remote(&self, new: &New, chain: ChainId) -> Result<bool, SnapshotError> {
        let parent = non_empty(&new.parent);
        let _one_at_a_time = self.shared.changing.lock().await;
        let id = self.number();
        let name = {
            let book = self.shared.book.lock();
            if book.committed(&chain.to_string(), parent).is_some() {
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
}
