//! A disk that fails: what can be had elsewhere is, and what cannot is told.

use super::image::Image;
use super::mounting::assert_usual;
use super::node::{Node, ls};
use super::registry::Registry;
use crate::support::recorded_disk::RecordedDisk;

/// A node whose store is on the disk. It must go before that.
fn node_on(disk: &RecordedDisk) -> Node {
    let node = Node::new();
    std::fs::create_dir(node.root()).unwrap();
    rustix::mount::mount_bind(disk.path(), node.root()).unwrap();
    node
}

#[test]
fn readers_have_their_bytes_from_a_disk_that_gives_back_and_takes_nothing_any_more() {
    let disk = RecordedDisk::new();
    let (node, image) = (node_on(&disk), Image::usual(75));
    let registry = Registry::with(&image);
    node.oncefs(&["pull", &registry.image()]).well();
    let at = node.mount(&registry.image(), "mnt");
    assert_eq!(ls(&at), ["big", "bin", "etc", "srv"]);
    let fetched = |layer: usize| registry.count(image.layers[layer].digest()).bytes;
    let before = [0, 2].map(fetched);
    disk.fails(true, true, "layers");
    assert_usual(&at, 75);
    assert!(fetched(0) > before[0] && fetched(2) > before[1], "nothing was fetched again: the disk did not fail");
    disk.fails(false, false, "layers");
    assert_usual(&at, 75);
    node.umount(&at).well();
    node.assert_at_rest();
}

#[test]
fn a_layer_that_cannot_be_read_is_scanned_anew() {
    let disk = RecordedDisk::new();
    let (node, image) = (node_on(&disk), Image::usual(76));
    let registry = Registry::with(&image);
    // The server stays: its database is open.
    let other = node.mount(&registry.image(), "other");
    node.oncefs(&["pull", &registry.image()]).well();
    disk.fails(true, false, "layers");
    let at = node.mount(&registry.image(), "mnt");
    assert_usual(&at, 76);
    disk.fails(false, false, "layers");
    node.umount(&at).well();
    node.umount(&other).well();
    node.assert_at_rest();
}

/// sled lets whoever waits for a write that fails wait for ever.
#[test]
fn calls_end_when_the_disk_takes_nothing_any_more() {
    let disk = RecordedDisk::new();
    let (node, image) = (node_on(&disk), Image::usual(77));
    let registry = Registry::with(&image);
    // The server stays: its database is open.
    node.mount(&registry.image(), "mnt");
    disk.fails(false, true, "layers");
    let pull = || node.oncefs(&["pull", &registry.image()]);
    pull().fails(7, &["database", node.root().to_str().unwrap(), "Input/output error"]);
    pull().fails(7, &["database", "restart oncefs"]);
    assert_eq!(node.layers(), Vec::<String>::new());
}
