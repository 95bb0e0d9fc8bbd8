//! What nobody needs any more goes from the disk; what somebody needs stays.

use super::harness::{CRI_NAMESPACE, Images, Node, Snapshotter};
use super::images::{Image, file, noise, with_shell};
use super::snapshots::{Labels, pull_unpacking};
use crate::cli::node::until;

fn until_freed(node: &Node) {
    until("the layers are gone from the disk", || node.oncefs().layers().is_empty());
    until("the snapshots are gone from the disk", || node.oncefs().snapshot_dirs().is_empty());
    until("nothing is left of them", || crate::cli::node::names_in(&node.oncefs().root().join("staging")).is_empty());
}

fn until_here(node: &Node, image: &Image) {
    until("the layers are here", || node.oncefs().layers() == digests(image));
}

fn digests(image: &Image) -> Vec<String> {
    let mut digests: Vec<String> = image.layers.iter().map(|layer| layer.digest().hex()).collect();
    digests.sort();
    digests
}

#[test]
fn an_image_that_kubelet_removes_frees_its_layers() {
    let images = Images::of(&["pause"]);
    let image = with_shell(&[noise("opt/noise", 71, 200_000)]);
    let name = images.add(&image, "kubelet/removes:1");
    let node = Node::start(Snapshotter::Oncefs, &images);
    node.cri.pull(&name).unwrap();
    until_here(&node, &image);
    assert!(node.cri.image(&name).is_some());
    node.cri.remove_image(&name);
    assert!(node.cri.image(&name).is_none());
    until_freed(&node);
    assert_eq!(node.snapshots(CRI_NAMESPACE), Vec::<String>::new());
}

#[test]
fn an_image_in_use_stays_until_its_container_is_gone() {
    let images = Images::of(&["pause"]);
    let image = with_shell(&[noise("opt/noise", 72, 200_000)]);
    let name = images.add(&image, "in/use:1");
    let node = Node::start(Snapshotter::Oncefs, &images);
    node.cri.pull(&name).unwrap();
    node.cri.pull(&images.reference("pause")).unwrap();
    let pod = node.cri.run_pod("user");
    let container = pod.start("user", &name, &["sleep", "1000"]);
    node.cri.remove_image(&name);
    assert_eq!(
        container.exec(&["sh", "-c", "wc -c < /opt/noise; echo on > /written; cat /written"]).well(),
        "200000\non\n"
    );
    assert!(digests(&image).iter().all(|layer| node.oncefs().layers().contains(layer)));
    pod.remove();
    node.cri.remove_image(&images.reference("pause"));
    until_freed(&node);
}

#[test]
fn layers_that_another_image_or_namespace_needs_stay() {
    let images = Images::of(&["pause"]);
    let shared = noise("opt/shared", 73, 100_000);
    let one = with_shell(&[shared.clone(), noise("opt/one", 74, 100_000)]);
    let two = with_shell(&[shared, noise("opt/two", 75, 100_000)]);
    let (first, second) = (images.add(&one, "shares/one:1"), images.add(&two, "shares/two:1"));
    let node = Node::start(Snapshotter::Oncefs, &images);
    node.cri.pull(&first).unwrap();
    node.cri.pull(&second).unwrap();
    until("all layers are here", || node.oncefs().layers().len() == 4);
    assert!(pull_unpacking(&node, "default", &second, &two, Labels::Chain));
    node.cri.remove_image(&first);
    until_here(&node, &two);
    node.cri.remove_image(&second);
    assert_eq!(node.run(&second, "other", &["sh", "-c", "wc -c < /opt/shared; wc -c < /opt/two"]), "100000\n100000\n");
    assert_eq!(node.oncefs().layers(), digests(&two), "the other namespace needs them");
    node.remove_image("default", &second);
    until_freed(&node);
}

#[test]
fn what_was_pulled_with_oncefs_itself_stays_when_containerd_is_done_with_it() {
    let images = Images::of(&["pause"]);
    let image = with_shell(&[noise("opt/noise", 76, 100_000)]);
    let name = images.add(&image, "pulled/itself:1");
    let node = Node::start(Snapshotter::Oncefs, &images);
    node.oncefs().oncefs(&["pull", &name]).well();
    node.cri.pull(&name).unwrap();
    node.cri.remove_image(&name);
    assert_eq!(node.snapshots(CRI_NAMESPACE), Vec::<String>::new());
    assert_eq!(node.oncefs().layers(), digests(&image));
}

#[test]
fn an_image_that_was_unpacked_as_usual_frees_its_directories() {
    let images = Images::of(&["pause"]);
    let name = images.add(&with_shell(&[file("etc/said", "said\n")]), "unpacked/removed:1");
    let node = Node::start(Snapshotter::Oncefs, &images);
    node.pull_silently(&name);
    assert_eq!(node.oncefs().snapshot_dirs().len(), 2);
    node.remove_image("default", &name);
    until_freed(&node);
}
