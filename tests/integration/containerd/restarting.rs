//! Containers, oncefs and containerd end and begin again, each at its own time.

use super::harness::{CRI_NAMESPACE, Images, Node, Snapshotter};
use super::images::{Image, file, noise, with_shell};
use super::snapshots::{Labels, pull_unpacking};
use crate::cli::node::until;

const WRITES: [&str; 3] = ["sh", "-c", "cat /etc/count; echo more >> /etc/count; exec sleep 1000"];

/// A container that adds a line to what the image has, each time it starts.
pub(super) fn counting() -> Image {
    with_shell(&[file("etc/count", "image\n"), noise("opt/noise", 61, 100_000)])
}

pub(super) fn start_detached(node: &Node, image: &str, name: &str) {
    node.containerd.run("default", &["--detach", "--null-io"], image, name, &WRITES).end().well();
}

pub(super) fn kill(node: &Node, name: &str) {
    node.ctr(&["tasks", "kill", "--signal", "KILL", name]).well();
    until("the task can be deleted", || node.ctr(&["tasks", "delete", name]).code == Some(0));
}

/// Starts it again, waits for what it writes, and kills it. Gives the lines that it found.
pub(super) fn start_again(node: &Node, name: &str, lines: usize) {
    node.ctr(&["tasks", "start", "--detach", "--null-io", name]).well();
    until("the container has written", || counted(node, name) == lines);
}

pub(super) fn counted(node: &Node, name: &str) -> usize {
    let fifo = node.path("fifo");
    let exec = ["tasks", "exec", "--fifo-dir", fifo.to_str().unwrap(), "--exec-id", "look", name, "cat", "/etc/count"];
    let exec = node.ctr(&exec);
    exec.out.lines().count()
}

#[test]
fn a_container_of_overlayfs_is_started_again_over_what_it_wrote() {
    let images = Images::of(&["pause"]);
    let image = images.add(&counting(), "re/start:1");
    let node = Node::start(Snapshotter::Overlayfs, &images);
    node.pull_silently(&image);
    start_detached(&node, &image, "counts");
    until("the container has written", || counted(&node, "counts") == 2);
    kill(&node, "counts");
    start_again(&node, "counts", 3);
}

#[test]
fn a_container_of_oncefs_is_started_again_over_what_it_wrote() {
    let images = Images::of(&["pause"]);
    let image = images.add(&counting(), "re/start:1");
    let node = Node::start(Snapshotter::Oncefs, &images);
    assert!(pull_unpacking(&node, "default", &image, &counting(), Labels::Image));
    start_detached(&node, &image, "counts");
    until("the container has written", || counted(&node, "counts") == 2);
    kill(&node, "counts");
    start_again(&node, "counts", 3);
}

#[test]
fn containers_start_again_after_oncefs_was_stopped_and_started() {
    survives(|node| {
        node.oncefs_mut().stop();
        node.oncefs_mut().start_again();
    });
}

#[test]
fn containers_start_again_after_oncefs_was_killed() {
    survives(|node| {
        node.oncefs_mut().kill();
        node.oncefs_mut().start_again();
    });
}

#[test]
fn containers_start_again_after_containerd_was_killed() {
    survives(Node::restart_containerd);
}

#[test]
fn containers_start_again_after_both_were_killed_and_containerd_came_first() {
    survives(|node| {
        node.containerd.stop();
        node.oncefs_mut().kill();
        node.containerd.start_again();
        node.oncefs_mut().start_again();
        node.wait_for_containerd();
    });
}

/// One container is remote through and through, another has unpacked layers below; both were stopped before `event`.
fn survives(event: impl FnOnce(&mut Node)) {
    let images = Images::of(&["pause"]);
    let remote = images.add(&counting(), "re/start:1");
    let unpacked = images.add(&with_shell(&[file("etc/count", "unpacked\n")]), "re/unpacked:1");
    let later = images.add(&with_shell(&[noise("opt/noise", 62, 100_000)]), "re/later:1");
    let mut node = Node::start(Snapshotter::Oncefs, &images);
    assert!(pull_unpacking(&node, "default", &remote, &counting(), Labels::Image));
    node.pull_silently(&unpacked);
    for (image, name) in [(&remote, "remote"), (&unpacked, "unpacked")] {
        start_detached(&node, image, name);
        until("the container has written", || counted(&node, name) == 2);
        kill(&node, name);
    }
    until("the layers are here", || node.oncefs().layers().len() == counting().layers.len());
    let before = node.snapshots("default");
    let layers = node.oncefs().layers();
    event(&mut node);
    // containerd tries its connection again after a while.
    until("containerd has found oncefs again", || node.ctr(&["snapshots", "ls"]).code == Some(0));
    assert_eq!(node.snapshots("default"), before);
    assert_eq!(node.oncefs().layers(), layers);
    start_again(&node, "remote", 3);
    start_again(&node, "unpacked", 3);
    assert_eq!(node.run(&remote, "anew", &["cat", "/etc/count"]), "image\n");
    node.cri.pull(&later).unwrap();
    let look = ["sh", "-c", "wc -c < /opt/noise"];
    assert_eq!(node.containerd.say(CRI_NAMESPACE, &["--rm"], &later, "later", &look), "100000\n");
    for name in ["remote", "unpacked"] {
        kill(&node, name);
        node.ctr(&["containers", "rm", name]).well();
    }
    for image in [&remote, &unpacked] {
        node.remove_image("default", image);
    }
    node.cri.remove_image(&later);
    until("the snapshots are gone from the disk", || node.oncefs().snapshot_dirs().is_empty());
}
