//! No reader sees a server's death.

use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Duration;

use super::stage::{Overlay, Readers, kill, kill_after, kills, many_files, moment, numbers, processes, until_at_once};
use crate::cli::mounting::assert_usual;
use crate::cli::node::{Node, mounts_below, names_in, until};
use crate::cli::registry::{Fault, Registry};

#[test]
fn readers_over_overlayfs_see_a_pause_when_the_server_is_killed_and_nothing_else() {
    let (node, (image, files)) = (Node::new(), many_files(1));
    let (registry, files) = (Registry::with(&image), Arc::new(files));
    let at = node.mount(&registry.image(), "mnt");
    let overlay = Overlay::over(&at, &node, "one");
    // From the start: the first servers die while they scan.
    let readers = Readers::start(8, &overlay.at, &files);
    let mut before = None;
    for number in 0..kills(10) {
        kill_after(&node, moment(number));
        if number == 4 {
            before = Some(numbers(&at, &files));
        }
    }
    let reads = readers.reads();
    until("the readers go on", || readers.reads() > reads + 100);
    assert_eq!(readers.stop(), Vec::<String>::new());
    let after = numbers(&at, &files);
    assert!(before.is_none_or(|before| before == after), "files have other numbers than before");
    drop(overlay);
    node.umount(&at).well();
    node.assert_at_rest();
    let mut left = names_in(node.run());
    left.retain(|name| !name.ends_with(".lock") && name != "devices");
    assert_eq!(left, ["oncefs.log"], "the run directory is clean");
    assert!(mounts_below(node.path("").as_path()).is_empty());
    node.oncefs(&["check"]).well();
}

/// What the next server needs was written by the one before; one that has only begun to take over has nothing better.
#[test]
fn a_server_that_is_killed_while_it_takes_over_loses_nothing() {
    let (node, (image, files)) = (Node::new(), many_files(3));
    let (registry, files) = (Registry::with(&image), Arc::new(files));
    let at = node.mount(&registry.image(), "mnt");
    let readers = Readers::start(8, &at, &files);
    // A number alone may come again: a file that takes the place of another is often followed by one that has that one's number.
    let named = |metadata: std::fs::Metadata| (metadata.ino(), metadata.mtime(), metadata.mtime_nsec());
    let written = || node.run().join("remembered.json").metadata().map(named).ok();
    for _ in 0..12 {
        let before = written();
        kill_after(&node, Duration::ZERO);
        let server = processes(&node).1;
        until_at_once("the next server writes what it shows", || written() != before);
        kill(server);
        until("the server after that answers", || node.status()["mounts"].as_array().is_some());
    }
    let reads = readers.reads();
    until("the readers go on", || readers.reads() > reads + 100);
    assert_eq!(readers.stop(), Vec::<String>::new());
    node.umount(&at).well();
    node.assert_at_rest();
}

#[test]
fn who_waits_for_a_layer_waits_on_when_the_server_is_killed() {
    let (node, (image, files)) = (Node::new(), many_files(2));
    let (registry, files) = (Registry::with(&image), Arc::new(files));
    registry.fault(image.layers[3].digest(), Fault::StallsAfter(20_000));
    let at = node.mount(&registry.image(), "mnt");
    let readers = Readers::start(8, &at, &files);
    for number in 0..3 {
        until("the layer stalls", || registry.count(image.layers[3].digest()).requests > number);
        kill_after(&node, Duration::ZERO);
    }
    assert_eq!(readers.reads(), 0);
    registry.heal();
    until("they read", || readers.reads() > 500);
    assert_eq!(readers.stop(), Vec::<String>::new());
    node.umount(&at).well();
    node.assert_at_rest();
}

#[test]
fn every_kind_of_mount_goes_on_and_needs_no_registry() {
    let node = Node::new();
    let image = crate::cli::image::Image::usual(111);
    let mut registry = Registry::with(&image);
    let bound = node.mount(&registry.image(), "bound");
    let owned = node.place("owned");
    node.oncefs(&["mount", "--owner", "1000:1000", &registry.image(), owned.to_str().unwrap()]).well();
    for at in [&bound, &owned] {
        assert_usual(at, 111);
    }
    registry.go_away();
    for number in 0..4 {
        // The second of each two while it takes over.
        kill_after(&node, Duration::from_millis(number % 2 * 300));
    }
    for at in [&bound, &owned] {
        assert_usual(at, 111);
    }
    let owner = owned.join("etc/hello").metadata().unwrap().uid();
    assert_eq!(owner, 1000);
    let mounts = node.status()["mounts"].as_array().unwrap().len();
    assert_eq!(mounts, 2);
    node.umount(&bound).well();
    assert_usual(&owned, 111);
    kill_after(&node, Duration::ZERO);
    assert_usual(&owned, 111);
    node.umount(&owned).well();
    node.assert_at_rest();
    assert_eq!(processes(&node), (None, None));
}

#[test]
fn a_mount_in_use_that_has_left_the_sight_is_served_to_its_end() {
    use std::os::unix::fs::FileExt as _;
    let node = Node::new();
    let image = crate::cli::image::Image::usual(112).write_layout(&node.path("layout"));
    let at = node.mount(&image, "mnt");
    let open = std::fs::File::open(at.join("bin/program")).unwrap();
    node.umount(&at).well();
    kill_after(&node, Duration::ZERO);
    let mut bytes = vec![0; 1_500_000];
    open.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, crate::index::made::program(112, 1_500_000));
    drop(open);
    node.assert_at_rest();
}
