//! Whether containerd and the book know the same snapshots.
//!
//! containerd's list says neither under which names it asks for its snapshots here, nor which of them it was told are not there: those it leaves
//! out. But to make its list it asks for each one that it knows. So what it asks for while it makes one is what it knows.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::Snapshots;
use crate::snapshotter::protocol::namespaces::ListNamespacesRequest;
use crate::snapshotter::protocol::namespaces::namespaces_client::NamespacesClient;
use crate::snapshotter::protocol::v1::ListSnapshotsRequest;
use crate::snapshotter::protocol::v1::snapshots_client::SnapshotsClient;
use crate::snapshotter::service::MESSAGE_BYTES_MAX;
use crate::sync::{Arc, Mutex};

/// What both know, and what only one of them does. By the names that containerd uses here: namespace, number, and its own key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compared {
    pub common: usize,
    /// containerd knows them alone.
    pub lost: Vec<String>,
    /// Here alone.
    pub left_over: Vec<String>,
}

/// Why there is nothing to compare with.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    #[error("cannot reach containerd at {}; its address is [grpc] in its configuration", socket.display())]
    Connect { socket: PathBuf, source: tonic::transport::Error },
    #[error("containerd does not list {what}")]
    Refused { what: String, source: Box<Status> },
    #[error("containerd does not answer within {0:?}")]
    Silent(Duration),
    #[error("containerd at {} has {count} snapshots of {name:?} and asks for them elsewhere: [proxy_plugins.{name}] there has another socket", socket.display())]
    Elsewhere { socket: PathBuf, name: String, count: usize },
}

/// The names that containerd asks for while somebody wants to know.
#[derive(Debug, Default)]
pub(super) struct Asked {
    noted: Mutex<Option<HashSet<String>>>,
    /// Held by who wants to know.
    wanted: tokio::sync::Mutex<()>,
}

/// Ends the noting.
struct Noting<'a>(&'a Asked);

/// How things are at one time.
struct Look {
    common: usize,
    lost: HashSet<String>,
    left_over: HashSet<String>,
}

/// What is being made or removed is known to one of both a moment sooner: only what is so before and after this counts.
const BETWEEN: Duration = Duration::from_secs(1);

/// Listing ten thousand snapshots takes a few seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Names that are noted at most: no node has as many snapshots.
const NOTED_MAX: usize = 1_000_000;

// === impl Asked ===

impl Asked {
    fn note(&self, key: &str) {
        if let Some(noted) = &mut *self.noted.lock()
            && !noted.contains(key)
            && noted.len() < NOTED_MAX
        {
            noted.insert(key.to_owned());
        }
    }

    fn begin(&self) -> Noting<'_> {
        *self.noted.lock() = Some(HashSet::new());
        Noting(self)
    }
}

impl Noting<'_> {
    fn end(self) -> HashSet<String> {
        self.0.noted.lock().take().unwrap_or_default()
    }
}

impl Drop for Noting<'_> {
    fn drop(&mut self) {
        *self.0.noted.lock() = None;
    }
}

// === impl Snapshots ===

impl Snapshots {
    /// containerd wants to know how this one is.
    pub(in crate::snapshotter) fn note_asked(&self, key: &str) {
        self.shared.asked.note(key);
    }

    /// Compares with what the containerd at this socket knows of the snapshotter that it calls `name`. Takes some seconds.
    ///
    /// # Errors
    /// Fails if containerd does not answer, or has its snapshots elsewhere.
    pub async fn compare(&self, containerd: &Path, name: &str) -> Result<Compared, CompareError> {
        let _one_at_a_time = self.shared.asked.wanted.lock().await;
        let looking = async {
            let endpoint = Endpoint::from_shared(format!("unix://{}", containerd.display()));
            let connected = async { endpoint?.connect().await };
            let unreachable = |source| CompareError::Connect { socket: containerd.to_owned(), source };
            let channel = connected.await.map_err(unreachable)?;
            let first = self.look(&channel, containerd, name).await?;
            tokio::time::sleep(BETWEEN).await;
            Ok((first, self.look(&channel, containerd, name).await?))
        };
        let looked = tokio::time::timeout(PATIENCE, looking).await;
        let (first, second) = looked.map_err(|_| CompareError::Silent(PATIENCE))??;
        let both = |one: &HashSet<String>, other: &HashSet<String>| {
            let mut names: Vec<String> = one.intersection(other).cloned().collect();
            names.sort();
            names
        };
        Ok(Compared {
            common: second.common,
            lost: both(&first.lost, &second.lost),
            left_over: both(&first.left_over, &second.left_over),
        })
    }

    async fn look(&self, channel: &Channel, containerd: &Path, name: &str) -> Result<Look, CompareError> {
        let before = self.shared.names();
        let noting = self.shared.asked.begin();
        let mut listed = 0;
        for namespace in namespaces(channel).await? {
            listed += list(channel, &namespace, name).await?;
        }
        let (asked, now) = (noting.end(), self.shared.names());
        if asked.is_empty() && listed > 0 {
            let (socket, name) = (containerd.to_owned(), name.to_owned());
            return Err(CompareError::Elsewhere { socket, name, count: listed });
        }
        let is_here = |key: &str| before.contains(key) || now.contains(key);
        let (known, lost): (HashSet<String>, HashSet<String>) = asked.into_iter().partition(|key| is_here(key));
        let left_over = before.intersection(&now).filter(|key| !known.contains(&***key));
        Ok(Look { common: known.len(), left_over: left_over.map(|key| key.to_string()).collect(), lost })
    }
}

impl super::Shared {
    /// Of all there are at this moment.
    fn names(&self) -> HashSet<Arc<str>> {
        self.book.lock().iter().map(|snapshot| snapshot.name.clone()).collect()
    }
}

async fn namespaces(channel: &Channel) -> Result<Vec<String>, CompareError> {
    let mut client = NamespacesClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let listed = client.list(ListNamespacesRequest::default()).await;
    let refused = |status| CompareError::Refused { what: "its namespaces".to_owned(), source: Box::new(status) };
    let listed = listed.map_err(refused)?.into_inner();
    let mut names: Vec<String> = listed.namespaces.into_iter().map(|namespace| namespace.name).collect();
    if names.is_empty() {
        // A new containerd's: it says at least whether it knows the snapshotter.
        names.push("default".to_owned());
    }
    Ok(names)
}

/// How many it names.
async fn list(channel: &Channel, namespace: &str, name: &str) -> Result<usize, CompareError> {
    let mut client = SnapshotsClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let listing = async {
        let mut request = Request::new(ListSnapshotsRequest { snapshotter: name.to_owned(), filters: Vec::new() });
        let value = namespace.parse().map_err(|_| Status::invalid_argument("the namespace's name is no metadata"))?;
        request.metadata_mut().insert("containerd-namespace", value);
        let (mut parts, mut count) = (client.list(request).await?.into_inner(), 0);
        while let Some(part) = parts.message().await? {
            count += part.info.len();
        }
        Ok(count)
    };
    let what = || format!("the snapshots of {name:?} in the namespace {namespace:?}");
    listing.await.map_err(|status| CompareError::Refused { what: what(), source: Box::new(status) })
}
