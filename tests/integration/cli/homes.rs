//! Images that share layers, each with a registry of its own: where the layers are had when one of them is away.

use oncefs::digest::Digest;

use super::image::Image;
use super::mounting::assert_usual;
use super::node::{Node, cat, ls, sha256sum};
use super::registry::{Fault, Registry};
use crate::index::made;

fn let_go(node: &Node) {
    node.oncefs(&["prune", "--all"]).well();
    assert_eq!(node.status()["cache"]["used_bytes"].as_u64(), Some(0));
}

#[test]
fn who_only_looks_at_an_image_elsewhere_does_not_take_its_layers_there() {
    let (node, image) = (Node::new(), Image::usual(130));
    let (registry, mut other) = (Registry::with(&image), Registry::with(&image));
    let at = node.mount(&registry.image(), "mnt");
    ls(&at); // brings the layers, and leaves nothing of a file in the kernel
    node.oncefs(&["inspect", &other.image()]).well();
    other.go_away();
    let layout = image.write_layout(&node.path("layout"));
    node.oncefs(&["inspect", &layout]).well();
    std::fs::remove_dir_all(node.path("layout")).unwrap();
    let_go(&node);
    assert_usual(&at, 130);
    node.umount(&at).well();
    node.assert_at_rest();
}

#[test]
fn a_layer_is_had_from_any_image_that_has_it() {
    let (node, image) = (Node::new(), Image::usual(131));
    let (mut first, second) = (Registry::with(&image), Registry::with(&image));
    let at = node.mount(&first.image(), "mnt");
    ls(&at);
    node.oncefs(&["pull", &second.image()]).well();
    let layout = image.write_layout(&node.path("layout"));
    node.oncefs(&["pull", &layout]).well();
    std::fs::remove_dir_all(node.path("layout")).unwrap();
    let_go(&node);
    second.fault(image.layers[0].digest(), Fault::Status(404));
    first.fault(image.layers[1].digest(), Fault::FlippedAt(20));
    assert_eq!(sha256sum(&at.join("bin/program")), Digest::of(&made::program(131, 1_500_000)).hex());
    assert_eq!(cat(&at.join("srv/page")), "page 131\n");
    first.go_away();
    assert_eq!(sha256sum(&at.join("big")), Digest::of(&made::program(!131, 3_000_000)).hex());
    node.umount(&at).well();
    node.assert_at_rest();
}

#[test]
fn what_nobody_can_give_again_is_not_let_go() {
    let (node, image) = (Node::new(), Image::usual(132));
    let layout = image.write_layout(&node.path("layout"));
    let at = node.mount(&layout, "mnt");
    assert_usual(&at, 132);
    std::fs::remove_dir_all(node.path("layout")).unwrap();
    let pruned = node.oncefs(&["prune", "--all"]).well().out;
    assert!(pruned.contains(" 0 frames") && pruned.contains("cannot be fetched again"), "{pruned}");
    assert_usual(&at, 132);
    node.umount(&at).well();
    node.assert_at_rest();
}
