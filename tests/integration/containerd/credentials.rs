//! A registry that wants a login, which only kubelet knows.

use super::harness::{Images, Node, Snapshotter};
use super::images::{Image, file, noise, with_shell};
use crate::cli::node::{run, until};
use crate::support::debian_registry::Account;

const KUBELETS: Account = Account { user: "kubelet", password: "a-secret-of-kubelets" };
const PAUSE: &str = "127.0.0.1:9/no/pods:here";

fn locked(seed: u64) -> (Images, Image, String) {
    let images = Images::for_account(&KUBELETS);
    let image = with_shell(&[noise("opt/noise", seed, 100_000), file("etc/said", "said\n")]);
    let name = images.add_as(Some(&KUBELETS), &image, "for/kubelet:1");
    (images, image, name)
}

fn assert_runs(node: &Node, image: &str) {
    let look = ["sh", "-c", "cat /etc/said; wc -c < /opt/noise"];
    assert_eq!(node.containerd.say("k8s.io", &["--rm"], image, "look", &look), "said\n100000\n");
}

#[test]
fn what_kubelet_tells_the_proxy_is_enough_and_is_kept_nowhere() {
    let (_images, image, name) = locked(121);
    let node = Node::configured(Snapshotter::OncefsThroughProxy, PAUSE, "");
    node.cri.pull(&name).unwrap_err();
    node.cri.pull_as(&name, KUBELETS.user, "not-the-secret").unwrap_err();
    node.cri.pull_as(&name, KUBELETS.user, KUBELETS.password).unwrap();
    assert_eq!(node.oncefs().layers().len(), image.layers.len());
    assert_runs(&node, &name);
    until("no layer was unpacked", || node.oncefs().snapshot_dirs().is_empty());
    let place = node.path("oncefs");
    let found =
        run(std::process::Command::new("grep").args(["--recursive", "--text", "-l", KUBELETS.password]).arg(&place));
    assert_eq!((found.code, found.out.as_str()), (Some(1), ""), "neither log nor store has the password");
}

#[test]
fn without_a_login_of_its_own_oncefs_leaves_the_image_to_containerd() {
    let (_images, image, name) = locked(122);
    let node = Node::configured(Snapshotter::Oncefs, PAUSE, "");
    node.cri.pull_as(&name, KUBELETS.user, KUBELETS.password).unwrap();
    for layer in &image.layers {
        assert!(node.content().contains(&layer.digest().hex()), "containerd fetched {} itself", layer.digest());
    }
    assert_runs(&node, &name);
}
