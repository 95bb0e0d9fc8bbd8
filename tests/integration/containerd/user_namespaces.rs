//! Containers whose root is nobody on the node: containerd changes the owners of what it finds in the snapshot, or has it mounted
//! with other owners.

use super::configuration::Release;
use super::harness::{Images, Node, Snapshotter};
use super::images::{file, with_shell};
use super::snapshots::{Labels, pull_unpacking};
use crate::cli::node::{names_in, until};

const MAPPED: [&str; 5] = ["--rm", "--uidmap", "0:200000:65536", "--gidmap", "0:200000:65536"];

#[test]
fn a_container_of_overlayfs_in_a_user_namespace_owns_its_files() {
    owns_its_files(Snapshotter::Overlayfs, &MAPPED);
}

#[test]
fn a_container_of_oncefs_in_a_user_namespace_owns_its_files() {
    owns_its_files(Snapshotter::Oncefs, &MAPPED);
}

/// containerd tells the snapshotter how the ids are mapped, and changes the owner of no file. 1.6 cannot.
#[test]
fn a_container_whose_snapshot_is_mapped_owns_its_files() {
    let told = if Release::tested() == Release::One { "--rm" } else { "--remap-labels" };
    owns_its_files(Snapshotter::Oncefs, &[&MAPPED[..], &[told]].concat());
}

fn owns_its_files(snapshotter: Snapshotter, options: &[&str]) {
    let images = Images::of(&["pause"]);
    let image = with_shell(&[file("etc/below", "from below\n")]);
    let name = images.add(&image, "user/namespace:1");
    let node = Node::start(snapshotter, &images);
    if snapshotter == Snapshotter::Oncefs {
        assert!(pull_unpacking(&node, "default", &name, &image, Labels::Image));
    } else {
        node.pull_silently(&name);
    }
    let looks = "id -u; stat -c %u /etc/below; echo more >> /etc/below; cat /etc/below; stat -c %u /etc/below; cat /proc/self/uid_map";
    let words = ["sh", "-c", looks];
    // Unique on the machine: for a container in a user namespace runc keeps its books elsewhere than it is told.
    let container = node.path("").file_name().unwrap().to_string_lossy().into_owned();
    let said = node.containerd.say("default", options, &name, &container, &words);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..5], ["0", "0", "from below", "more", "0"], "{said}");
    assert_eq!(lines[5].split_whitespace().collect::<Vec<_>>(), ["0", "200000", "65536"], "{said}");
    assert_eq!(node.run(&name, "unmapped", &["sh", "-c", "stat -c %u /etc/below; cat /etc/below"]), "0\nfrom below\n");
    if snapshotter == Snapshotter::Oncefs {
        until("nothing stays mapped", || names_in(&node.oncefs().run_dir().join("mapped")).is_empty());
    }
}
