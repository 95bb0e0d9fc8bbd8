//! SIGINT and SIGKILL in the middle of things.

use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::image::Image;
use super::mounting::assert_usual;
use super::node::{Node, Running, kill_wholly, ls, mounts_below, run, until};
use super::registry::{Fault, Registry};

/// A node whose registry stalls in the middle of the image's last layer.
fn stalled(seed: u64) -> (Node, Image, Registry) {
    let image = Image::usual(seed);
    let registry = Registry::with(&image);
    registry.fault(image.layers[2].digest(), Fault::StallsAfter(200_000));
    (Node::new(), image, registry)
}

/// The keeper first, so that no other server takes over.
fn kill_server(node: &Node) {
    let server = Pid::from_raw(node.status()["server"].as_i64().unwrap() as i32).unwrap();
    kill_wholly(&node.processes().into_iter().filter(|pid| *pid != server).chain([server]).collect::<Vec<_>>());
    until("the server is dead", || node.processes().is_empty());
}

#[test]
fn an_interrupted_pull_leaves_nothing_of_the_layer() {
    for arguments in [&["pull"][..], &["pull", "--in-process"]] {
        for signal in [Signal::INT, Signal::TERM] {
            let (node, image, registry) = stalled(80);
            let name = registry.image();
            let pulling = node.start(&[arguments, &[&name]].concat());
            let last = image.layers[2].digest();
            until("the layer stalls", || registry.count(last).bytes == 200_000);
            pulling.signal(signal);
            let ran = pulling.end();
            ran.fails(1, &["interrupted"]);
            node.assert_at_rest();
            assert!(!node.layers().contains(&last.hex()));
            registry.heal();
            node.oncefs(&["pull", &name]).well();
        }
    }
}

#[test]
fn an_interrupted_mount_that_waits_takes_the_mount_away() {
    for flags in [&["--wait"][..], &["--wait", "--foreground"]] {
        let (node, image, registry) = stalled(81);
        let (at, name) = (node.place("mnt"), registry.image());
        let mounting = node.start(&[&["mount"], flags, &[&name, at.to_str().unwrap()]].concat());
        until("the layer stalls", || registry.count(image.layers[2].digest()).bytes == 200_000);
        mounting.signal(Signal::INT);
        let ran = mounting.end();
        ran.fails(1, &["interrupted"]);
        node.assert_at_rest();
        assert!(mounts_below(&at).is_empty() && !node.layers().contains(&image.layers[2].digest().hex()));
    }
}

#[test]
fn an_interrupt_before_the_manifest_has_come_ends_the_command() {
    let registry = Registry::with(&Image::usual(82));
    registry.fault("1", Fault::StallsAfter(0));
    for arguments in [&["mount"][..], &["mount", "--foreground"], &["pull"], &["pull", "--in-process"], &["inspect"]] {
        let node = Node::new();
        let (at, name, before) = (node.place("mnt"), registry.image(), registry.count("1").requests);
        let place = if arguments[0] == "mount" { vec![at.to_str().unwrap()] } else { vec![] };
        let running = node.start(&[arguments, &[&name], &place].concat());
        until("the manifest is asked for", || registry.count("1").requests > before);
        running.signal(Signal::INT);
        running.end();
        node.assert_at_rest();
        assert!(mounts_below(&at).is_empty());
    }
}

/// Whether it is between two system calls or after the server's last word: what the program says is so.
#[test]
fn an_interrupt_at_any_moment_leaves_a_mount_or_none() {
    let node = Node::new();
    let image = Image::usual(89).write_layout(&node.path("layout"));
    let (at, keeps_the_server) = (node.place("mnt"), node.mount(&image, "other"));
    for millis in 0..60 {
        let mounting = node.start(&["mount", &image, at.to_str().unwrap()]);
        std::thread::sleep(Duration::from_micros(500 * millis));
        mounting.signal(Signal::INT);
        match mounting.end().code {
            Some(0) => {
                assert_usual(&at, 89);
                node.umount(&at).well();
            }
            // It did not come as far as to heed signals, or it gave up; or one before it did, and its mount is just being taken back.
            None | Some(1 | 2) => until("nothing is mounted", || mounts_below(&at).is_empty()),
            Some(code) => panic!("ends with {code}"),
        }
    }
    assert_usual(&keeps_the_server, 89);
    node.umount(&keeps_the_server).well();
    node.assert_at_rest();
}

#[test]
fn others_who_want_the_same_layer_go_on_when_one_is_interrupted() {
    let (node, image) = (Node::new(), Image::of(&Image::usual(83).layers[2..]));
    let (registry, layer) = (Registry::with(&image), image.layers[0].digest());
    registry.fault(layer, Fault::StallsAfter(200_000));
    let pulls: Vec<_> = (0..3).map(|_| node.start(&["pull", &registry.image()])).collect();
    until("all three wait", || node.status()["scans"] == serde_json::json!([1, 2]));
    pulls[0].signal(Signal::INT);
    let mut ends = pulls.into_iter();
    ends.next().unwrap().end().fails(1, &["interrupted"]);
    registry.heal();
    ends.for_each(|pull| drop(pull.end().well()));
    assert_eq!(registry.count(layer).requests, 1);
    node.assert_at_rest();
}

#[test]
fn a_server_killed_with_its_keeper_leaves_a_dead_mount_that_the_next_mount_or_umount_clears() {
    let (node, image) = (Node::new(), Image::usual(84));
    let (registry, at) = (Registry::with(&image), node.place("mnt"));
    for _ in 0..2 {
        // The place is dead the second time.
        node.oncefs(&["mount", &registry.image(), at.to_str().unwrap()]).well();
        assert_usual(&at, 84);
        kill_server(&node);
        // What the kernel has not kept.
        until("the mount is dead", || {
            let looked = run(Command::new("ls").arg(at.join("etc/never-asked-for")));
            looked.err.contains("Transport endpoint is not connected")
        });
    }
    assert_eq!(registry.layer_requests(&image), 3, "what was scanned before the server died is kept");
    node.umount(&at).well();
    assert!(mounts_below(&at).is_empty() && ls(&at).is_empty());
    node.oncefs(&["check"]).well();
}

#[test]
fn umount_all_clears_what_a_killed_server_left_and_nothing_of_others() {
    let (node, other, image) = (Node::new(), Node::new(), Image::usual(86));
    let registry = Registry::with(&image);
    let alive = other.mount(&registry.image(), "mnt");
    let places = ["one", "two"].map(|name| node.mount(&registry.image(), name));
    // One that has a FUSE mount of its own; of it and the first the kernel keeps what it was told.
    let own = node.place("own");
    node.oncefs(&["mount", "--owner", "1:1", &registry.image(), own.to_str().unwrap()]).well();
    assert_usual(&places[0], 86);
    run(Command::new("stat").args([&own, &own.join("etc")])).well();
    kill_server(&node);
    node.oncefs(&["umount", "--all"]).well();
    assert!(mounts_below(&node.path("")).is_empty());
    assert_usual(&alive, 86);
    other.umount(&alive).well();
}

#[test]
fn umount_all_clears_what_earlier_servers_left_beside_a_new_one() {
    let (node, image) = (Node::new(), Image::usual(87));
    let registry = Registry::with(&image);
    for name in ["one", "two"] {
        let at = node.mount(&registry.image(), name);
        assert_usual(&at, 87);
        kill_server(&node);
    }
    let alive = node.mount(&registry.image(), "three");
    assert_usual(&alive, 87);
    node.oncefs(&["umount", "--all"]).well();
    node.assert_at_rest();
    assert!(mounts_below(&node.path("")).is_empty());
}

#[test]
fn a_server_killed_in_the_middle_of_a_scan_loses_only_that() {
    let (node, image, registry) = stalled(85);
    let pulling = node.start(&["pull", &registry.image()]);
    until("the other layers are here", || node.layers().len() == 2);
    until("the layer stalls", || registry.count(image.layers[2].digest()).bytes == 200_000);
    let pid = node.status()["server"].as_i64().unwrap();
    kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
    registry.heal();
    // The command asks a new server.
    pulling.end().well();
    node.assert_at_rest();
    assert_eq!(node.layers().len(), 3);
    let requests: Vec<_> = image.layers.iter().map(|layer| registry.count(layer.digest()).requests).collect();
    assert_eq!(requests, [1, 1, 2]);
    node.oncefs(&["check"]).well();
}

#[test]
fn a_reader_that_waits_for_a_stalled_layer_can_be_killed() {
    for signal in [Signal::KILL, Signal::INT] {
        let (node, image, registry) = stalled(86);
        let at = node.mount(&registry.image(), "mnt");
        // Whoever starts these tests in the background of a script has INT ignored.
        let mut cat = Command::new("env");
        let reader = Running::start(cat.args(["--default-signal=INT", "cat"]).arg(at.join("etc/hello")));
        until("the layer stalls", || registry.count(image.layers[2].digest()).bytes == 200_000);
        reader.signal(signal);
        let ran = reader.end();
        assert!(ran.code.is_none(), "a signal ends it: {ran:?}");
        registry.heal();
        assert_usual(&at, 86);
        node.umount(&at).well();
        node.assert_at_rest();
    }
}

#[test]
fn a_reader_that_waits_gets_what_it_waits_for_when_the_registry_goes_on() {
    let (node, image, registry) = stalled(87);
    let at = node.mount(&registry.image(), "mnt");
    let readers: Vec<_> = (0..30).map(|_| Running::start(Command::new("cat").arg(at.join("etc/hello")))).collect();
    until("the layer stalls", || registry.count(image.layers[2].digest()).bytes == 200_000);
    // Thirty waiting readers are more than there are FUSE threads: the mount itself still answers.
    run(Command::new("stat").arg(&at)).well();
    registry.heal();
    for reader in readers {
        assert_eq!(reader.end().well().out, "hello from the top\n");
    }
    assert_eq!(registry.layer_requests(&image), 3);
}

#[test]
fn a_server_that_is_terminated_unmounts_in_order() {
    let node = Node::new();
    let at = node.mount(&Image::usual(88).write_layout(&node.path("layout")), "mnt");
    assert_usual(&at, 88);
    let pid = node.status()["server"].as_i64().unwrap();
    kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::TERM).unwrap();
    node.assert_at_rest();
    assert!(mounts_below(&at).is_empty());
}
