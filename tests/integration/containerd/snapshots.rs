//! The snapshots service as a client sees it: containerd's, or that of oncefs behind it.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use oncefs::snapshotter::protocol::v1::snapshots_client::SnapshotsClient;
use oncefs::snapshotter::protocol::v1::{
    Info, ListSnapshotsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
};
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::cri::connect;

/// Calls of one namespace on one socket.
pub(crate) struct Snapshots<'a> {
    runtime: &'a Runtime,
    client: SnapshotsClient<Channel>,
    namespace: String,
}

impl<'a> Snapshots<'a> {
    pub(crate) fn at(runtime: &'a Runtime, socket: &Path, namespace: &str) -> Self {
        let channel = runtime.block_on(connect(socket)).unwrap();
        Self { runtime, client: SnapshotsClient::new(channel), namespace: namespace.to_owned() }
    }

    fn asked<Q>(&self, message: Q) -> Request<Q> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("containerd-namespace", self.namespace.parse().unwrap());
        request.set_timeout(std::time::Duration::from_secs(60));
        request
    }

    pub(crate) fn list(&mut self) -> Vec<Info> {
        let request = self.asked(ListSnapshotsRequest { snapshotter: "oncefs".to_owned(), filters: Vec::new() });
        let client = &mut self.client;
        self.runtime.block_on(async {
            let mut stream = client.list(request).await.unwrap().into_inner();
            let mut found = Vec::new();
            while let Some(part) = stream.message().await.unwrap() {
                found.extend(part.info);
            }
            found
        })
    }

    pub(crate) fn prepare(&mut self, key: &str, parent: &str, labels: &[(&str, &str)]) -> Result<usize, Status> {
        let labels: HashMap<_, _> =
            labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let message = PrepareSnapshotRequest {
            snapshotter: "oncefs".to_owned(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels,
        };
        let request = self.asked(message);
        let prepared = self.runtime.block_on(self.client.prepare(request))?;
        Ok(prepared.into_inner().mounts.len())
    }

    pub(crate) fn stat(&mut self, key: &str) -> Result<Info, Status> {
        let request = self.asked(StatSnapshotRequest { snapshotter: "oncefs".to_owned(), key: key.to_owned() });
        Ok(self.runtime.block_on(self.client.stat(request))?.into_inner().info.unwrap())
    }

    pub(crate) fn remove(&mut self, key: &str) -> Result<(), Status> {
        let request = self.asked(RemoveSnapshotRequest { snapshotter: "oncefs".to_owned(), key: key.to_owned() });
        self.runtime.block_on(self.client.remove(request)).map(drop)
    }
}

/// How many snapshots there are of each kind and chain: what containerd and oncefs must agree on, whose names differ.
pub(crate) fn counted(infos: &[Info]) -> BTreeMap<(i32, String), usize> {
    let mut counted = BTreeMap::new();
    for info in infos {
        let chain = info.labels.get("containerd.io/snapshot.ref").cloned().unwrap_or_default();
        *counted.entry((info.kind, chain)).or_default() += 1;
    }
    counted
}
