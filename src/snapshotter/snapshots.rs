//! What containerd may ask of its snapshots, done: the book in memory, the records in the database, the directories.
//!
//! Whoever reads waits for nobody. Whoever changes something waits for those before it: a change is checked, written to the
//! database, flushed, and only then seen, so that no answer tells of what a crash could undo. A change that was
//! begun runs to its end, also when its caller leaves. Directories are deleted in the background: what has no record is
//! a leftover, and is deleted at the next start if not before.

mod again;
mod compare;
mod counted;
mod remote;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::book::{Book, Content, Kind, Labels, Snapshot};
use super::chains::Chains;
use super::directories::Directories;
use super::error::SnapshotError;
use super::filter::Filters;
use super::mapped::Mapped;
use super::metrics::Metrics;
use super::{labels, record};
use crate::mount::{self, Mapping, Mount};
use crate::store::Store;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

pub use compare::{CompareError, Compared};

use compare::Asked;

/// The snapshots of one node. Clones share them.
#[derive(Clone)]
pub struct Snapshots {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    chains: Arc<dyn Chains>,
    directories: Directories,
    mapped: Mapped,
    /// Held for moments only, never over the disk.
    book: Mutex<Book>,
    /// Held by the one change that is under way.
    changing: tokio::sync::Mutex<()>,
    /// Numbers of remote snapshots whose chain nobody knew when the daemon started: they hold no claim.
    unclaimed: Mutex<HashSet<u64>>,
    next: AtomicU64,
    metrics: Metrics,
    asked: Asked,
}

/// What a new snapshot is to be.
#[derive(Debug, Clone)]
pub struct New {
    pub key: String,
    /// Empty is none.
    pub parent: String,
    pub labels: Labels,
}

/// How an active snapshot becomes a committed one.
#[derive(Debug, Clone)]
pub struct Commit {
    pub key: String,
    pub name: String,
    pub labels: Labels,
    /// For an active snapshot that was made without one. Empty is none.
    pub parent: String,
}

// === impl Snapshots ===

impl Snapshots {
    /// Reads what the database has. What is shown with other owners is shown below `mapped`. Needs no network. Blocking.
    pub fn open(store: Store, chains: Arc<dyn Chains>, mapped: PathBuf) -> Result<Self, SnapshotError> {
        let directories = Directories::open(store.snapshots_path())?;
        let snapshots = record::read_all(&store)?;
        let kept: HashSet<u64> = snapshots.iter().map(|snapshot| snapshot.id).collect();
        let highest = directories.highest()?.max(store.highest_lost_snapshot()?);
        let highest = highest.max(kept.iter().copied().max().unwrap_or(0));
        directories.delete_all_but(&kept);
        let mut book = Book::default();
        // One whose parent is gone has no use, but may be removed.
        snapshots.into_iter().for_each(|snapshot| book.read(snapshot));
        again::make_directories(&book, &directories)?;
        let mut unclaimed = HashSet::new();
        for snapshot in book.iter() {
            if let Some(chain) = snapshot.remote()
                && let Err(error) = chains.claim(&chain)
            {
                tracing::warn!(snapshot = %snapshot.name, %error, "a snapshot cannot be served until its image is pulled again");
                unclaimed.insert(snapshot.id);
            }
        }
        chains.settled();
        let shared = Shared {
            store,
            chains,
            directories,
            mapped: Mapped::open(mapped, &kept),
            book: Mutex::new(book),
            changing: tokio::sync::Mutex::new(()),
            unclaimed: Mutex::new(unclaimed),
            next: AtomicU64::new(highest.saturating_add(1)),
            metrics: Metrics::default(),
            asked: Asked::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Makes a snapshot to write to; its mounts. [`SnapshotError::Served`] is the good news that the labels asked for a
    /// layer which needs no unpacking.
    pub async fn prepare(&self, new: New) -> Result<Vec<Mount>, SnapshotError> {
        self.to_the_end(async |snapshots| snapshots.prepare_alone(new).await).await
    }

    /// Makes a snapshot to look at; its mounts.
    pub async fn view(&self, new: New) -> Result<Vec<Mount>, SnapshotError> {
        self.to_the_end(async |snapshots| snapshots.make(new, Kind::View).await).await
    }

    /// The mounts of a snapshot that is there.
    pub async fn mounts(&self, key: &str) -> Result<Vec<Mount>, SnapshotError> {
        let (snapshot, parents) = {
            let book = self.shared.book.lock();
            let snapshot = book.get(key)?;
            let parents = book.parents(&snapshot)?;
            (snapshot, parents)
        };
        self.plan(&snapshot, &parents).await
    }

    pub async fn commit(&self, commit: Commit) -> Result<(), SnapshotError> {
        self.to_the_end(async |snapshots| snapshots.commit_alone(commit).await).await
    }

    pub async fn remove(&self, key: &str) -> Result<(), SnapshotError> {
        let key = key.to_owned();
        self.to_the_end(async move |snapshots| snapshots.remove_alone(&key).await).await
    }

    pub fn stat(&self, key: &str) -> Result<Arc<Snapshot>, SnapshotError> {
        self.shared.book.lock().get(key)
    }

    /// Changes labels: those named are set, or taken away where `labels` has none of the name; `None` sets all.
    pub async fn update(
        &self,
        key: &str,
        labels: Labels,
        named: Option<Vec<String>>,
    ) -> Result<Arc<Snapshot>, SnapshotError> {
        let key = key.to_owned();
        self.to_the_end(async move |snapshots| snapshots.update_alone(&key, labels, named).await).await
    }

    /// Those that match, by name.
    pub fn list(&self, filters: &Filters) -> Vec<Arc<Snapshot>> {
        let mut found: Vec<Arc<Snapshot>> = {
            let book = self.shared.book.lock();
            match filters.chains() {
                None => book.iter().cloned().collect(),
                Some(mut chains) => {
                    chains.sort_unstable();
                    chains.dedup();
                    chains.into_iter().flat_map(|chain| book.with_chain(chain)).cloned().collect()
                }
            }
        };
        found.retain(|snapshot| filters.matches(snapshot));
        found
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.shared.book.lock().len()
    }

    pub(super) fn containerd_calls(&self) {
        self.shared.chains.containerd_calls();
    }

    /// What is measured of the calls.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    async fn prepare_alone(&self, new: New) -> Result<Vec<Mount>, SnapshotError> {
        match self.serve(&new).await? {
            Some(chain) => Err(SnapshotError::Served(chain)),
            None => self.make(new, Kind::Active).await,
        }
    }

    async fn make(&self, new: New, kind: Kind) -> Result<Vec<Mount>, SnapshotError> {
        let _one_at_a_time = self.shared.changing.lock().await;
        let parent = non_empty(&new.parent);
        let now = SystemTime::now();
        let (snapshot, parents) = {
            let book = self.shared.book.lock();
            book.may_add(&new.key, parent)?;
            let snapshot = Snapshot {
                id: self.number(),
                name: new.key.as_str().into(),
                parent: parent.map(Into::into),
                kind,
                content: Content::Directory,
                created: now,
                updated: now,
                labels: new.labels,
                usage: None,
            };
            let parents = book.parents(&snapshot)?;
            (snapshot, parents)
        };
        let mounts = self.plan(&snapshot, &parents).await?;
        let below = parents.first().map(|parent| self.directory_of(parent)).transpose()?;
        let owner = labels::root(&snapshot.labels);
        let made = self.shared.directories.make(snapshot.id, kind == Kind::Active, below, owner).await;
        let written = match made {
            Ok(()) => self.write(&snapshot).await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            self.delete(snapshot.id).await?;
            return Err(error);
        }
        self.shared.book.lock().add(Arc::new(snapshot))?;
        Ok(mounts)
    }

    async fn commit_alone(&self, commit: Commit) -> Result<(), SnapshotError> {
        let _one_at_a_time = self.shared.changing.lock().await;
        let committed = {
            let book = self.shared.book.lock();
            book.may_name(&commit.name)?;
            let active = book.get(&commit.key)?;
            if active.kind != Kind::Active {
                return Err(SnapshotError::NotActive(commit.key));
            }
            let parent = match (&active.parent, non_empty(&commit.parent)) {
                (parent, None) => parent.clone(),
                (Some(has), Some(wants)) if **has == *wants => Some(has.clone()),
                (None, Some(wants)) => Some(wants.into()),
                (Some(has), Some(wants)) => {
                    return Err(SnapshotError::Invalid(format!("{:?} has parent {has:?}, not {wants:?}", commit.key)));
                }
            };
            if let Some(parent) = &parent
                && book.get(parent)?.kind != Kind::Committed
            {
                return Err(SnapshotError::RebaseOnUncommitted(parent.to_string()));
            }
            let now = SystemTime::now();
            Snapshot {
                name: commit.name.as_str().into(),
                parent,
                kind: Kind::Committed,
                created: now,
                updated: now,
                // As containerd's own snapshotters have it: a committed snapshot has the labels of its commit.
                labels: commit.labels,
                ..Snapshot::clone(&active)
            }
        };
        let (directories, id) = (self.shared.directories.clone(), committed.id);
        blocking(move || directories.sync(id)).await??;
        self.write(&committed).await?;
        let committed = Arc::new(committed);
        {
            let mut book = self.shared.book.lock();
            book.remove(&commit.key)?;
            book.add(committed.clone())?;
        }
        self.count_in_background(committed);
        Ok(())
    }

    async fn remove_alone(&self, key: &str) -> Result<(), SnapshotError> {
        let _one_at_a_time = self.shared.changing.lock().await;
        let snapshot = self.shared.book.lock().may_remove(key)?;
        let (store, id) = (self.shared.store.clone(), snapshot.id);
        blocking(move || store.remove_snapshot(id)).await??;
        self.shared.book.lock().remove(key)?;
        match snapshot.remote() {
            Some(_) if self.shared.unclaimed.lock().remove(&id) => {}
            Some(chain) => self.shared.chains.release(&chain),
            None => self.delete(id).await?,
        }
        Ok(())
    }

    async fn delete(&self, id: u64) -> Result<(), SnapshotError> {
        let shared = self.shared.clone();
        blocking(move || {
            shared.mapped.hide(id);
            shared.directories.delete(id);
        })
        .await
    }

    async fn update_alone(
        &self,
        key: &str,
        mut labels: Labels,
        named: Option<Vec<String>>,
    ) -> Result<Arc<Snapshot>, SnapshotError> {
        let _one_at_a_time = self.shared.changing.lock().await;
        let mut snapshot = Snapshot::clone(&*self.stat(key)?);
        match named {
            None => snapshot.labels = labels,
            Some(named) => named.into_iter().for_each(|name| {
                match labels.remove(&name).filter(|value| !value.is_empty()) {
                    Some(value) => snapshot.labels.insert(name, value),
                    None => snapshot.labels.remove(&name),
                };
            }),
        }
        snapshot.updated = SystemTime::now();
        self.write(&snapshot).await?;
        let snapshot = Arc::new(snapshot);
        self.shared.book.lock().update(snapshot.clone())?;
        Ok(snapshot)
    }

    async fn plan(&self, snapshot: &Snapshot, parents: &[Arc<Snapshot>]) -> Result<Vec<Mount>, SnapshotError> {
        let (mut lower, mut is_over_a_view) = (Vec::new(), false);
        for parent in parents {
            lower.push(self.directory_of(parent)?);
            is_over_a_view = parent.remote().is_some();
            if is_over_a_view {
                break; // it has all that is below it
            }
        }
        let mut mapping = labels::mapping(&snapshot.labels);
        if snapshot.kind != Kind::Committed && is_over_a_view && mapping != Mapping::default() {
            (lower, mapping) = self.mapped(snapshot.id, lower, mapping).await?;
        }
        let directories = &self.shared.directories;
        match snapshot.kind {
            Kind::Active => Ok(mount::writable(&directories.upper(snapshot.id), &lower, &mapping)),
            Kind::View => Ok(mount::read_only(directories.upper(snapshot.id).fs, &lower, &mapping)),
            Kind::Committed => Err(SnapshotError::Committed(snapshot.name.to_string())),
        }
    }

    /// Where what a committed snapshot holds is seen.
    fn directory_of(&self, snapshot: &Snapshot) -> Result<PathBuf, SnapshotError> {
        match snapshot.content {
            Content::Directory => Ok(self.shared.directories.upper(snapshot.id).fs),
            Content::Remote(chain) => {
                let not_shown = |source| SnapshotError::NotShown { name: snapshot.name.to_string(), source };
                self.shared.chains.show(&chain).map_err(not_shown)
            }
        }
    }

    async fn write(&self, snapshot: &Snapshot) -> Result<(), SnapshotError> {
        let (store, id, record) = (self.shared.store.clone(), snapshot.id, record::encode(snapshot));
        Ok(blocking(move || store.put_snapshot(id, &record)).await??)
    }

    fn number(&self) -> u64 {
        self.shared.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Does the work in a task of its own: half a change is nothing that anybody could go on from.
    async fn to_the_end<T, F>(&self, work: impl FnOnce(Self) -> F + Send + 'static) -> Result<T, SnapshotError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, SnapshotError>> + Send + 'static,
    {
        let (answer, answered) = tokio::sync::oneshot::channel();
        let working = work(self.clone());
        crate::sync::spawn(async move {
            let _caller_has_left = answer.send(working.await);
        });
        answered.await.unwrap_or(Err(SnapshotError::Stopping))
    }
}

fn non_empty(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// Runs what waits for the disk where it holds nobody up.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, SnapshotError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| SnapshotError::Stopping)
}
