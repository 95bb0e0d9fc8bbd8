//! One node for one test: oncefs, containerd, and what speaks to them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::runtime::Runtime;

use super::configuration::{Release, Told};
use super::cri::Cri;
use super::daemon::Containerd;
use super::images;
use super::service::Service;
use crate::cli::image::{Image, Layer};
use crate::cli::node::{Ran, Running, until};
use crate::support::debian_registry::{Account, Answered, DebianRegistry, Stopped, bytes_of_blobs};

/// Who keeps a node's snapshots, and who pulls its images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Snapshotter {
    /// containerd's own: what the tests themselves are judged by.
    Overlayfs,
    Oncefs,
    /// kubelet's image service is the proxy of oncefs.
    OncefsThroughProxy,
    /// Its server has a keeper.
    OncefsKept,
}

/// A registry with images in it. It outlives the nodes that pull from it.
pub(crate) struct Images {
    pub(crate) registry: DebianRegistry,
    dir: tempfile::TempDir,
}

/// The images of a registry that was stopped.
pub(crate) struct StoppedImages {
    registry: Stopped,
    dir: tempfile::TempDir,
}

/// The fields are dropped in this order: containers before what their files come from.
pub(crate) struct Node {
    pub(crate) containerd: Containerd,
    oncefs: Option<Service>,
    pub(crate) cri: Cri,
    pub(crate) runtime: Arc<Runtime>,
    dir: Below,
}

/// A directory below which nothing stays mounted, and that no process names.
struct Below(tempfile::TempDir);

/// containerd's namespace of what CRI makes.
pub(crate) const CRI_NAMESPACE: &str = "k8s.io";

// === impl Images ===

impl Images {
    /// A registry that holds these images of `tests/images`, each as `images/NAME:latest`.
    pub(crate) fn of(names: &[&str]) -> Self {
        let registry = DebianRegistry::start(None);
        for name in names {
            registry.push(&images::layout(name), "latest", &format!("images/{name}:latest"), None, &[]);
        }
        Self { registry, dir: tempfile::tempdir().unwrap() }
    }

    /// A registry that only this account may use.
    pub(crate) fn for_account(account: &Account) -> Self {
        Self { registry: DebianRegistry::start(Some(account)), dir: tempfile::tempdir().unwrap() }
    }

    /// Adds an image that a test made.
    pub(crate) fn add(&self, image: &Image, name: &str) -> String {
        self.add_as(None, image, name)
    }

    pub(crate) fn add_as(&self, account: Option<&Account>, image: &Image, name: &str) -> String {
        let layout = self.dir.path().join(name.replace(['/', ':'], "-"));
        image.write_layout(&layout);
        // Given no tag, skopeo takes the one image that the layout has.
        let source = format!("oci:{}", layout.display());
        let target = format!("docker://{}/{name}", self.registry.address);
        let mut copy = std::process::Command::new("skopeo");
        copy.args(["copy", "--quiet", "--dest-tls-verify=false", &source, &target]);
        if let Some(Account { user, password }) = account {
            copy.arg(format!("--dest-creds={user}:{password}"));
        }
        Running::start(&mut copy).end().well();
        self.named(name)
    }

    /// Stops the registry. Gives all that it has answered.
    pub(crate) fn stop(self) -> (Vec<Answered>, StoppedImages) {
        let (answered, registry) = self.registry.stop();
        (answered, StoppedImages { registry, dir: self.dir })
    }

    /// The reference of an image of `tests/images`.
    pub(crate) fn reference(&self, name: &str) -> String {
        self.named(&format!("images/{name}:latest"))
    }

    pub(crate) fn named(&self, name: &str) -> String {
        format!("{}/{name}", self.registry.address)
    }
}

// === impl StoppedImages ===

impl StoppedImages {
    pub(crate) fn start(self) -> Images {
        Images { registry: self.registry.start(), dir: self.dir }
    }
}

// === impl Node ===

impl Node {
    /// Pods need the image `pause` in the registry.
    pub(crate) fn start(snapshotter: Snapshotter, images: &Images) -> Self {
        Self::configured(snapshotter, &images.reference("pause"), "")
    }

    /// With more lines in the configuration of oncefs, and any image as the pods' own.
    pub(crate) fn configured(snapshotter: Snapshotter, pause_image: &str, configuration: &str) -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test runs containers: it needs root");
        static NODES: AtomicU32 = AtomicU32::new(0);
        let dir = Below(tempfile::Builder::new().prefix("oncefs-ctd-").tempdir().unwrap());
        let at = dir.0.path().join("containerd");
        let cgroup = format!("oncefs-test-{}-{}", std::process::id(), NODES.fetch_add(1, Ordering::Relaxed));
        let uses_oncefs = snapshotter != Snapshotter::Overlayfs;
        let words: &[&str] = if snapshotter == Snapshotter::OncefsKept { &["serve", "--keeper"] } else { &["serve"] };
        let start = || Service::start(dir.0.path().join("oncefs"), &at.join("c.sock"), configuration, words);
        let oncefs = uses_oncefs.then(start);
        let places = oncefs.as_ref().map(|service| (service.socket(), service.root()));
        let told = Told {
            snapshotter: if uses_oncefs { "oncefs" } else { "overlayfs" },
            oncefs: places.as_ref().map(|(socket, root)| (socket.as_path(), root.as_path())),
            pause_image,
        };
        let containerd = Containerd::start(at, &cgroup, &told);
        let runtime =
            Arc::new(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap());
        let images = match (&oncefs, snapshotter) {
            (Some(service), Snapshotter::OncefsThroughProxy) => service.cri_socket(),
            _ => containerd.socket(),
        };
        let cri = Cri::new(runtime.clone(), images, containerd.socket(), dir.0.path().join("logs"), &cgroup);
        let mut node = Self { containerd, oncefs, cri, runtime, dir };
        node.wait_for_containerd();
        node
    }

    pub(crate) fn wait_for_containerd(&mut self) {
        until("containerd answers", || {
            assert!(!self.containerd.has_ended(), "containerd ended:\n{}", self.containerd.log());
            self.cri.answers()
        });
    }

    pub(crate) fn restart_containerd(&mut self) {
        self.containerd.stop();
        self.containerd.start_again();
        self.wait_for_containerd();
    }

    pub(crate) fn oncefs(&self) -> &Service {
        self.oncefs.as_ref().unwrap()
    }

    pub(crate) fn oncefs_mut(&mut self) -> &mut Service {
        self.oncefs.as_mut().unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.0.path().join(name)
    }

    /// ctr in its own default namespace.
    pub(crate) fn ctr(&self, arguments: &[&str]) -> Ran {
        self.containerd.ctr("default", arguments).end()
    }

    /// Pulls with a ctr that does not tell the snapshotter which image it unpacks.
    pub(crate) fn pull_silently(&self, image: &str) {
        let local: &[&str] = if self.containerd.release == Release::Two { &["--local"] } else { &[] };
        self.ctr(&[&["images", "pull"], local, &[image]].concat()).well();
    }

    /// Runs a container of an image to its end, then removes it. Gives what it said.
    pub(crate) fn run(&self, image: &str, name: &str, words: &[&str]) -> String {
        self.containerd.say("default", &["--rm"], image, name, words)
    }

    /// The names of all snapshots that containerd knows in a namespace.
    pub(crate) fn snapshots(&self, namespace: &str) -> Vec<String> {
        let listed = self.containerd.ctr(namespace, &["snapshots", "ls"]).end().well().out;
        let mut names: Vec<String> =
            listed.lines().skip(1).filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
        names.sort();
        names
    }

    /// Removes an image of a namespace and all that only it needs, and waits for containerd to have done so.
    pub(crate) fn remove_image(&self, namespace: &str, image: &str) {
        self.containerd.ctr(namespace, &["images", "rm", "--sync", image]).end().well();
    }

    /// Has containerd collect garbage, as it does when a lease ends whose owner waits for that.
    pub(crate) fn collect_garbage(&self) {
        static LEASES: AtomicU32 = AtomicU32::new(0);
        let id = format!("collects-{}", LEASES.fetch_add(1, Ordering::Relaxed));
        self.ctr(&["leases", "create", "--id", &id]).well();
        self.ctr(&["leases", "rm", "--sync", &id]).well();
    }

    /// The bytes of blobs that containerd keeps, by the hexadecimal digits of their digests.
    pub(crate) fn content(&self) -> Vec<String> {
        let blobs = self.containerd.dir().join("root/io.containerd.content.v1.content/blobs/sha256");
        crate::cli::node::names_in(&blobs)
    }
}

impl Drop for Below {
    fn drop(&mut self) {
        crate::cli::node::clear(self.0.path());
    }
}

#[track_caller]
pub(crate) fn assert_says(said: &str, words: &str) {
    assert!(said.contains(words), "{words:?} is missing in: {said}");
}

/// The registry sent each byte of these layers once. Before, oncefs asks for one byte of a layer of each image, to see whether
/// it may have it.
#[track_caller]
pub(crate) fn assert_sent_once(answered: &[Answered], layers: &[Layer], images: usize) {
    let sent = bytes_of_blobs(answered);
    for layer in layers {
        let (sent, size) = (sent.get(&layer.digest().hex()).copied().unwrap_or_default(), layer.blob.len() as u64);
        assert!(
            (size..=size + images as u64).contains(&sent),
            "{sent} bytes were sent of {}, which has {size}",
            layer.digest()
        );
    }
}
