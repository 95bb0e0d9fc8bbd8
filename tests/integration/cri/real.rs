//! The proxy before the real containerd, which unpacks with its own overlayfs snapshotter.

use std::sync::Arc;

use oncefs::daemon::NodePulls;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::Code;

use super::verified::{PATIENCE_SECS, open};
use super::*;
use crate::cli::node::until;
use crate::containerd::cri::Cri;
use crate::containerd::daemon::{Containerd, Told};
use crate::containerd::images;
use crate::support::debian_registry::DebianRegistry;

/// The fields are dropped in this order.
struct Stand {
    containerd: Containerd,
    proxied: Proxied<NodePulls>,
    runtime: Arc<Runtime>,
    registry: DebianRegistry,
    dir: TempDir,
}

impl Stand {
    fn new(name: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("oncefs-cri-").tempdir().unwrap();
        let registry = DebianRegistry::start(None);
        registry.push(&images::layout("tiny"), "latest", "images/tiny:latest", None, &[]);
        let told = Told { snapshotter: "overlayfs", oncefs: None, pause_image: "127.0.0.1:9/no/pods:here" };
        let containerd = Containerd::start(dir.path().join("containerd"), &cgroup(name), &told);
        let runtime = Arc::new(Runtime::new().unwrap());
        let node = runtime.block_on(open(&dir.path().join("oncefs"), PATIENCE_SECS));
        let proxied = {
            let _inside = runtime.enter();
            Proxied::of(NodePulls::new(node), |config| config.containerd = containerd.socket())
        };
        let stand = Self { containerd, proxied, runtime, registry, dir };
        until("containerd answers through the proxy", || stand.cri(&stand.proxied.socket).answers());
        stand
    }

    /// A client of the proxy, or of containerd itself.
    fn cri(&self, socket: &std::path::Path) -> Cri {
        let at = socket.to_owned();
        Cri::new(self.runtime.clone(), at.clone(), at, self.dir.path().join("logs"), "none")
    }

    fn image(&self) -> String {
        format!("{}/images/tiny:latest", self.registry.address)
    }
}

fn cgroup(name: &str) -> String {
    format!("oncefs-cri-{}-{name}", std::process::id())
}

#[test]
fn privileged_images_are_pulled_listed_and_removed_through_the_proxy_as_without_it() {
    let stand = Stand::new("images");
    let (proxied, direct) = (stand.cri(&stand.proxied.socket), stand.cri(&stand.containerd.socket()));
    assert!(proxied.image(&stand.image()).is_none());
    let id = proxied.pull(&stand.image()).unwrap();
    assert!(id.starts_with("sha256:"), "{id}");
    assert_eq!(format!("{:?}", proxied.image(&stand.image())), format!("{:?}", direct.image(&stand.image())));
    assert_eq!(format!("{:?}", proxied.images_listed()), format!("{:?}", direct.images_listed()));
    assert_eq!(proxied.images_listed().len(), 1);
    assert_eq!(proxied.image_filesystems().len(), 1);
    let (fetched, layers) = (stand.containerd.dir(), images::layers(&images::layout("tiny")));
    let content = crate::cli::node::names_in(&fetched.join("root/io.containerd.content.v1.content/blobs/sha256"));
    for (layer, _) in &layers {
        assert!(content.contains(layer), "containerd unpacks from blobs of its own");
    }
    proxied.remove_image(&stand.image());
    assert!(direct.images_listed().is_empty());
}

#[test]
fn privileged_errors_of_the_real_containerd_come_back_as_they_are() {
    let stand = Stand::new("errors");
    let call = |path: &'static str, message: Vec<u8>| {
        let [proxied, direct] = [&stand.proxied.socket, &stand.containerd.socket()].map(|socket| {
            let _inside = stand.runtime.enter();
            stand.runtime.block_on(Caller::at(socket).unary(&Call::to(path), message.clone())).unwrap_err()
        });
        assert_eq!(format!("{proxied:?}").replace("date", ""), format!("{direct:?}").replace("date", ""));
        proxied.code()
    };
    assert_eq!(call("/runtime.v1.ImageService/NoSuchMethod", Vec::new()), Code::Unimplemented);
    assert_eq!(call("/no.such.Service/Method", Vec::new()), Code::Unimplemented);
    let unknown = calls::field(1, b"no-such-sandbox");
    assert_eq!(call("/runtime.v1.RuntimeService/PodSandboxStatus", unknown), Code::NotFound);
    let not_a_message = b"\xff\xff\xff".to_vec();
    assert_eq!(call("/runtime.v1.ImageService/PullImage", not_a_message), Code::Internal);
}

#[test]
fn privileged_kubelets_other_socket_may_be_the_proxy_too() {
    let stand = Stand::new("runtime");
    let call = |path: &'static str| {
        let _inside = stand.runtime.enter();
        let said = stand.runtime.block_on(Caller::at(&stand.proxied.socket).unary(&Call::to(path), "")).unwrap();
        String::from_utf8_lossy(said.get_ref()).into_owned()
    };
    for path in ["/runtime.v1.RuntimeService/Version", "/runtime.v1alpha2.RuntimeService/Version"] {
        assert!(call(path).contains("containerd"));
    }
    assert!(call("/runtime.v1.RuntimeService/Status").contains("RuntimeReady"));
    // containerd's own services are behind the same socket.
    call("/containerd.services.namespaces.v1.Namespaces/List");
}
