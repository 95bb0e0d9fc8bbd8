//! The service over a Unix socket, on a real store, and containerd's client in front of it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt as _};
use hyper_util::rt::TokioIo;
use oncefs::blob::{Blob, BlobError, Blobs, Origin};
use oncefs::digest::LayerDigest;
use oncefs::snapshotter::protocol::types::Mount;
use oncefs::snapshotter::protocol::v1::snapshots_client::SnapshotsClient;
use oncefs::snapshotter::protocol::v1::{
    CommitSnapshotRequest, Info, ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest,
    StatSnapshotRequest, UpdateSnapshotRequest, UsageRequest, UsageResponse, ViewSnapshotRequest,
};
use oncefs::snapshotter::{Filters, Snapshots, serve};
use oncefs::store::{Config, Store, StoreError};
use prost_types::FieldMask;
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

use super::Known;

/// What takes longer hangs.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A node with the snapshots service.
pub(super) struct Served {
    pub(super) dir: TempDir,
    pub(super) known: Known,
    pub(super) snapshots: Snapshots,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
    pub(super) client: Client,
}

/// containerd's calls with as few words as possible.
#[derive(Clone)]
pub(super) struct Client(pub(super) SnapshotsClient<Channel>);

/// Layers come from nowhere: no snapshot needs their bytes.
struct Nowhere;

impl Blobs for Nowhere {
    fn open(&self, _: LayerDigest, _: u64, _: Origin) -> BoxFuture<'_, Result<Arc<dyn Blob>, BlobError>> {
        async { Err(BlobError::NotFound("nothing is here".into())) }.boxed()
    }
}

pub(super) fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Opens the store when what worked on the one before has let go of it.
pub(super) fn open_store(root: &Path) -> Store {
    let until = Instant::now() + PATIENCE;
    loop {
        match Store::open(root, Config::default(), Arc::new(Nowhere)) {
            Err(StoreError::Locked { .. }) if Instant::now() < until => std::thread::sleep(Duration::from_millis(2)),
            opened => return opened.unwrap(),
        }
    }
}

impl Served {
    pub(super) async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    pub(super) async fn start_in(dir: TempDir) -> Self {
        let known = Known::new(dir.path().join("run/fs"));
        Self::over(dir, known).await
    }

    async fn over(dir: TempDir, known: Known) -> Self {
        let store = open_store(&dir.path().join("root"));
        let snapshots = Snapshots::open(store, Arc::new(known.clone()), dir.path().join("run/mapped")).unwrap();
        let socket = dir.path().join("snapshotter.sock");
        let _stale = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let (stop, stopped) = oneshot::channel();
        let serving = serve(listener, snapshots.clone(), async { drop(stopped.await) });
        let serving = tokio::spawn(async { serving.await.unwrap() });
        let client = Client::connect(&socket).await;
        Self { dir, known, snapshots, stop: Some(stop), serving, client }
    }

    /// Tells the service to stop, and does not wait for that.
    pub(super) fn stop(&mut self) {
        let _has_stopped = self.stop.take().unwrap().send(());
    }

    /// Until the service has answered all and is gone.
    pub(super) async fn stopped(&mut self) {
        tokio::time::timeout(PATIENCE, &mut self.serving).await.unwrap().unwrap();
    }

    /// Another daemon on the same root.
    pub(super) async fn restart(mut self) -> Self {
        self.stop();
        self.stopped().await;
        self.again().await
    }

    /// After the service has ended.
    pub(super) async fn again(self) -> Self {
        let Self { dir, known, snapshots, client, .. } = self;
        drop((snapshots, client));
        known.restart();
        Self::over(dir, known).await
    }

    /// After the service has ended: the names of what is there when all that was begun is done.
    pub(super) async fn settled(&self) -> Vec<String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let there = self.snapshots.list(&Filters::parse::<&str>(&[]).unwrap());
            if there.len() == self.directories().len() {
                let mut names: Vec<String> = there.iter().map(|snapshot| snapshot.name.to_string()).collect();
                names.sort();
                return names;
            }
            assert!(Instant::now() < until, "{} snapshots, but directories {:?}", there.len(), self.directories());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.dir.path().join("snapshotter.sock")
    }

    /// The directories of snapshots that are there, by number.
    pub(super) fn directories(&self) -> Vec<u64> {
        let entries = std::fs::read_dir(self.dir.path().join("root/snapshots")).unwrap();
        let mut numbers: Vec<u64> =
            entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
        numbers.sort_unstable();
        numbers
    }

    /// Until so many directories of snapshots are there.
    pub(super) async fn has_directories(&self, count: usize) {
        let until = Instant::now() + PATIENCE;
        while self.directories().len() != count {
            assert!(Instant::now() < until, "{:?} are still there, not {count}", self.directories());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

impl Client {
    pub(super) async fn connect(socket: &Path) -> Self {
        let socket = socket.to_owned();
        let connect = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://snapshotter").connect_with_connector(connect).await.unwrap();
        Self(SnapshotsClient::new(channel).max_decoding_message_size(16 << 20))
    }

    pub(super) async fn prepare(&self, key: &str, parent: &str, labels: &[(&str, &str)]) -> Result<Vec<Mount>, Status> {
        let request = PrepareSnapshotRequest {
            snapshotter: "oncefs".into(),
            key: key.into(),
            parent: parent.into(),
            labels: self::labels(labels),
        };
        Ok(self.0.clone().prepare(request).await?.into_inner().mounts)
    }

    pub(super) async fn view(&self, key: &str, parent: &str) -> Result<Vec<Mount>, Status> {
        let request = ViewSnapshotRequest { key: key.into(), parent: parent.into(), ..Default::default() };
        Ok(self.0.clone().view(request).await?.into_inner().mounts)
    }

    pub(super) async fn mounts(&self, key: &str) -> Result<Vec<Mount>, Status> {
        let request = MountsRequest { key: key.into(), ..Default::default() };
        Ok(self.0.clone().mounts(request).await?.into_inner().mounts)
    }

    pub(super) async fn commit(
        &self,
        name: &str,
        key: &str,
        parent: &str,
        labels: &[(&str, &str)],
    ) -> Result<(), Status> {
        let request = CommitSnapshotRequest {
            snapshotter: "oncefs".into(),
            name: name.into(),
            key: key.into(),
            labels: self::labels(labels),
            parent: parent.into(),
        };
        self.0.clone().commit(request).await?;
        Ok(())
    }

    pub(super) async fn remove(&self, key: &str) -> Result<(), Status> {
        let request = RemoveSnapshotRequest { key: key.into(), ..Default::default() };
        self.0.clone().remove(request).await?;
        Ok(())
    }

    pub(super) async fn stat(&self, key: &str) -> Result<Info, Status> {
        let request = StatSnapshotRequest { key: key.into(), ..Default::default() };
        Ok(self.0.clone().stat(request).await?.into_inner().info.unwrap())
    }

    pub(super) async fn update(&self, key: &str, labels: &[(&str, &str)], paths: &[&str]) -> Result<Info, Status> {
        let info = Info { name: key.into(), labels: self::labels(labels), ..Default::default() };
        let paths = paths.iter().map(|&path| path.to_owned()).collect();
        let request = UpdateSnapshotRequest {
            snapshotter: "oncefs".into(),
            info: Some(info),
            update_mask: Some(FieldMask { paths }),
        };
        Ok(self.0.clone().update(request).await?.into_inner().info.unwrap())
    }

    pub(super) async fn usage(&self, key: &str) -> Result<UsageResponse, Status> {
        let request = UsageRequest { key: key.into(), ..Default::default() };
        Ok(self.0.clone().usage(request).await?.into_inner())
    }

    /// How many infos came in each message, and all infos.
    pub(super) async fn list_in_messages(&self, filters: &[&str]) -> Result<(Vec<usize>, Vec<Info>), Status> {
        let filters = filters.iter().map(|&filter| filter.to_owned()).collect();
        let request = ListSnapshotsRequest { snapshotter: "oncefs".into(), filters };
        let mut messages = self.0.clone().list(request).await?.into_inner();
        let (mut sizes, mut infos) = (Vec::new(), Vec::new());
        while let Some(message) = messages.message().await? {
            sizes.push(message.info.len());
            infos.extend(message.info);
        }
        Ok((sizes, infos))
    }

    pub(super) async fn list(&self, filters: &[&str]) -> Result<Vec<Info>, Status> {
        Ok(self.list_in_messages(filters).await?.1)
    }

    pub(super) async fn names(&self, filters: &[&str]) -> Vec<String> {
        let mut names: Vec<String> = self.list(filters).await.unwrap().into_iter().map(|info| info.name).collect();
        names.sort();
        names
    }

    /// A committed snapshot with a directory of its own.
    pub(super) async fn committed(&self, name: &str, parent: &str) {
        let key = format!("making {name}");
        self.prepare(&key, parent, &[]).await.unwrap();
        self.commit(name, &key, "", &[]).await.unwrap();
    }
}

/// The code of what must have failed.
pub(super) fn code<T: std::fmt::Debug>(answer: Result<T, Status>) -> Code {
    answer.unwrap_err().code()
}
