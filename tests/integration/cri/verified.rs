//! What a PullImage through the proxy means for a node with a store: all layers here and verified, or an error that says why not.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oncefs::config::Config;
use oncefs::control::LayerReport;
use oncefs::daemon::{Node, NodePulls};
use oncefs::digest::Digest;
use oncefs::registry;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use super::backend::FakeContainerd;
use super::*;
use crate::cli::image::{Image, Layer, MANIFEST, Tar};
use crate::index::made;
use crate::support::debian_registry::{Account, DebianRegistry, bytes_of_blobs};
use crate::support::ports;
use crate::support::scripted_registry::{Act, Running, Script, registry};

const PULL: &str = "/runtime.v1.ImageService/PullImage";
/// Whatever else the machine has to do.
pub(super) const PATIENCE_SECS: u64 = 30;

const KUBELETS: Account = Account { user: "kubelet", password: "hunter2-of-kubelets" };

/// A node's store behind the proxy, and a containerd that says yes to all.
pub(super) struct Stand {
    pub(super) proxied: Proxied<NodePulls>,
    node: Node,
    containerd: FakeContainerd,
    _dir: TempDir,
}

impl Stand {
    async fn new() -> Self {
        Self::with_patience(PATIENCE_SECS).await
    }

    /// Bodies may pause for so many seconds.
    async fn with_patience(secs: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let node = open(dir.path(), secs).await;
        let proxied = Proxied::of(NodePulls::new(node.clone()), |_| ());
        let containerd = proxied.containerd();
        Self { proxied, node, containerd, _dir: dir }
    }

    async fn pull(&self, image: &str, auth: Option<(&str, &str)>) -> Result<(), Status> {
        self.proxied.client().pull(image, auth).await.map(drop)
    }

    fn pulling(&self, image: &str) -> JoinHandle<Result<(), Status>> {
        let (client, image) = (self.proxied.client(), image.to_owned());
        tokio::spawn(async move { client.pull(&image, None).await.map(drop) })
    }

    async fn layers(&self) -> Vec<LayerReport> {
        self.node.status().await.unwrap().layers
    }

    fn forwarded(&self) -> usize {
        self.containerd.seen_of(PULL).len()
    }

    /// What the pull ends with, which containerd must not have heard of.
    async fn refused(&self, image: &str, auth: Option<(&str, &str)>) -> Status {
        let before = self.forwarded();
        let refused = self.pull(image, auth).await.unwrap_err();
        assert_eq!(self.forwarded(), before, "{refused}");
        refused
    }

    /// A pull that comes to containerd though nothing is here.
    async fn left_to_containerd(&self, image: &str, auth: Option<(&str, &str)>) {
        let before = self.forwarded();
        self.pull(image, auth).await.unwrap();
        assert_eq!(self.forwarded(), before + 1);
    }
}

pub(super) async fn open(dir: &Path, idle_timeout_secs: u64) -> Node {
    let registry = registry::Config { retries: 1, retry_pause_ms: 1, idle_timeout_secs, ..registry::Config::default() };
    let config = Config { root: dir.join("root"), run: dir.join("run"), registry, ..Config::default() };
    Node::open(&config).await.unwrap()
}

/// A scripted registry with this image as `app:1`.
fn holding(image: &Image) -> Script {
    let blobs = image.blobs().into_iter().map(|(_, bytes)| bytes.into());
    let script = blobs.fold(registry(), |script, blob| script.with_blob("app", &blob));
    script.with_manifest("app", "1", MANIFEST, &image.manifest.clone().into())
}

fn app(registry: &Running) -> String {
    format!("{}/app:1", registry.address)
}

/// Of a layer of an image, as its registry is asked for it.
fn path_of(layer: &Layer) -> String {
    format!("blobs/{}", layer.digest())
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_pulls_with_kubelets_login_fetch_each_byte_once() {
    let image = gzipped(401);
    let registry = DebianRegistry::start(Some(&KUBELETS));
    let name = push(&registry, &image, "for/kubelet:1");
    let stand = Stand::new().await;
    // Each kubelet worker has a call of its own, over one connection.
    let client = stand.proxied.client();
    let pulls = (0..20).map(|_| {
        let (client, name) = (client.clone(), name.clone());
        tokio::spawn(async move { client.pull(&name, Some((KUBELETS.user, KUBELETS.password))).await })
    });
    for pulled in futures::future::join_all(pulls).await {
        pulled.unwrap().unwrap();
    }
    let forwarded = stand.forwarded();
    assert!((1..=20).contains(&forwarded), "{forwarded} for 20 that are alike");
    let layers = stand.layers().await;
    assert_eq!(layers.len(), image.layers.len());
    assert!(layers.iter().all(|layer| layer.data_bytes == layer.resident_bytes), "{layers:?}");
    let sent = bytes_of_blobs(&registry.stop().0);
    for layer in &image.layers {
        assert_eq!(sent.get(&layer.digest().hex()), Some(&(layer.blob.len() as u64)), "{}", layer.digest());
    }
}

/// skopeo would pack plain layers itself.
fn gzipped(seed: u64) -> Image {
    let layer = |name: &str, seed| Layer::gzip(&Tar::new().file(name, &made::program(seed, 1_000_000)).done());
    Image::of(&[layer("bin/a", seed), layer("bin/b", seed + 1000), layer("bin/c", seed + 2000)])
}

fn push(registry: &DebianRegistry, image: &Image, to: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    image.write_layout(dir.path());
    let mut copy = Command::new("skopeo");
    copy.args(["copy", "--quiet", "--dest-tls-verify=false"]);
    copy.arg(format!("--dest-creds={}:{}", KUBELETS.user, KUBELETS.password));
    copy.arg(format!("oci:{}", dir.path().display())).arg(format!("docker://{}/{to}", registry.address));
    assert!(copy.status().expect("the program skopeo is needed (Debian package skopeo)").success());
    format!("{}/{to}", registry.address)
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_an_error_and_missing_ones_containerds_affair() {
    let registry = DebianRegistry::start(Some(&KUBELETS));
    let name = push(&registry, &gzipped(402), "for/kubelet:1");
    let stand = Stand::new().await;
    let denied = stand.refused(&name, Some(("kubelet", "hunter3"))).await;
    assert_eq!(denied.code(), Code::PermissionDenied);
    assert!(denied.message().contains(&name) && !denied.message().contains("hunter"), "{denied}");
    // Its own configuration may have a login.
    let other = push(&registry, &gzipped(403), "for/nobody:1");
    stand.left_to_containerd(&other, None).await;
    assert!(stand.layers().await.is_empty());
    // And nothing of the refusal is remembered.
    stand.pull(&name, Some((KUBELETS.user, KUBELETS.password))).await.unwrap();
    assert_eq!(stand.layers().await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_is_not_there_is_not_found() {
    let registry = holding(&Image::usual(404)).run().await;
    let stand = Stand::new().await;
    let name = format!("{}/app:2", registry.address);
    let missing = stand.refused(&name, None).await;
    assert_eq!(missing.code(), Code::NotFound);
    assert!(missing.message().contains(&name) && missing.message().contains("check name and tag"), "{missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_layer_is_an_error_that_names_it_and_leaves_nothing() {
    let image = Image::usual(405);
    let [_, _, damaged] = &image.layers[..] else { panic!("three layers") };
    let mut bytes = damaged.blob.clone();
    *bytes.last_mut().unwrap() ^= 1;
    let registry = holding(&image).always(&path_of(damaged), Act::Bytes(bytes.into())).run().await;
    let stand = Stand::new().await;
    let corrupt = stand.refused(&app(&registry), None).await;
    assert_eq!(corrupt.code(), Code::DataLoss);
    for part in [app(&registry), damaged.digest().to_string(), "arrived with digest sha256:".to_owned()] {
        assert!(corrupt.message().contains(&part), "{part} is missing in: {corrupt}");
    }
    let here: Vec<Digest> = stand.layers().await.iter().map(|layer| layer.digest.0).collect();
    assert!(!here.contains(&damaged.digest()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_not_what_the_config_says_is_an_error() {
    let mut layer = Layer::gzip(&Tar::new().file("a", b"a").done());
    layer.diff_id = Digest::of(b"something else");
    let registry = holding(&Image::of(std::slice::from_ref(&layer))).run().await;
    let corrupt = Stand::new().await.refused(&app(&registry), None).await;
    assert_eq!(corrupt.code(), Code::DataLoss);
    assert!(corrupt.message().contains(&layer.digest().to_string()), "{corrupt}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_was_reached_and_fails_is_unavailable() {
    let image = Image::usual(406);
    let [layer, ..] = &image.layers[..] else { panic!("three layers") };
    let fails: [(&str, Act); 4] = [
        ("manifests/", Act::Status(503, Vec::new())),
        ("manifests/", Act::Status(429, Vec::new())),
        (&path_of(layer), Act::StallAfter(100)),
        (&path_of(layer), Act::CutAfter(100)),
    ];
    for (part, act) in fails {
        let registry = holding(&image).always(part, act).run().await;
        let failed = Stand::with_patience(1).await.refused(&app(&registry), None).await;
        assert_eq!(failed.code(), Code::Unavailable, "{failed}");
        assert!(failed.message().contains(&app(&registry)), "{failed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_oncefs_cannot_do_is_left_to_containerd() {
    let stand = Stand::new().await;
    // Nobody listens there: containerd may have a proxy or a mirror.
    let unused = ports::unused();
    stand.left_to_containerd(&format!("{unused}/app:1"), None).await;
    for reference in ["oci:/etc:x", "oci-archive:/etc/passwd", "UPPER/case", "app@md5:00", &"x".repeat(5000)] {
        stand.left_to_containerd(reference, None).await;
    }
    // A name that would leave the root, and a kind of layer that oncefs does not know.
    let escaping = Layer::gzip(&Tar::new().raw("../../etc/passwd", b"x").done());
    let mut unknown = Layer::plain(&Tar::new().file("a", b"a").done());
    unknown.media_type = "application/vnd.example.layer.v1.tar+brotli";
    for layer in [escaping, unknown] {
        let registry = holding(&Image::of(&[layer])).run().await;
        stand.left_to_containerd(&app(&registry), None).await;
    }
    // For a machine of another kind.
    let image = Image::usual(407);
    let blobs = image.blobs().into_iter().map(|(_, bytes)| bytes.into());
    let script = blobs.fold(registry(), |script, blob| script.with_blob("app", &blob));
    let registry = script.with_index("app", "1", &image.index_for("linux", "riscv64").into()).run().await;
    stand.left_to_containerd(&app(&registry), None).await;
    assert!(stand.layers().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_who_wait_gives_up_and_the_other_gets_the_image() {
    let image = Image::usual(408);
    let [_, _, slow] = &image.layers[..] else { panic!("three layers") };
    let registry = holding(&image).once(&path_of(slow), Act::StallAfter(1000)).run().await;
    // The stalled layer goes on after that: long after the first has given up.
    let stand = Stand::with_patience(5).await;
    let (first, second) = (stand.pulling(&app(&registry)), stand.pulling(&app(&registry)));
    until_seen(&registry, &path_of(slow)).await;
    first.abort();
    second.await.unwrap().unwrap();
    assert_eq!((stand.layers().await.len(), stand.forwarded()), (3, 1));
}

async fn until_seen(registry: &Running, part: &str) {
    let seen = async {
        while registry.seen(part).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), seen).await.expect("the registry is not asked");
}

/// Runs this program's test `with_everything_logged` in a process of its own, whose log is its output.
#[test]
fn the_log_tells_of_pulls_and_never_of_passwords() {
    let mut process = Command::new(std::env::current_exe().unwrap());
    process.args(["--ignored", "--exact", "cri::verified::with_everything_logged", "--nocapture"]);
    let ran = process.output().unwrap();
    let log = String::from_utf8(ran.stderr).unwrap();
    assert!(ran.status.success(), "{log}");
    for words in ["pull failed", "all layers are here and verified", "pull left to containerd", "TRACE"] {
        assert!(log.contains(words), "{words:?} is missing in the log");
    }
    let basic = STANDARD.encode(format!("{}:{}", KUBELETS.user, KUBELETS.password));
    for secret in [KUBELETS.password, "hunter3", &basic] {
        assert!(!log.contains(secret), "the log has {secret}");
    }
}

#[tokio::test]
#[ignore = "the test above runs it, with a log for itself"]
async fn with_everything_logged() {
    let log = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false);
    log.with_writer(std::io::stderr).init();
    let registry = DebianRegistry::start(Some(&KUBELETS));
    let name = push(&registry, &gzipped(409), "for/kubelet:1");
    let stand = Stand::new().await;
    stand.refused(&name, Some((KUBELETS.user, "hunter3-is-wrong"))).await;
    stand.pull(&name, Some((KUBELETS.user, KUBELETS.password))).await.unwrap();
    stand.left_to_containerd("UPPER/case", Some((KUBELETS.user, KUBELETS.password))).await;
}
