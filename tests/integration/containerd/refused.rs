//! Layers that oncefs does not take and containerd does.

use super::harness::{CRI_NAMESPACE, Images, Node, Snapshotter, assert_says};
use super::images::{noise, with_shell};
use crate::cli::image::{Layer, Tar};

const PAUSE: &str = "127.0.0.1:9/no/pods:here";

#[test]
fn a_layer_that_oncefs_refuses_is_unpacked_by_containerd_over_those_that_it_serves() {
    let images = Images::of(&[]);
    // A name that would leave the root: containerd puts it below the root.
    let refused = Layer::gzip(&Tar::new().raw("../../opt/refused", b"unpacked\n").done());
    let image = with_shell(&[noise("opt/noise", 131, 500_000), refused.clone()]);
    let name = images.add(&image, "refused:1");
    let node = Node::configured(Snapshotter::OncefsThroughProxy, PAUSE, "");
    node.cri.pull(&name).unwrap();
    let look = ["sh", "-c", "cat /opt/refused; wc -c < /opt/noise"];
    let said = node.containerd.say(CRI_NAMESPACE, &["--rm"], &name, "look", &look);
    assert_eq!(said, "unpacked\n500000\n");
    let fetched = node.content();
    assert!(fetched.contains(&refused.digest().hex()), "{fetched:?}");
    assert!(!fetched.contains(&image.layers[1].digest().hex()), "what oncefs can serve it serves");
    assert_says(&node.oncefs().log(), "pull left to containerd");
    assert_says(&node.oncefs().log(), "could not be used before");
}
