//! How keeper and server end, together and each alone.

use std::time::Duration;

use rustix::process::{Signal, kill_process};

use super::stage::{Kept, kill, kill_after, processes};
use crate::cli::image::Image;
use crate::cli::mounting::assert_usual;
use crate::cli::node::{Node, mounts_below, until};

#[test]
fn a_server_without_its_keeper_goes_on_and_the_next_clears_what_it_leaves() {
    let node = Node::new();
    let image = Image::usual(121).write_layout(&node.path("layout"));
    let (bound, owned) = (node.mount(&image, "bound"), node.place("owned"));
    node.oncefs(&["mount", "--owner", "1000:1000", &image, owned.to_str().unwrap()]).well();
    let (keeper, server) = processes(&node);
    kill(keeper);
    until("the keeper is gone", || processes(&node).0.is_none());
    for at in [&bound, &owned] {
        assert_usual(at, 121);
    }
    assert_eq!(processes(&node).1, server);
    kill(server);
    until("the server is gone", || processes(&node).1.is_none());
    // Nobody is asked to clear anything.
    let third = node.mount(&image, "third");
    assert_usual(&third, 121);
    assert!(mounts_below(&bound).is_empty() && mounts_below(&owned).is_empty(), "dead mounts are left");
    node.umount(&third).well();
    node.assert_at_rest();
}

#[test]
fn a_keeper_that_is_told_to_end_ends_the_server_in_order() {
    for signal in [Signal::TERM, Signal::INT] {
        let node = Node::new();
        let at = node.mount(&Image::usual(122).write_layout(&node.path("layout")), "mnt");
        kill_after(&node, Duration::ZERO);
        assert_usual(&at, 122);
        kill_process(processes(&node).0.unwrap(), signal).unwrap();
        node.assert_at_rest();
        assert!(mounts_below(&at).is_empty());
    }
}

#[test]
fn a_service_that_is_terminated_makes_place_for_the_next_and_one_that_is_interrupted_ends() {
    let (mut kept, at) = Kept::mounted(123);
    for signal in [Signal::TERM, Signal::KILL, Signal::TERM] {
        let before = kept.signal(signal);
        until("another server answers", || kept.server().is_some_and(|server| server != before));
        assert_usual(&at, 123);
    }
    // The outer service manager heard of each that it was ready, and of none that it stopped.
    for _ in 0..3 {
        kept.service.hear("READY=1");
    }
    kept.signal(Signal::INT);
    kept.service.end().well();
    assert!(mounts_below(kept.service.path("").as_path()).is_empty());
    assert!(!kept.service.socket("control").exists() && !kept.service.socket("snapshotter").exists());
}

#[test]
fn what_a_newer_server_wrote_down_or_is_damaged_is_not_taken_over_and_not_lost() {
    let newer = ("\"version\":1,", "\"version\":2,", "a newer oncefs wrote it (version 2");
    // Digits of slots: all of it is still what could have been written.
    let damaged = ("\"slot\":", "\"slot\":1", "it is damaged");
    let cut = ("\"views\":", "", "it is damaged");
    for (part, other, said) in [newer, damaged, cut] {
        is_not_taken_over(part, other, said);
    }
}

fn is_not_taken_over(part: &str, other: &str, said: &str) {
    let (mut kept, at) = Kept::mounted(124);
    let memory = kept.service.run_dir().join("remembered.json");
    let text = std::fs::read_to_string(&memory).unwrap();
    let other = text.replace(part, other);
    assert_ne!(text, other);
    std::fs::write(&memory, other).unwrap();
    kept.signal(Signal::KILL);
    // The keeper tries again and again; the older one back, all is as it was. The first was there before.
    for _ in 0..3 {
        kept.service.hear("STATUS=opening the store");
    }
    assert_eq!(mounts_below(&at).len(), 1);
    std::fs::write(&memory, text).unwrap();
    assert_usual(&at, 124);
    kept.service.signal(Signal::TERM);
    let log = kept.service.end().well().err;
    assert!(log.contains(said), "{log}");
    assert!(mounts_below(kept.service.path("").as_path()).is_empty());
}
