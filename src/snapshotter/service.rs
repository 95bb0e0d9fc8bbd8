//! containerd's protocol in front of the snapshots: each call is taken apart, done, and put together again.

use std::sync::Arc;
use std::time::SystemTime;

use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use super::book::{Kind, Labels, Snapshot};
use super::error::SnapshotError;
use super::filter::Filters;
use super::metrics::Method;
use super::protocol::types;
use super::protocol::v1::snapshots_server::{Snapshots as Protocol, SnapshotsServer};
use super::protocol::v1::{
    CleanupRequest, CommitSnapshotRequest, Info, Kind as KindNumber, ListSnapshotsRequest, ListSnapshotsResponse,
    MountsRequest, MountsResponse, PrepareSnapshotRequest, PrepareSnapshotResponse, RemoveSnapshotRequest,
    StatSnapshotRequest, StatSnapshotResponse, UpdateSnapshotRequest, UpdateSnapshotResponse, UsageRequest,
    UsageResponse, ViewSnapshotRequest, ViewSnapshotResponse,
};
use super::snapshots::{Commit, New, Snapshots};
use crate::mount::Mount;

/// The most that containerd sends or takes in one message.
pub(super) const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// So many snapshots are told of in one message, as containerd's own servers do.
const LIST_CHUNK: usize = 100;

/// Why the service ended before it was told to.
#[derive(Debug, thiserror::Error)]
#[error("the snapshots service ended")]
pub struct ServiceFailed(#[from] tonic::transport::Error);

/// Answers containerd until `stop` resolves and the calls under way have been answered.
pub async fn serve(
    listener: UnixListener,
    snapshots: Snapshots,
    stop: impl Future<Output = ()>,
) -> Result<(), ServiceFailed> {
    let service = SnapshotsServer::new(Service(snapshots))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let server = tonic::transport::Server::builder().add_service(service);
    Ok(server.serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop).await?)
}

struct Service(Snapshots);

// === impl Service ===

impl Service {
    /// Answers one call, which is counted and timed.
    async fn call<T>(&self, method: Method, answering: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        self.0.containerd_calls();
        self.0.metrics().call(method, answering).await
    }
}

#[tonic::async_trait]
impl Protocol for Service {
    type ListStream = BoxStream<'static, Result<ListSnapshotsResponse, Status>>;

    async fn prepare(
        &self,
        request: Request<PrepareSnapshotRequest>,
    ) -> Result<Response<PrepareSnapshotResponse>, Status> {
        let answering = async {
            let PrepareSnapshotRequest { key, parent, labels, .. } = request.into_inner();
            let new = New { key, parent, labels: sorted(labels) };
            let mounts = self.0.prepare(new).await?;
            Ok(Response::new(PrepareSnapshotResponse { mounts: told(mounts) }))
        };
        self.call(Method::Prepare, answering).await
    }

    async fn view(&self, request: Request<ViewSnapshotRequest>) -> Result<Response<ViewSnapshotResponse>, Status> {
        let answering = async {
            let ViewSnapshotRequest { key, parent, labels, .. } = request.into_inner();
            let new = New { key, parent, labels: sorted(labels) };
            let mounts = self.0.view(new).await?;
            Ok(Response::new(ViewSnapshotResponse { mounts: told(mounts) }))
        };
        self.call(Method::View, answering).await
    }

    async fn mounts(&self, request: Request<MountsRequest>) -> Result<Response<MountsResponse>, Status> {
        let answering = async {
            let mounts = self.0.mounts(&request.into_inner().key).await?;
            Ok(Response::new(MountsResponse { mounts: told(mounts) }))
        };
        self.call(Method::Mounts, answering).await
    }

    async fn commit(&self, request: Request<CommitSnapshotRequest>) -> Result<Response<()>, Status> {
        let answering = async {
            let CommitSnapshotRequest { name, key, labels, parent, .. } = request.into_inner();
            self.0.commit(Commit { key, name, labels: sorted(labels), parent }).await?;
            Ok(Response::new(()))
        };
        self.call(Method::Commit, answering).await
    }

    async fn remove(&self, request: Request<RemoveSnapshotRequest>) -> Result<Response<()>, Status> {
        let answering = async {
            self.0.remove(&request.into_inner().key).await?;
            Ok(Response::new(()))
        };
        self.call(Method::Remove, answering).await
    }

    async fn stat(&self, request: Request<StatSnapshotRequest>) -> Result<Response<StatSnapshotResponse>, Status> {
        let answering = async {
            let key = request.into_inner().key;
            self.0.note_asked(&key);
            let snapshot = self.0.stat(&key)?;
            Ok(Response::new(StatSnapshotResponse { info: Some(info(&snapshot)) }))
        };
        self.call(Method::Stat, answering).await
    }

    async fn update(
        &self,
        request: Request<UpdateSnapshotRequest>,
    ) -> Result<Response<UpdateSnapshotResponse>, Status> {
        let answering = async {
            let UpdateSnapshotRequest { info: change, update_mask, .. } = request.into_inner();
            let change = change.ok_or_else(|| SnapshotError::Invalid("an update needs to say what".to_owned()))?;
            let named = named(update_mask.map(|mask| mask.paths).unwrap_or_default())?;
            let snapshot = self.0.update(&change.name, sorted(change.labels), named).await?;
            Ok(Response::new(UpdateSnapshotResponse { info: Some(info(&snapshot)) }))
        };
        self.call(Method::Update, answering).await
    }

    async fn list(&self, request: Request<ListSnapshotsRequest>) -> Result<Response<Self::ListStream>, Status> {
        let answering = async {
            let filters = Filters::parse(&request.into_inner().filters)?;
            let found = self.0.list(&filters);
            let chunk = |chunk: Vec<Arc<Snapshot>>| {
                Ok(ListSnapshotsResponse { info: chunk.iter().map(|one| info(one)).collect() })
            };
            Ok(Response::new(stream::iter(found).chunks(LIST_CHUNK).map(chunk).boxed()))
        };
        self.call(Method::List, answering).await
    }

    async fn usage(&self, request: Request<UsageRequest>) -> Result<Response<UsageResponse>, Status> {
        let answering = async {
            let usage = self.0.usage(&request.into_inner().key).await?;
            let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
            Ok(Response::new(UsageResponse { size: number(usage.bytes), inodes: number(usage.inodes) }))
        };
        self.call(Method::Usage, answering).await
    }

    /// Nothing to do: what was removed is being deleted already.
    async fn cleanup(&self, _request: Request<CleanupRequest>) -> Result<Response<()>, Status> {
        let answering = async { Ok(Response::new(())) };
        self.call(Method::Cleanup, answering).await
    }
}

/// The labels that an update is about; `None` is all of them.
fn named(paths: Vec<String>) -> Result<Option<Vec<String>>, SnapshotError> {
    let mut named = Vec::new();
    let all = paths.is_empty() || paths.iter().any(|path| path == "labels");
    for path in paths {
        match path.strip_prefix("labels.") {
            Some(label) => named.push(label.to_owned()),
            None if path == "labels" => {}
            None => return Err(SnapshotError::Invalid(format!("{path:?} of a snapshot cannot be changed"))),
        }
    }
    Ok(if all { None } else { Some(named) })
}

fn info(snapshot: &Snapshot) -> Info {
    let kind = match snapshot.kind {
        Kind::View => KindNumber::View,
        Kind::Active => KindNumber::Active,
        Kind::Committed => KindNumber::Committed,
    };
    Info {
        name: snapshot.name.to_string(),
        parent: snapshot.parent.as_deref().unwrap_or_default().to_owned(),
        kind: kind.into(),
        created_at: Some(timestamp(snapshot.created)),
        updated_at: Some(timestamp(snapshot.updated)),
        labels: snapshot.labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
    }
}

fn timestamp(time: SystemTime) -> prost_types::Timestamp {
    time.into()
}

fn told(mounts: Vec<Mount>) -> Vec<types::Mount> {
    let told = |mount: Mount| types::Mount {
        r#type: mount.kind.name().to_owned(),
        source: mount.source.display().to_string(),
        target: String::new(),
        options: mount.options,
    };
    mounts.into_iter().map(told).collect()
}

/// As containerd's own stores have it, a label without a value is none.
fn sorted(labels: std::collections::HashMap<String, String>) -> Labels {
    labels.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}
