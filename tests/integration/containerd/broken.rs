//! A database that is damaged while oncefs does not run: containers have what they wrote, and containerd what it knew.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::harness::{Images, Node, Snapshotter};
use super::images::{file, with_shell};
use super::restarting::{counted, counting, kill, start_again, start_detached};
use super::snapshots::{Labels, pull_unpacking};
use crate::cli::node::until;

/// Does it to the database in this directory.
type Damage = fn(&Path);

/// What may befall a database's directory; other things are tried on the database alone.
const DAMAGES: [(&str, Damage); 3] = [
    ("garbage", |db| fs::write(db.join("db"), vec![0x5a; 700_000]).unwrap()),
    ("flipped", |db| {
        let (log, written) = (log(db), written(db));
        for at in (0..written).step_by(997) {
            let mut byte = [0];
            log.read_exact_at(&mut byte, at).unwrap();
            log.write_all_at(&[byte[0] ^ 1], at).unwrap();
        }
    }),
    ("gone", |db| fs::remove_dir_all(db).unwrap()),
];

fn log(db: &Path) -> fs::File {
    fs::File::options().read(true).write(true).open(db.join("db")).unwrap()
}

/// Where what sled has written ends.
fn written(db: &Path) -> u64 {
    fs::read(db.join("db")).unwrap().iter().rposition(|byte| *byte != 0).unwrap() as u64 + 1
}

#[test]
fn containers_keep_what_they_wrote_when_the_database_breaks() {
    let images = Images::of(&["pause"]);
    let remote = images.add(&counting(), "broken/remote:1");
    let unpacked = images.add(&with_shell(&[file("etc/count", "unpacked\n")]), "broken/unpacked:1");
    let mut node = Node::start(Snapshotter::Oncefs, &images);
    assert!(pull_unpacking(&node, "default", &remote, &counting(), Labels::Image));
    node.pull_silently(&unpacked);
    for (image, name) in [(&remote, "remote"), (&unpacked, "unpacked")] {
        start_detached(&node, image, name);
        until("the container has written", || counted(&node, name) == 2);
        kill(&node, name);
    }
    until("the layers are here", || node.oncefs().layers().len() == counting().layers.len());
    let (before, layers, directories) =
        (node.snapshots("default"), node.oncefs().layers(), node.oncefs().snapshot_dirs());
    let compare = format!("--containerd={}", node.containerd.socket().display());
    for (round, (what, damage)) in DAMAGES.iter().enumerate() {
        node.oncefs_mut().stop();
        damage(&node.oncefs().root().join("db"));
        node.oncefs_mut().start_again();
        until("containerd has found oncefs again", || node.ctr(&["snapshots", "ls"]).code == Some(0));
        let log = node.oncefs().log();
        assert_eq!(log.matches("the database was broken").count(), round + 1, "{what}: {log}");
        assert_eq!(node.snapshots("default"), before, "{what}");
        assert_eq!(node.oncefs().layers(), layers, "{what}");
        assert_eq!(node.oncefs().snapshot_dirs(), directories, "{what}");
        let said = node.oncefs().oncefs(&["check", &compare]).well().out;
        assert!(said.contains("all is well") && said.contains("neither has others"), "{what}: {said}");
        for name in ["remote", "unpacked"] {
            start_again(&node, name, 3 + round);
            kill(&node, name);
        }
    }
    assert!(node.oncefs().root().join("db.broken-1").exists());
    assert_eq!(node.run(&remote, "anew", &["cat", "/etc/count"]), "image\n");
    for name in ["remote", "unpacked"] {
        node.ctr(&["containers", "rm", name]).well();
    }
    for image in [&remote, &unpacked] {
        node.remove_image("default", image);
    }
    until("the snapshots are gone from the disk", || node.oncefs().snapshot_dirs().is_empty());
}
