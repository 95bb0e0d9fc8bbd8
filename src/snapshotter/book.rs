//! The snapshots in memory: who is whose parent, and which are found by what containerd asks for. Pure.
//!
//! Nothing stays of a snapshot that was removed, so memory does not grow with those ever made.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use super::chains::Usage;
use super::error::SnapshotError;
use crate::digest::ChainId;

/// Labels as containerd sends them.
pub type Labels = BTreeMap<String, String>;

/// The label that names the chain which ends with the layer that is about to be unpacked.
pub(super) const CHAIN: &str = "containerd.io/snapshot.ref";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    View,
    Active,
    Committed,
}

/// What a snapshot is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A directory of its own, named by its number.
    Directory,
    /// A chain of layers that is served without having been unpacked.
    Remote(ChainId),
}

/// One snapshot. Names are containerd's and may be any text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its number: never used again while the store is open, nor as long as its directory is there.
    pub id: u64,
    pub name: Arc<str>,
    pub parent: Option<Arc<str>>,
    pub kind: Kind,
    pub content: Content,
    pub created: SystemTime,
    pub updated: SystemTime,
    pub labels: Labels,
    /// Of a committed directory, once it was counted.
    pub usage: Option<Usage>,
}

/// All snapshots.
#[derive(Debug, Default)]
pub(super) struct Book {
    by_name: BTreeMap<Arc<str>, Arc<Snapshot>>,
    /// How many have this parent.
    children: HashMap<Arc<str>, usize>,
    /// Names of those with this label [`CHAIN`].
    by_chain: HashMap<String, BTreeSet<Arc<str>>>,
}

// === impl Snapshot ===

impl Snapshot {
    pub(super) fn remote(&self) -> Option<ChainId> {
        match self.content {
            Content::Remote(chain) => Some(chain),
            Content::Directory => None,
        }
    }
}

// === impl Book ===

impl Book {
    pub(super) fn get(&self, name: &str) -> Result<Arc<Snapshot>, SnapshotError> {
        self.by_name.get(name).cloned().ok_or_else(|| SnapshotError::NotFound(name.to_owned()))
    }

    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// By name.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Snapshot>> {
        self.by_name.values()
    }

    /// Those with this value of the label [`CHAIN`].
    pub(super) fn with_chain(&self, chain: &str) -> impl Iterator<Item = &Arc<Snapshot>> {
        self.by_chain.get(chain).into_iter().flatten().filter_map(|name| self.by_name.get(name))
    }

    /// The committed snapshot that containerd would find for this layer over this parent.
    pub(super) fn committed(&self, chain: &str, parent: Option<&str>) -> Option<&Arc<Snapshot>> {
        self.with_chain(chain).find(|found| found.kind == Kind::Committed && found.parent.as_deref() == parent)
    }

    /// Puts in a new snapshot.
    pub(super) fn add(&mut self, snapshot: Arc<Snapshot>) -> Result<(), SnapshotError> {
        self.may_add(&snapshot.name, snapshot.parent.as_deref())?;
        self.read(snapshot);
        Ok(())
    }

    /// Puts in a snapshot that was there before: nothing is asked of it, not even that its parent is there.
    pub(super) fn read(&mut self, snapshot: Arc<Snapshot>) {
        self.index(&snapshot);
        if let Some(parent) = &snapshot.parent {
            *self.children.entry(parent.clone()).or_default() += 1;
        }
        self.by_name.insert(snapshot.name.clone(), snapshot);
    }

    /// Whether a snapshot of this name can be made over this parent.
    pub(super) fn may_add(&self, name: &str, parent: Option<&str>) -> Result<(), SnapshotError> {
        if let Some(parent) = parent {
            let parent = self.get(parent)?;
            if parent.kind != Kind::Committed {
                return Err(SnapshotError::ParentNotCommitted(parent.name.to_string()));
            }
        }
        self.may_name(name)
    }

    /// Whether the name is free. Asked before all else of a Commit: who repeats one must learn that it was done.
    pub(super) fn may_name(&self, name: &str) -> Result<(), SnapshotError> {
        if name.is_empty() {
            return Err(SnapshotError::Invalid("a snapshot needs a name".to_owned()));
        }
        if self.by_name.contains_key(name) {
            return Err(SnapshotError::Exists(name.to_owned()));
        }
        Ok(())
    }

    /// Takes out a snapshot that has no children.
    pub(super) fn remove(&mut self, name: &str) -> Result<Arc<Snapshot>, SnapshotError> {
        self.may_remove(name)?;
        let snapshot = self.by_name.remove(name).ok_or_else(|| SnapshotError::NotFound(name.to_owned()))?;
        self.unindex(&snapshot);
        if let Some(parent) = &snapshot.parent
            && let Some(children) = self.children.get_mut(parent)
        {
            *children -= 1;
            if *children == 0 {
                self.children.remove(parent);
            }
        }
        Ok(snapshot)
    }

    pub(super) fn may_remove(&self, name: &str) -> Result<Arc<Snapshot>, SnapshotError> {
        let snapshot = self.get(name)?;
        match self.children.get(name) {
            Some(children) => Err(SnapshotError::HasChildren { name: name.to_owned(), children: *children }),
            None => Ok(snapshot),
        }
    }

    /// Puts a changed snapshot in the place of the one of the same name. Its children do not notice.
    pub(super) fn update(&mut self, snapshot: Arc<Snapshot>) -> Result<(), SnapshotError> {
        let before = self.get(&snapshot.name)?;
        self.unindex(&before);
        self.index(&snapshot);
        self.by_name.insert(snapshot.name.clone(), snapshot);
        Ok(())
    }

    /// The snapshots below this one, nearest first. A parent that is missing ends the line with an error.
    pub(super) fn parents(&self, snapshot: &Snapshot) -> Result<Vec<Arc<Snapshot>>, SnapshotError> {
        let mut line: Vec<Arc<Snapshot>> = Vec::new();
        let mut next = snapshot.parent.clone();
        while let Some(name) = next {
            let parent = self.get(&name)?;
            next = parent.parent.clone();
            line.push(parent);
            if line.len() > self.by_name.len() {
                return Err(SnapshotError::Invalid(format!("the parents of {:?} go in a circle", snapshot.name)));
            }
        }
        Ok(line)
    }

    fn index(&mut self, snapshot: &Snapshot) {
        if let Some(chain) = snapshot.labels.get(CHAIN) {
            self.by_chain.entry(chain.clone()).or_default().insert(snapshot.name.clone());
        }
    }

    fn unindex(&mut self, snapshot: &Snapshot) {
        let Some(chain) = snapshot.labels.get(CHAIN) else { return };
        if let Some(names) = self.by_chain.get_mut(chain) {
            names.remove(&snapshot.name);
            if names.is_empty() {
                self.by_chain.remove(chain);
            }
        }
    }
}
