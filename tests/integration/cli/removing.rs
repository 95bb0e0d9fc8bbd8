//! Images that go, and what goes with them.

use super::image::{Image, MANIFEST};
use super::mounting::assert_usual;
use super::node::{Node, names_in};
use super::registry::Registry;

#[test]
fn what_a_tag_meant_before_goes_with_a_prune_though_nothing_of_containerd_was_ever_here() {
    let (node, before, after) = (Node::new(), Image::usual(140), Image::usual(141));
    let registry = Registry::with(&before);
    node.oncefs(&["pull", &registry.image()]).well();
    let old = node.layers();
    for (digest, bytes) in after.blobs() {
        registry.put(&digest.to_string(), "application/octet-stream", &bytes);
    }
    registry.put("1", MANIFEST, &after.manifest);
    node.oncefs(&["pull", &registry.image()]).well();
    assert_eq!(node.layers().len(), 6);
    let pruned = node.oncefs(&["prune"]).well().out;
    assert!(pruned.contains("3 layers removed"), "{pruned}");
    assert!(!node.layers().iter().any(|layer| old.contains(layer)));
    let at = node.mount(&registry.image(), "mnt");
    let requests = registry.layer_requests(&after);
    assert_usual(&at, 141);
    assert_eq!(registry.layer_requests(&after), requests, "what is wanted stays");
    node.umount(&at).well();
    node.assert_at_rest();
}

#[test]
fn an_image_is_removed_with_the_layers_that_no_other_has() {
    let node = Node::new();
    let (one, two) = (Image::usual(142), Image::usual(143));
    let two = Image::of(&[one.layers[0].clone(), two.layers[2].clone()]);
    let (first, second) = (Registry::with(&one), Registry::with(&two));
    let (first, second) = (first.image(), second.image());
    node.oncefs(&["pull", &first]).well();
    node.oncefs(&["pull", &second]).well();
    assert_eq!(node.layers().len(), 4);
    let removed = node.oncefs(&["rm", &first]).well().out;
    assert!(removed.contains(&first) && removed.contains("2 layers"), "{removed}");
    assert_eq!(node.layers().len(), 2);
    assert!(!node.oncefs(&["status"]).well().out.contains(&first));
    node.oncefs(&["rm", &first]).fails(4, &["not known here", "oncefs status"]);
    node.assert_at_rest();
    // Also where a server runs, with what is not there named, and the rest removed all the same.
    let third = Image::usual(144);
    let mounted = Registry::with(&third);
    let at = node.mount(&mounted.image(), "mnt");
    assert_usual(&at, 144);
    node.oncefs(&["rm", &first, &second]).fails(4, &[&first]);
    assert_eq!(node.layers().len(), 3);
    assert_usual(&at, 144);
    node.umount(&at).well();
    node.assert_at_rest();
    assert_eq!(names_in(&node.root().join("notes/image")).len(), 1);
}

#[test]
fn an_image_that_somebody_needs_is_not_removed() {
    let (node, image) = (Node::new(), Image::usual(145));
    let registry = Registry::with(&image);
    let name = registry.image();
    let at = node.mount(&name, "mnt");
    assert_usual(&at, 145);
    node.oncefs(&["rm", &name]).fails(1, &["mounted", "oncefs umount"]);
    node.oncefs(&["pin", &name]).well();
    node.umount(&at).well();
    node.oncefs(&["rm", &name]).fails(1, &["pinned", "oncefs unpin"]);
    node.oncefs(&["unpin", &name]).well();
    assert_eq!(node.layers().len(), 3);
    node.oncefs(&["rm", &name]).well();
    assert_eq!(node.layers().len(), 0);
    node.assert_at_rest();
}
