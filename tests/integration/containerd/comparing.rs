//! `oncefs check --containerd`: snapshots that only one of both knows.

use super::harness::{CRI_NAMESPACE, Images, Node, Snapshotter};
use super::images::{noise, with_shell};
use super::snapshots::Snapshots;
use crate::cli::node::{Ran, until};

fn check(node: &Node, more: &[&str]) -> Ran {
    let socket = format!("--containerd={}", node.containerd.socket().display());
    node.oncefs().oncefs(&[&["check", &socket], more].concat())
}

/// Does what a line of the check says: the command after these words.
fn do_as_told(node: &Node, said: &str, line: &str, words: &str) {
    let line = said.lines().find(|told| told.contains(line)).unwrap_or_else(|| panic!("{line} is not in {said}"));
    node.containerd.shell(line.split_once(words).unwrap().1).well();
}

#[test]
fn a_snapshot_that_only_one_of_both_knows_is_found_and_what_is_said_about_it_helps() {
    let images = Images::of(&["pause"]);
    let image = with_shell(&[noise("opt/noise", 131, 100_000)]);
    let name = images.add(&image, "check/this:1");
    let node = Node::start(Snapshotter::Oncefs, &images);
    node.cri.pull(&name).unwrap();
    node.pull_silently(&name);
    let said = check(&node, &[]).well().out;
    assert!(said.contains("4 snapshots in common with containerd: neither has others"), "{said}");

    let mut here = Snapshots::at(&node.runtime, &node.oncefs().socket(), "");
    let mut theirs = Snapshots::at(&node.runtime, &node.containerd.socket(), "default");
    here.prepare("default/999/forgotten", "", &[]).unwrap();
    theirs.prepare("gone", "", &[("containerd.io/gc.root", "now")]).unwrap();
    let gone = here.list().into_iter().find(|info| info.name.ends_with("/gone")).unwrap().name;
    here.remove(&gone).unwrap();
    let said = check(&node, &[]).fails(3, &[]).out;
    assert!(said.contains("snapshot \"gone\" of the namespace \"default\" is lost"), "{said}");
    assert!(said.contains("snapshot \"default/999/forgotten\" is left over"), "{said}");
    assert!(said.contains("4 snapshots in common with containerd: 1 lost, 1 left over"), "{said}");

    do_as_told(&node, &said, "is lost", "take it away alone: ");
    do_as_told(&node, &said, "is left over", "to have it do that now: ");
    until("containerd has collected it", || here.stat("default/999/forgotten").is_err());
    let said = check(&node, &[]).well().out;
    assert!(said.contains("4 snapshots in common with containerd: neither has others"), "{said}");
    assert_eq!(node.snapshots(CRI_NAMESPACE).len(), 2);
}

#[test]
fn who_cannot_be_compared_with_is_named() {
    let images = Images::of(&["pause"]);
    let mut node = Node::start(Snapshotter::Oncefs, &images);
    let said = node.oncefs().oncefs(&["check", "--containerd=/nowhere.sock"]).fails(1, &["/nowhere.sock"]).err;
    assert!(said.contains("cannot reach containerd"), "{said}");
    let config = node.oncefs().run_dir().join("containerd.toml");
    std::fs::write(&config, format!("[grpc]\naddress = {:?}\n", node.containerd.socket())).unwrap();
    let said = node.oncefs().oncefs(&["doctor", "--containerd-config", config.to_str().unwrap()]).out;
    let runs = |line: &str| line.starts_with("  ok       containerd ") && line.ends_with(" runs");
    assert!(said.lines().any(runs), "{said}");
    check(&node, &["--snapshotter", "once"]).fails(1, &["once"]);
    node.oncefs_mut().stop();
    check(&node, &[]).fails(2, &["oncefs serve does not run"]);
}
