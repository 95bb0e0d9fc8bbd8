//! The snapshots service as a client sees it: containerd's, or that of oncefs behind it.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use oncefs::digest::{ChainId, DiffId, Digest};
use oncefs::snapshotter::protocol::v1::snapshots_client::SnapshotsClient;
use oncefs::snapshotter::protocol::v1::{
    CommitSnapshotRequest, Info, Kind, ListSnapshotsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest,
    StatSnapshotRequest,
};
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::cri::connect;
use super::harness::Node;
use super::images::{Image, without_layers};

/// Calls of one namespace on one socket.
pub(crate) struct Snapshots<'a> {
    runtime: &'a Runtime,
    client: SnapshotsClient<Channel>,
    namespace: String,
    /// What is made belongs to it for now.
    lease: Option<String>,
}

impl<'a> Snapshots<'a> {
    pub(crate) fn at(runtime: &'a Runtime, socket: &Path, namespace: &str) -> Self {
        let channel = runtime.block_on(connect(socket)).unwrap();
        Self { runtime, client: SnapshotsClient::new(channel), namespace: namespace.to_owned(), lease: None }
    }

    /// What is made belongs to this lease, and the collector leaves it.
    pub(crate) fn under(self, lease: &str) -> Self {
        Self { lease: Some(lease.to_owned()), ..self }
    }

    fn asked<Q>(&self, message: Q) -> Request<Q> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("containerd-namespace", self.namespace.parse().unwrap());
        if let Some(lease) = &self.lease {
            request.metadata_mut().insert("containerd-lease", lease.parse().unwrap());
        }
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

    pub(crate) fn commit(&mut self, name: &str, key: &str) -> Result<(), Status> {
        let (name, key) = (name.to_owned(), key.to_owned());
        let message = CommitSnapshotRequest {
            snapshotter: "oncefs".to_owned(),
            name,
            key,
            labels: HashMap::new(),
            ..Default::default()
        };
        let request = self.asked(message);
        self.runtime.block_on(self.client.commit(request)).map(drop)
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

/// What a client tells the snapshotter of the layers it would unpack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Labels {
    /// Each layer's chain, as all clients that unpack while they pull do.
    Chain,
    /// And the image, as CRI does and others that are told to.
    Image,
}

/// Pulls as a client does that unpacks while it pulls, which `ctr` of 1.6 does not: manifest and config first, then each layer is
/// asked for of the snapshotter. Says whether all layers were served: no layer needs to be fetched then.
pub(crate) fn pull_unpacking(node: &Node, namespace: &str, name: &str, image: &Image, labels: Labels) -> bool {
    let ctr = |arguments: &[&str]| node.containerd.ctr(namespace, arguments).end().well();
    let documents = without_layers(image, &node.path("."), name);
    ctr(&["images", "import", "--no-unpack", documents.to_str().unwrap()]);
    // Nothing refers to the snapshots yet, and the collector may come by.
    let lease = ctr(&["leases", "create"]).out.trim().to_owned();
    let is_served = ask_for_layers(node, namespace, &lease, name, image, labels);
    if is_served {
        // What a client writes when it is done: the collector keeps what the config refers to.
        let held = format!("containerd.io/gc.ref.snapshot.oncefs={}", chains(image).last().unwrap());
        ctr(&["content", "label", &Digest::of(&image.config).to_string(), &held]);
    }
    ctr(&["leases", "delete", &lease]);
    is_served
}

fn ask_for_layers(node: &Node, namespace: &str, lease: &str, name: &str, image: &Image, labels: Labels) -> bool {
    let chains = chains(image);
    let mut snapshots = Snapshots::at(&node.runtime, &node.containerd.socket(), namespace).under(lease);
    for (n, (chain, layer)) in chains.iter().zip(&image.layers).enumerate() {
        let (manifest, layer) = (image.manifest_digest().to_string(), layer.digest().to_string());
        let rest: Vec<String> = image.layers[n..].iter().map(|layer| layer.digest().to_string()).collect();
        let rest = rest.join(",");
        let mut told = vec![("containerd.io/snapshot.ref", chain.as_str())];
        if labels == Labels::Image {
            told.push(("containerd.io/snapshot/cri.image-ref", name));
            told.push(("containerd.io/snapshot/cri.manifest-digest", &manifest));
            told.push(("containerd.io/snapshot/cri.layer-digest", &layer));
            told.push(("containerd.io/snapshot/cri.image-layers", &rest));
        }
        let parent = n.checked_sub(1).map_or("", |below| chains[below].as_str());
        let key = format!("extract-{n}-test {chain}");
        match snapshots.prepare(&key, parent, &told) {
            Err(status) if status.code() == Code::AlreadyExists => {}
            Err(status) => panic!("{key}: {status}"),
            Ok(_) => {
                snapshots.remove(&key).unwrap();
                return false;
            }
        }
        assert_eq!(snapshots.stat(chain).unwrap().kind, Kind::Committed as i32);
    }
    true
}

fn chains(image: &Image) -> Vec<String> {
    let diff_ids: Vec<DiffId> = image.layers.iter().map(|layer| DiffId(layer.diff_id)).collect();
    ChainId::of_prefixes(&diff_ids).iter().map(ToString::to_string).collect()
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
