//! A store with scanned layers, views of them, and a FUSE mount that shows the views.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use oncefs::blob::{InMemory, Layered, Origin};
use oncefs::digest::{DiffId, Digest, LayerDigest};
use oncefs::fuse::{Config, Options, Provide, Ready, Root, Session, Shelf, Unavailable};
use oncefs::index::scan::{Limits, Progress, scan};
use oncefs::store::{self, Layer, Store};
use oncefs::sync::atomic::{AtomicUsize, Ordering};
use oncefs::sys::mount;
use oncefs::view::{LayerSlot, Lower, View, ViewSlot};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::source::Source;

/// For whatever should happen soon: long enough for a busy machine.
pub(super) const SOON: Duration = Duration::from_secs(60);

/// Everything a mount needs, taken down in order when dropped.
pub(super) struct Stage {
    pub(super) session: Option<Session>,
    pub(super) shelf: Shelf,
    pub(super) source: Arc<Source>,
    pub(super) store: Store,
    pub(super) runtime: Runtime,
    dir: TempDir,
}

/// How a blob is packed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Packing {
    Plain,
    Gzip,
}

/// Gives a view when it is allowed to, and counts how often it was asked.
pub(super) struct Gate {
    ready: Arc<Ready>,
    state: watch::Sender<State>,
    pub(super) asked: AtomicUsize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Shut,
    Open,
    Broken,
}

// === impl Stage ===

impl Stage {
    /// One mount of all views.
    pub(super) fn new() -> Self {
        let mut stage = Self::unmounted();
        stage.session = Some(stage.mount(Root::All, &stage.mountpoint()));
        stage
    }

    pub(super) fn unmounted() -> Self {
        assert!(rustix::process::geteuid().is_root(), "tests of mounts need root: run them with sudo");
        Self::for_anybody()
    }

    pub(super) fn for_anybody() -> Self {
        assert!(Path::new("/dev/fuse").exists(), "tests of mounts need /dev/fuse: modprobe fuse");
        let dir = TempDir::new().unwrap();
        std::fs::create_dir(dir.path().join("mnt")).unwrap();
        let source = Source::new();
        let store = Store::open(&dir.path().join("store"), store::Config::default(), source.clone()).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        Self { session: None, shelf: Shelf::default(), source, store, runtime, dir }
    }

    pub(super) fn mount(&self, root: Root, at: &Path) -> Session {
        let options = Options { root, allow_other: true, owner: None, restrictions: Default::default() };
        // As few threads as can be: one that waited would be missed.
        let config = Config { threads: 2, ..Config::default() };
        Session::start(&self.shelf, at, &options, &config, self.runtime.handle().clone()).unwrap()
    }

    pub(super) fn session(&self) -> &Session {
        self.session.as_ref().unwrap()
    }

    pub(super) fn mountpoint(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// A new empty directory.
    pub(super) fn directory(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    }

    /// Scans a tar into the store.
    pub(super) fn layer(&self, tar: &[u8], packing: Packing) -> Arc<Layer> {
        let blob = pack(tar, packing);
        let layered = Layered {
            digest: LayerDigest(Digest::of(&blob)),
            diff_id: DiffId(Digest::of(tar)),
            size: blob.len() as u64,
            media_type: String::new(),
            annotations: BTreeMap::new(),
        };
        self.source.add(layered.digest, blob.clone().into());
        let receiving = self.store.receive(&layered.digest).unwrap();
        let (blob, progress) = (InMemory(blob.into()), Arc::new(Progress::default()));
        let limits = Limits::default();
        let scanned = self.runtime.block_on(scan(&layered, &blob, receiving.parts(), &limits, &progress));
        receiving.finish(scanned.unwrap(), Origin("oci:/tests".into())).unwrap()
    }

    pub(super) fn ready(&self, layers: &[&Arc<Layer>]) -> Arc<Ready> {
        let slot = ViewSlot(self.store.new_view_slot().unwrap());
        let lower = |layer: &&Arc<Layer>| Lower { slot: LayerSlot(layer.slot()), tree: layer.tree().clone() };
        let view = View::open(slot, layers.iter().map(lower).collect()).unwrap();
        let layers = layers.iter().map(|layer| (LayerSlot(layer.slot()), Arc::clone(layer)));
        Arc::new(Ready { view: Arc::new(view), layers: layers.collect::<HashMap<_, _>>() })
    }

    /// Shows a view of these layers, bottom first, and says where.
    pub(super) fn show(&self, name: &str, layers: &[&Arc<Layer>]) -> PathBuf {
        self.show_through(name, &Gate::new(self.ready(layers), State::Open));
        self.mountpoint().join(name)
    }

    pub(super) fn show_through(&self, name: &str, gate: &Arc<Gate>) -> ViewSlot {
        let slot = gate.ready.view.slot();
        self.shelf.add(slot, name, gate.clone());
        slot
    }

    /// Shows a view where everybody can get at it.
    pub(super) fn bind(&self, view: &Path) -> Bound {
        let at = self.directory("bound");
        std::fs::set_permissions(self.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        mount::bind_read_only(view, &at, mount::Restrictions::default()).unwrap();
        Bound(at)
    }

    /// A view of one plain layer made of this tar.
    pub(super) fn show_tar(&self, name: &str, tar: &[u8]) -> PathBuf {
        self.show(name, &[&self.layer(tar, Packing::Plain)])
    }

    /// Mounts the layer as the kernel does it, without us.
    pub(super) fn erofs(&self, layer: &Layer) -> Bound {
        let at = self.directory(&format!("erofs-{}", layer.slot()));
        let files = self.store.root().join("layers/sha256").join(layer.digest().0.hex());
        mount::erofs(&files.join("tree"), &files.join("data"), &at)
            .expect("this test needs a kernel that mounts EROFS from files (6.12 or newer)");
        Bound(at)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.session = None;
    }
}

/// Lets go of all frames: the next read of any byte has to fetch it.
pub(super) fn drop_all(layer: &Layer) {
    layer.drop_frames(0..layer.frames().len()).unwrap();
}

fn pack(tar: &[u8], packing: Packing) -> Vec<u8> {
    match packing {
        Packing::Plain => tar.to_vec(),
        Packing::Gzip => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(tar).unwrap();
            gzip.finish().unwrap()
        }
    }
}

/// Something mounted beside, until this is dropped.
pub(super) struct Bound(pub(super) PathBuf);

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = mount::detach(&self.0);
    }
}

// === impl Gate ===

impl Gate {
    pub(super) fn new(ready: Arc<Ready>, state: State) -> Arc<Self> {
        Arc::new(Self { ready, state: watch::channel(state).0, asked: AtomicUsize::new(0) })
    }

    pub(super) fn set(&self, state: State) {
        self.state.send_replace(state);
    }

    pub(super) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Provide for Gate {
    fn view(&self) -> BoxFuture<'static, Result<Arc<Ready>, Unavailable>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let (ready, mut state) = (self.ready.clone(), self.state.subscribe());
        Box::pin(async move {
            let state = *state.wait_for(|state| *state != State::Shut).await.unwrap();
            if state == State::Open { Ok(ready) } else { Err(Unavailable("the registry is on fire".into())) }
        })
    }
}

// === waiting and running ===

/// Polls until `happened`, and fails with `what` when it does not happen soon.
pub(super) fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !happened() {
        assert!(Instant::now() < deadline, "did not happen within {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What a program prints; it must succeed.
pub(super) fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("this test needs {command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
