//! Disks that are full or read-only, and stores that others use.

use super::image::{Image, Layer, Tar};
use super::mounting::assert_usual;
use super::node::{Node, ONCEFS, run};
use super::registry::Registry;
use crate::index::made;

#[test]
fn a_full_disk_is_told_leaves_nothing_and_does_no_harm() {
    let node = Node::on_tmpfs("size=40m");
    let large = Layer::gzip(&Tar::new().file("large", &made::program(70, 60_000_000)).done());
    let digest = large.digest();
    let too_large = Image::of(&[large]).write_layout(&node.path("too-large"));
    let fits = Image::usual(70).write_layout(&node.path("fits"));
    for _ in 0..2 {
        let ran = node.oncefs(&["pull", &too_large]);
        ran.fails(
            7,
            &[
                &too_large,
                &digest.to_string(),
                "cannot be written",
                "a scan keeps all of the unpacked layer",
                "free space",
                "--root",
                "No space left",
            ],
        );
        assert_eq!(node.layers(), Vec::<String>::new());
        node.assert_at_rest();
    }
    let at = node.mount(&fits, "mnt");
    assert_usual(&at, 70);
    node.oncefs(&["pull", &too_large]).fails(7, &[&digest.to_string(), "free space"]);
    assert_usual(&at, 70);
    node.umount(&at).well();
    assert!(node.oncefs(&["check"]).well().out.contains("3 layers"));
    node.assert_at_rest();
}

#[test]
fn a_read_only_store_is_told_with_the_remedy() {
    let node = Node::on_tmpfs("size=64m");
    let image = Image::usual(71).write_layout(&node.path("layout"));
    let at = node.place("mnt");
    for is_new in [false, true] {
        if is_new {
            let fresh = Node::on_tmpfs("size=64m");
            fresh.make_root_read_only();
            let words = ["read-only", fresh.root().to_str().unwrap(), "--root"];
            fresh.oncefs(&["pull", &image]).fails(7, &words);
            assert!(fresh.oncefs(&["status"]).well().out.starts_with("no store at "));
            assert!(fresh.processes().is_empty());
        } else {
            node.oncefs(&["pull", &image]).well();
            node.make_root_read_only();
            let words = ["read-only", node.root().to_str().unwrap(), "--root"];
            node.oncefs(&["pull", &image]).fails(7, &words);
            node.oncefs(&["mount", &image, at.to_str().unwrap()]).fails(7, &words);
            assert!(node.processes().is_empty() && super::node::mounts_below(&at).is_empty());
        }
    }
}

#[test]
fn a_second_server_on_the_same_store_is_refused_with_the_first_ones_pid() {
    let node = Node::new();
    let image = Image::usual(72).write_layout(&node.path("layout"));
    let (at, other) = (node.mount(&image, "mnt"), node.place("other"));
    let server = node.status()["server"].to_string();
    let words = ["in use by process", &server, node.root().to_str().unwrap(), "--root"];
    node.oncefs_elsewhere("run2", &["mount", &image, other.to_str().unwrap()]).fails(7, &words);
    node.oncefs_elsewhere("run2", &["pull", &image]).fails(7, &words);
    node.oncefs_elsewhere("run2", &["status"]).fails(7, &words);
    node.oncefs_elsewhere("run2", &["mount", "--foreground", &image, other.to_str().unwrap()]).fails(7, &words);
    assert!(super::node::mounts_below(&other).is_empty());
    assert_usual(&at, 72);
    node.umount(&at).well();
    node.assert_at_rest();
    node.oncefs_elsewhere("run2", &["pull", &image]).well();
}

/// A server that runs has its own root, configuration and log, whatever a command says.
#[test]
fn who_means_another_store_than_the_servers_is_refused_and_other_flags_are_not_passed_over_in_silence() {
    let node = Node::new();
    let image = Image::usual(75).write_layout(&node.path("layout"));
    let at = node.mount(&image, "mnt");
    let meaning = |root: &str, more: &[&str]| {
        let mut command = std::process::Command::new(ONCEFS);
        command.arg("--root").arg(node.path(root)).arg("--run").arg(node.run()).args(more).current_dir(node.path(""));
        run(&mut command)
    };
    for refused in [&["status"][..], &["pull", &image], &["umount", at.to_str().unwrap()]] {
        meaning("other", refused).fails(2, &["has the store", node.root().to_str().unwrap(), "--run"]);
    }
    assert_usual(&at, 75);
    std::os::unix::fs::symlink(node.root(), node.path("link")).unwrap();
    assert_eq!(meaning("link", &["status"]).well().err, "");
    std::fs::write(node.path("other.toml"), "").unwrap();
    let told = meaning("root", &["--config", "other.toml", "--log", "debug", "status"]).well().err;
    assert!(told.contains("config.toml; --config is for one that starts") && told.contains("--log is"), "{told}");
    node.umount(&at).well();
    node.assert_at_rest();
}

#[test]
fn a_second_foreground_server_in_the_same_run_directory_is_refused() {
    let node = Node::new();
    let image = Image::usual(73).write_layout(&node.path("layout"));
    let (at, other) = (node.mount(&image, "mnt"), node.place("other"));
    let ran = node.oncefs(&["mount", "--foreground", &image, other.to_str().unwrap()]);
    ran.fails(7, &["a server runs for", node.run().to_str().unwrap(), "--run"]);
    node.umount(&at).well();
    node.assert_at_rest();
}

#[test]
fn a_run_directory_that_others_may_write_to_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let node = Node::new();
    let registry = Registry::with(&Image::usual(74));
    std::fs::create_dir(node.run()).unwrap();
    std::fs::set_permissions(node.run(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let ran = node.oncefs(&["pull", &registry.image()]);
    ran.fails(2, &[node.run().to_str().unwrap(), "others may write to it (mode 777)", "--run"]);
}
