//! `oncefs mount` and `oncefs umount` by root, with everything going well.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use oncefs::digest::Digest;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal};

use super::image::Image;
use super::node::{Node, Running, cat, ls, mounts_below, run, sha256sum, until};
use super::registry::{Fault, Registry};
use crate::index::made;

/// Everything of [`Image::usual`] is there as it should be.
pub(crate) fn assert_usual(at: &Path, seed: u64) {
    assert_eq!(ls(at), ["big", "bin", "etc", "srv"]);
    assert_eq!(ls(&at.join("etc")), ["hello"]);
    assert_eq!(cat(&at.join("etc/hello")), "hello from the top\n");
    assert_eq!(cat(&at.join("srv/page")), format!("page {seed}\n"));
    assert_eq!(sha256sum(&at.join("bin/program")), Digest::of(&made::program(seed, 1_500_000)).hex());
    assert_eq!(sha256sum(&at.join("big")), Digest::of(&made::program(!seed, 3_000_000)).hex());
}

#[test]
fn an_image_of_a_layout_is_mounted_read_and_unmounted() {
    let node = Node::new();
    let image = Image::usual(1).write_layout(&node.path("layout"));
    let at = node.mount(&image, "mnt");
    assert_usual(&at, 1);
    node.umount(&at).well();
    assert!(ls(&at).is_empty());
    node.assert_at_rest();
}

#[test]
fn a_relative_layout_and_a_relative_directory_are_meant_from_here() {
    let node = Node::new();
    Image::usual(2).write_layout(&node.path("layout"));
    let at = node.place("mnt");
    node.oncefs(&["mount", "oci:layout", "mnt"]).well();
    assert_eq!(cat(&at.join("srv/page")), "page 2\n");
    node.oncefs(&["umount", "mnt"]).well();
    node.assert_at_rest();
}

#[test]
fn mount_returns_before_any_layer_is_asked_for_and_the_first_look_brings_them() {
    let (node, image) = (Node::new(), Image::usual(3));
    let registry = Registry::with(&image);
    let at = node.mount(&registry.image(), "mnt");
    assert_eq!(registry.layer_requests(&image), 0);
    assert_usual(&at, 3);
    for layer in &image.layers {
        let count = registry.count(layer.digest());
        assert_eq!((count.requests, count.bytes), (1, layer.blob.len()), "once, and whole");
    }
    node.umount(&at).well();
    node.assert_at_rest();
}

#[test]
fn the_mount_is_read_only() {
    let node = Node::new();
    let at = node.mount(&Image::usual(4).write_layout(&node.path("layout")), "mnt");
    let touched = run(Command::new("touch").arg(at.join("new")));
    assert!(touched.code == Some(1) && touched.err.contains("Read-only file system"), "{touched:?}");
}

#[test]
fn plain_umount_ends_the_server_too() {
    let node = Node::new();
    let at = node.mount(&Image::usual(5).write_layout(&node.path("layout")), "mnt");
    assert_eq!(cat(&at.join("srv/page")), "page 5\n");
    run(Command::new("umount").arg(&at)).well();
    node.assert_at_rest();
}

#[test]
fn with_wait_every_layer_is_here_when_mount_returns() {
    let (node, image) = (Node::new(), Image::usual(6));
    let mut registry = Registry::with(&image);
    let at = node.place("mnt");
    let ran = node.oncefs(&["mount", "--wait", &registry.image(), at.to_str().unwrap()]).well();
    assert_eq!(registry.layer_requests(&image), image.layers.len());
    assert_eq!(node.layers().len(), image.layers.len());
    for layer in &image.layers {
        let short = layer.digest().hex()[..12].to_owned();
        assert!(ran.err.lines().any(|line| line.starts_with(&short) && line.ends_with("ready")), "{ran:?}");
    }
    registry.go_away();
    assert_usual(&at, 6);
}

#[test]
fn in_the_foreground_it_serves_until_interrupted_and_unmounts() {
    let node = Node::new();
    let image = Image::usual(7).write_layout(&node.path("layout"));
    let at = node.place("mnt");
    let serving = node.start(&["mount", "--foreground", &image, at.to_str().unwrap()]);
    until("the image is mounted", || !mounts_below(&at).is_empty());
    assert_usual(&at, 7);
    serving.signal(Signal::INT);
    let ran = serving.end().well();
    assert!(ran.out.contains("mounted at") && ran.out.contains("Ctrl-C unmounts"), "{ran:?}");
    assert!(mounts_below(&at).is_empty());
    node.assert_at_rest();
}

#[test]
fn in_the_foreground_it_ends_when_the_mount_is_taken_away() {
    for plain in [true, false] {
        let node = Node::new();
        let image = Image::usual(8).write_layout(&node.path("layout"));
        let at = node.place("mnt");
        let serving = node.start(&["mount", "--foreground", &image, at.to_str().unwrap()]);
        until("calls are taken", || node.run().join("control.sock").exists() && !mounts_below(&at).is_empty());
        if plain {
            run(Command::new("umount").arg(&at)).well();
        } else {
            node.umount(&at).well();
        }
        serving.end().well();
        node.assert_at_rest();
    }
}

#[test]
fn twenty_mounts_at_once_with_readers_ask_for_each_blob_once() {
    let (node, image) = (Node::new(), Image::usual(9));
    let registry = Registry::with(&image);
    let places: Vec<_> = (0..20).map(|i| node.place(&format!("mnt{i}"))).collect();
    let script = "set -e; \"$0\" \"$@\"; for last; do :; done; exec sha256sum \"$last/big\" \"$last/bin/program\"";
    let mounting: Vec<Running> = places
        .iter()
        .map(|at| {
            let mut command = Command::new("sh");
            command.args(["-c", script, super::node::ONCEFS, "--root"]).arg(node.root()).arg("--run").arg(node.run());
            command.args(["mount", &registry.image()]).arg(at);
            Running::start(&mut command)
        })
        .collect();
    let (big, program) = (made::program(!9, 3_000_000), made::program(9, 1_500_000));
    for ran in mounting.into_iter().map(Running::end) {
        let ran = ran.well();
        assert!(ran.out.contains(&Digest::of(&big).hex()) && ran.out.contains(&Digest::of(&program).hex()), "{ran:?}");
    }
    for (digest, bytes) in image.blobs() {
        let count = registry.count(digest);
        // A mount that came after the first had resolved asks for the manifest and the config anew.
        assert!(count.bytes == bytes.len() || digest == Digest::of(&image.config), "{digest}: {count:?}");
    }
    assert_eq!(registry.layer_requests(&image), image.layers.len());
    assert_eq!(node.status()["mounts"].as_array().unwrap().len(), 20);
    node.oncefs(&["umount", "--all"]).well();
    assert!(places.iter().all(|at| mounts_below(at).is_empty()));
    node.assert_at_rest();
}

/// A starter that hangs, or whose disk is busy, holds nobody up once a server answers.
#[test]
fn who_waits_for_another_to_start_a_server_goes_on_as_soon_as_there_is_one() {
    let (node, image) = (Node::new(), Image::usual(11));
    let registry = Registry::with(&image);
    std::fs::create_dir_all(node.run()).unwrap();
    let starting = File::create(node.run().join("start.lock")).unwrap();
    flock(&starting, FlockOperation::LockExclusive).unwrap();
    let pulling = node.start(&["pull", &registry.image()]);
    until("it waits for its turn", || holds_open(pulling.pid(), "start.lock"));
    let server = node.start(&["serve"]);
    pulling.end().well();
    server.signal(Signal::TERM);
    server.end().well();
    node.assert_at_rest();
}

fn holds_open(process: Pid, name: &str) -> bool {
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", process.as_raw_nonzero())).unwrap();
    let targets = descriptors.filter_map(|descriptor| descriptor.ok()?.path().read_link().ok());
    targets.into_iter().any(|target| target.ends_with(name))
}

#[test]
fn two_mounts_of_one_image_share_inodes_and_end_apart() {
    let (node, image) = (Node::new(), Image::usual(10));
    let registry = Registry::with(&image);
    let (one, two) = (node.mount(&registry.image(), "one"), node.mount(&registry.image(), "two"));
    assert_usual(&one, 10);
    assert_usual(&two, 10);
    let identity = |at: &Path| run(Command::new("stat").args(["-c", "%d %i"]).arg(at.join("big"))).well().out;
    assert_eq!(identity(&one), identity(&two), "one inode, and so one page cache");
    assert_eq!(registry.layer_requests(&image), image.layers.len());
    node.umount(&one).well();
    assert_usual(&two, 10);
    node.umount(&two).well();
    node.assert_at_rest();
}

#[test]
fn an_image_whose_layers_are_here_needs_no_registry() {
    let (node, image) = (Node::new(), Image::usual(11));
    let mut registry = Registry::with(&image);
    let name = registry.image();
    node.oncefs(&["pull", &name]).well();
    registry.go_away();
    let at = node.place("mnt");
    let ran = node.oncefs(&["mount", &name, at.to_str().unwrap()]).well();
    assert!(ran.err.contains("the registry is away") && ran.err.contains(&name), "{ran:?}");
    assert_usual(&at, 11);
    node.umount(&at).well();
    node.assert_at_rest();
}

#[test]
fn an_image_whose_layers_are_not_here_does() {
    let (node, image) = (Node::new(), Image::usual(12));
    let mut registry = Registry::with(&image);
    let name = registry.image();
    node.oncefs(&["inspect", &name]).well();
    registry.go_away();
    let at = node.place("mnt");
    let ran = node.oncefs(&["mount", &name, at.to_str().unwrap()]);
    ran.fails(6, &[&name, "cannot reach registry", &registry.host(), "check the name or the network"]);
    node.assert_at_rest();
}

#[test]
fn a_directory_that_is_not_there_and_one_that_is_taken_are_refused() {
    let node = Node::new();
    let image = Image::usual(13).write_layout(&node.path("layout"));
    let nowhere = node.path("nowhere");
    node.oncefs(&["mount", &image, nowhere.to_str().unwrap()]).fails(2, &["nowhere", "No such file"]);
    let file = node.path("layout/index.json");
    node.oncefs(&["mount", &image, file.to_str().unwrap()]).fails(2, &["index.json", "is no directory", "mkdir -p"]);
    let at = node.mount(&image, "mnt");
    let again = node.oncefs(&["mount", &image, at.to_str().unwrap()]);
    again.fails(2, &["mounted at", at.to_str().unwrap(), "already", "oncefs umount"]);
    assert_usual(&at, 13);
}

#[test]
fn what_oncefs_itself_needs_cannot_be_covered() {
    let node = Node::new();
    let image = Image::usual(16).write_layout(&node.path("layout"));
    std::fs::create_dir_all(node.root()).unwrap();
    for at in
        [Path::new("/"), Path::new("/proc"), Path::new("/dev"), node.root(), node.run(), node.root().parent().unwrap()]
    {
        let ran = node.oncefs(&["mount", &image, at.to_str().unwrap()]);
        ran.fails(2, &["is above", "mount elsewhere"]);
    }
    node.assert_at_rest();
}

#[test]
fn what_is_not_mounted_cannot_be_unmounted_with_or_without_a_server() {
    let node = Node::new();
    let image = Image::usual(14).write_layout(&node.path("layout"));
    let (other, text) = (node.place("other"), "nothing of oncefs is mounted at");
    node.umount(&other).fails(4, &[text, other.to_str().unwrap()]);
    let at = node.mount(&image, "mnt");
    node.umount(&other).fails(4, &[text, other.to_str().unwrap()]);
    assert_usual(&at, 14);
    node.umount(&at).well();
    node.assert_at_rest();
}

#[test]
fn a_mount_in_use_leaves_the_sight_and_is_served_to_its_last_user() {
    for flags in [&[][..], &["--owner", "me"]] {
        let node = Node::new();
        let image = Image::usual(15).write_layout(&node.path("layout"));
        let at = node.place("mnt");
        node.oncefs(&[&["mount"], flags, &[&image, at.to_str().unwrap()]].concat()).well();
        // Opens a file and enters a directory, waits for the file `go`, and only then reads.
        let script = "exec < \"$1/big\"; cd \"$1/bin\"; touch \"$2.reading\"; \
                      for i in $(seq 6000); do [ -e \"$2\" ] && break; sleep 0.01; done; sha256sum; sha256sum program";
        let go = node.path("go");
        let reader = Running::start(Command::new("sh").args(["-c", script, "sh"]).arg(&at).arg(&go));
        until("the reader reads", || node.path("go.reading").exists());
        node.umount(&at).well();
        assert!(mounts_below(&at).is_empty(), "it must be out of sight");
        assert_eq!(node.status()["leaving"], 1);
        // Whoever comes now is not kept waiting.
        assert_usual(&node.mount(&image, "other"), 15);
        node.umount(&node.path("other")).well();

        std::fs::write(&go, "").unwrap();
        let read = reader.end().well().out;
        for content in [made::program(!15, 3_000_000), made::program(15, 1_500_000)] {
            assert!(read.contains(&Digest::of(&content).hex()), "{read}");
        }
        node.assert_at_rest();
    }
}

#[test]
fn what_others_mounted_over_an_image_is_not_taken_away_instead() {
    for flags in [&[][..], &["--owner", "me"]] {
        let node = Node::new();
        let image = Image::usual(17).write_layout(&node.path("layout"));
        let at = node.place("mnt");
        node.oncefs(&[&["mount"], flags, &[&image, at.to_str().unwrap()]].concat()).well();
        run(Command::new("mount").args(["-t", "tmpfs", "over"]).arg(&at)).well();
        std::fs::write(at.join("precious"), "1").unwrap();
        let words = ["a tmpfs is mounted over it", "umount", at.to_str().unwrap()];
        node.umount(&at).fails(1, &words);
        node.oncefs(&["umount", "--all"]).fails(1, &words);
        assert_eq!(ls(&at), ["precious"]);
        run(Command::new("umount").arg(&at)).well();
        assert_usual(&at, 17);
        node.umount(&at).well();
        node.assert_at_rest();
    }
}

#[test]
fn unmounting_while_a_reader_waits_for_a_stalled_layer_does_not_hang() {
    let (node, image) = (Node::new(), Image::usual(16));
    let registry = Registry::with(&image);
    registry.fault(image.layers[2].digest(), Fault::StallsAfter(100_000));
    let at = node.mount(&registry.image(), "mnt");
    let reader = Running::start(Command::new("cat").arg(at.join("etc/hello")));
    until("the layer is asked for", || registry.count(image.layers[2].digest()).bytes > 0);
    node.umount(&at).well();
    assert!(mounts_below(&at).is_empty());
    // The reader was there before, and gets what it waits for.
    registry.heal();
    assert_eq!(reader.end().well().out, "hello from the top\n");
    node.assert_at_rest();
}
