//! Whatever is pulled, removed and collected at the same time: in the end containerd and oncefs know the same snapshots.

use super::harness::{CRI_NAMESPACE, Images, Node, Snapshotter};
use super::images::{noise, with_shell};
use super::snapshots::{Snapshots, counted};
use crate::cli::node::until;

const ROUNDS: usize = 6;

#[test]
fn pulls_removals_and_collections_at_once_leave_both_of_one_mind() {
    let images = Images::of(&["pause"]);
    let shared = noise("opt/shared", 101, 300_000);
    let names: Vec<String> = (0..4)
        .map(|n| {
            let image = with_shell(&[shared.clone(), noise("opt/own", 102 + n, 200_000)]);
            images.add(&image, &format!("agreeing/image-{n}:1"))
        })
        .collect();
    let node = Node::start(Snapshotter::Oncefs, &images);
    std::thread::scope(|scope| {
        for namespace in [CRI_NAMESPACE, "default"] {
            for name in &names {
                let node = &node;
                scope.spawn(move || come_and_go(node, namespace, name));
            }
        }
        scope.spawn(|| (0..ROUNDS * 4).for_each(|_| node.collect_garbage()));
    });
    node.collect_garbage();
    assert_agree(&node);
    // What is left is whole: pulled once more, each image runs.
    for (n, name) in names.iter().enumerate() {
        node.cri.pull(name).unwrap();
        let look = ["sh", "-c", "cat /opt/shared /opt/own | wc -c"];
        let said = node.containerd.say(CRI_NAMESPACE, &["--rm"], name, &format!("look-{n}"), &look);
        assert_eq!(said, "500000\n");
    }
    assert_agree(&node);
    for name in &names {
        node.cri.remove_image(name);
        node.containerd.ctr("default", &["images", "rm", "--sync", name]).end();
    }
    until("the layers are gone from the disk", || node.oncefs().layers().is_empty());
    until("the snapshots are gone from the disk", || node.oncefs().snapshot_dirs().is_empty());
    assert_agree(&node);
}

/// What is removed in the middle of a pull may make that pull fail; nothing else may.
fn come_and_go(node: &Node, namespace: &str, name: &str) {
    for round in 0..ROUNDS {
        if namespace == CRI_NAMESPACE {
            let _pulled_or_collected_meanwhile = node.cri.pull(name);
        } else {
            let _pulled_or_collected_meanwhile = node.containerd.ctr(namespace, &["images", "pull", name]).end();
        }
        if namespace == CRI_NAMESPACE {
            node.cri.remove_image(name);
        } else {
            let sync: &[&str] = if round % 2 == 0 { &["--sync"] } else { &[] };
            node.containerd.ctr(namespace, &[&["images", "rm"], sync, &[name]].concat()).end();
        }
    }
}

fn assert_agree(node: &Node) {
    let both = || {
        let mut known = Vec::new();
        for namespace in [CRI_NAMESPACE, "default"] {
            known.extend(Snapshots::at(&node.runtime, &node.containerd.socket(), namespace).list());
        }
        let kept = Snapshots::at(&node.runtime, &node.oncefs().socket(), "").list();
        (counted(&known), counted(&kept))
    };
    // A collection that was asked for last is still at work.
    until("containerd and oncefs know the same snapshots", || {
        let (known, kept) = both();
        known == kept
    });
}

#[test]
fn kubelet_is_told_what_the_images_take() {
    let images = Images::of(&["pause"]);
    let image = with_shell(&[noise("opt/noise", 111, 2_000_000)]);
    let name = images.add(&image, "takes/room:1");
    let node = Node::start(Snapshotter::Oncefs, &images);
    node.cri.pull(&name).unwrap();
    until("the layers are here", || node.oncefs().layers().len() == image.layers.len());
    // containerd asks for usages from time to time.
    until("the image is accounted", || node.cri.image_filesystems().iter().any(|(_, bytes)| *bytes >= 2_000_000));
    let listed = node.cri.images_listed();
    assert!(listed.iter().any(|image| image.repo_tags.contains(&name)), "{listed:?}");
}
