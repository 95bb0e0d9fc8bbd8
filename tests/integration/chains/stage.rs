//! A node that serves chains, and images in a real registry to ask it for.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use oncefs::config::Config;
use oncefs::control::PullCall;
use oncefs::daemon::{Mounts, Node, ServedChains};
use oncefs::digest::{ChainId, DiffId, Digest, LayerDigest};
use oncefs::snapshotter::{Chains as _, LayerSource, ScanAt, Wanted};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::cli::image::{Image, Layer, Tar};
use crate::cli::node::{names_in, run};
use crate::index::made;
use crate::support::debian_registry::{Account, DebianRegistry};

/// However slow the machine is: what takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// The snapshotter's side of a server, without containerd. Dropped, it unmounts.
pub(super) struct Stage {
    pub(super) chains: ServedChains,
    pub(super) node: Node,
    mounts: Option<Mounts>,
    pub(super) runtime: Runtime,
    pub(super) config: Config,
    pub(super) dir: TempDir,
}

// === impl Stage ===

impl Stage {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(super) fn with(configure: impl FnOnce(&mut Config)) -> Self {
        assert!(
            rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists(),
            "this test mounts file systems: it needs root and /dev/fuse"
        );
        let dir = tempfile::Builder::new().prefix("oncefs-chains-").tempdir().unwrap();
        let mut config = Config { root: dir.path().join("root"), run: dir.path().join("run"), ..Config::default() };
        std::fs::create_dir(&config.run).unwrap();
        config.registry.retries = 1;
        config.registry.retry_pause_ms = 10;
        config.snapshotter.check_timeout_secs = 60;
        configure(&mut config);
        Self::on(dir, config)
    }

    fn on(dir: TempDir, config: Config) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (node, mounts) = runtime.block_on(async {
            let node = Node::open(&config).await.unwrap();
            let mounts = Mounts::new(node.clone(), config.clone());
            mounts.stay().await.unwrap();
            (node, mounts)
        });
        let chains = ServedChains::new(mounts.clone(), &config.snapshotter);
        Self { chains, node, mounts: Some(mounts), runtime, config, dir }
    }

    /// The same store in a new process, as far as the store can tell. Whoever had claims has to make them again.
    pub(super) fn restarted(mut self) -> Self {
        self.close();
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap());
        let config = self.config.clone();
        drop(self);
        Self::on(dir, config)
    }

    fn close(&mut self) {
        if let Some(mounts) = self.mounts.take() {
            self.runtime.block_on(mounts.close());
        }
    }

    pub(super) fn find(&self, wanted: &Wanted) -> bool {
        let finding = self.chains.find(wanted.clone());
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE, finding).await.unwrap() }).is_some()
    }

    /// Finds all chains of the image, bottom first, as containerd does.
    pub(super) fn find_all(&self, image: &Image, reference: &str) -> bool {
        (1..=image.layers.len()).all(|length| self.find(&wanted(image, reference, length)))
    }

    pub(super) fn release_all(&self, image: &Image) {
        (1..=image.layers.len()).rev().for_each(|length| self.chains.release(&chain(image, length)));
    }

    /// As `oncefs pull`.
    pub(super) fn pull(&self, image: &str) {
        let call = PullCall { image: image.to_owned(), platform: None };
        let (news, _nobody_listens) = tokio::sync::mpsc::unbounded_channel();
        self.runtime.block_on(self.node.pull(&call, &news)).unwrap();
    }

    pub(super) fn settle(&self) {
        let _in_the_runtime = self.runtime.enter();
        self.chains.settled();
    }

    /// The layers on disk, as the hexadecimal digits of their digests.
    pub(super) fn layers(&self) -> Vec<String> {
        let mut layers = names_in(&self.config.root.join("layers/sha256"));
        layers.sort();
        layers
    }

    /// Waits until just these layers are on disk.
    #[track_caller]
    pub(super) fn until_layers_are(&self, layers: &[Layer]) {
        let mut want: Vec<String> = layers.iter().map(|layer| layer.digest().hex()).collect();
        want.sort();
        want.dedup();
        let deadline = Instant::now() + PATIENCE;
        while self.layers() != want {
            assert!(Instant::now() < deadline, "want {want:#?}, have {:#?}", self.layers());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(super) fn directory(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    }

    pub(super) fn status(&self) -> oncefs::control::StatusReport {
        self.runtime.block_on(self.node.status()).unwrap()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.close();
    }
}

/// Scans only what is looked at.
pub(super) fn lazily(config: &mut Config) {
    config.snapshotter.scan = ScanAt::Touch;
}

// === what containerd says ===

pub(super) fn chain(image: &Image, length: usize) -> ChainId {
    let diff_ids: Vec<DiffId> = image.layers[..length].iter().map(|layer| DiffId(layer.diff_id)).collect();
    ChainId::of(&diff_ids).unwrap()
}

/// What the labels say of the last of the first `length` layers.
pub(super) fn wanted(image: &Image, reference: &str, length: usize) -> Wanted {
    let layer = LayerDigest(image.layers[length - 1].digest());
    let source = LayerSource { image: reference.to_owned(), manifest: Some(image.manifest_digest()), layer };
    Wanted { source: Some(source), ..unlabelled(image, length) }
}

/// The same from a client that gives only the chain.
pub(super) fn unlabelled(image: &Image, length: usize) -> Wanted {
    let parent = (length > 1).then(|| chain(image, length - 1));
    Wanted { chain: chain(image, length), parent, source: None }
}

// === images ===

/// A layer of one file with half a megabyte in it.
pub(super) fn layer(name: &str, seed: u64) -> Layer {
    Layer::gzip(&Tar::new().file(name, &made::program(seed, 500_000)).done())
}

/// Layers with a file each, `file-SEED`.
pub(super) fn image(seeds: &[u64]) -> Image {
    let layers: Vec<Layer> = seeds.iter().map(|seed| layer(&format!("file-{seed}"), *seed)).collect();
    Image::of(&layers)
}

/// Copies the image into the registry as it is; gives its full name.
pub(super) fn push(registry: &DebianRegistry, image: &Image, name: &str, account: Option<&Account>) -> String {
    let dir = tempfile::tempdir().unwrap();
    let layout = image.write_layout(dir.path());
    let full = format!("{}/{name}", registry.address);
    let mut copy = Command::new("skopeo");
    copy.args(["copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false"]);
    if let Some(Account { user, password }) = account {
        copy.arg(format!("--dest-creds={user}:{password}"));
    }
    run(copy.arg(layout).arg(format!("docker://{full}"))).well();
    full
}

/// Digest as the registry's log has it.
pub(super) fn hex(digest: Digest) -> String {
    digest.hex()
}
