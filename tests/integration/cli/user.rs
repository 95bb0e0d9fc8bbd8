//! Ordinary users: no root, no bind mounts, a store and a server of their own.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::image::Image;
use super::node::{Node, ONCEFS, Ran, copy_program, mounts_below, run, until};

const NAME: &str = "oncefs-tester";

/// Somebody with a home directory below a node's directory, and a copy of the program that they can reach.
struct User {
    node: Node,
    uid: u32,
}

// === impl User ===

impl User {
    fn new() -> Self {
        let node = Node::new();
        let uid = uid();
        let open = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        open(&node.path(""), 0o755);
        open(Path::new("/dev/fuse"), 0o666);
        for place in ["home", "home/run", "home/mnt", "home/other"] {
            std::fs::create_dir(node.path(place)).unwrap();
            std::os::unix::fs::chown(node.path(place), Some(uid), Some(uid)).unwrap();
            open(&node.path(place), 0o700);
        }
        copy_program(ONCEFS, &node.path("oncefs"));
        Self { node, uid }
    }

    fn home(&self, name: &str) -> PathBuf {
        self.node.path("home").join(name)
    }

    /// Runs a program as this user.
    fn runs(&self, program: &str, arguments: &[&str]) -> Ran {
        let mut command = Command::new("runuser");
        command.args(["-u", NAME, "--", program]).args(arguments).current_dir(self.home(""));
        command.env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("HOME", self.home(""));
        command.env("XDG_DATA_HOME", self.home("data")).env("XDG_RUNTIME_DIR", self.home("run"));
        run(&mut command)
    }

    fn oncefs(&self, arguments: &[&str]) -> Ran {
        self.runs(self.node.path("oncefs").to_str().unwrap(), arguments)
    }

    fn mounts(&self, image: &str, place: &str) -> PathBuf {
        let at = self.home(place);
        self.oncefs(&["mount", image, at.to_str().unwrap()]).well();
        at
    }

    fn stat(&self, at: &Path) -> String {
        self.runs("stat", &["-c", "%u:%g", at.to_str().unwrap()]).well().out.trim().to_owned()
    }

    fn assert_at_rest(&self) {
        until("the server ends", || self.node.processes().is_empty());
        assert_eq!(mounts_below(&self.node.path("")), Vec::<PathBuf>::new());
        assert!(!self.home("run/oncefs/control.sock").exists());
    }
}

/// The user, made once for all tests.
fn uid() -> u32 {
    static UID: OnceLock<u32> = OnceLock::new();
    *UID.get_or_init(|| {
        let id = || run(Command::new("id").args(["-u", NAME]));
        if id().code != Some(0) {
            run(Command::new("useradd").args(["--user-group", "--no-create-home", "--shell", "/bin/sh", NAME])).well();
        }
        id().well().out.trim().parse().unwrap()
    })
}

#[test]
fn a_user_mounts_reads_and_unmounts_through_fusermount3() {
    let user = User::new();
    let image = Image::usual(100).write_layout(&user.node.path("layout"));
    let at = user.mounts(&image, "mnt");
    let hello = user.runs("cat", &[at.join("etc/hello").to_str().unwrap()]).well();
    assert_eq!(hello.out, "hello from the top\n");
    // In the image they are root's.
    for path in ["", "etc", "etc/hello", "big"] {
        assert_eq!(user.stat(&at.join(path)), format!("{0}:{0}", user.uid), "{path}");
    }
    let store = user.home("data/oncefs");
    assert_eq!(std::fs::read_dir(store.join("layers/sha256")).unwrap().count(), 3);
    assert_eq!(store.metadata().unwrap().uid(), user.uid);
    assert!(user.home("run/oncefs/control.sock").exists());
    let status = user.oncefs(&["status"]).well().out;
    assert!(status.contains(at.to_str().unwrap()) && status.contains(store.to_str().unwrap()), "{status}");
    user.oncefs(&["umount", at.to_str().unwrap()]).well();
    user.assert_at_rest();
}

#[test]
fn a_user_may_look_at_the_images_own_owners() {
    let user = User::new();
    let image = Image::usual(101).write_layout(&user.node.path("layout"));
    let (mine, images) = (user.mounts(&image, "mnt"), user.home("other"));
    user.oncefs(&["mount", "--owner", "image", &image, images.to_str().unwrap()]).well();
    assert_eq!(user.stat(&images.join("etc/hello")), "0:0");
    assert_eq!(user.stat(&mine.join("etc/hello")), format!("{0}:{0}", user.uid));
    user.oncefs(&["umount", "--all"]).well();
    user.assert_at_rest();
}

#[test]
fn a_users_fusermount3_ends_the_server_too() {
    let user = User::new();
    let image = Image::usual(102).write_layout(&user.node.path("layout"));
    let at = user.mounts(&image, "mnt");
    user.runs("ls", &[at.to_str().unwrap()]).well();
    user.runs("fusermount3", &["-u", at.to_str().unwrap()]).well();
    user.assert_at_rest();
}

#[test]
fn what_a_killed_server_of_a_user_leaves_is_cleared_by_umount() {
    let user = User::new();
    let image = Image::usual(103).write_layout(&user.node.path("layout"));
    let at = user.mounts(&image, "mnt");
    for pid in user.node.processes() {
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    until("the server is dead", || user.node.processes().is_empty());
    user.oncefs(&["umount", at.to_str().unwrap()]).well();
    assert!(mounts_below(&at).is_empty());
    let at = user.mounts(&image, "mnt");
    user.runs("ls", &[at.to_str().unwrap()]).well();
    user.oncefs(&["umount", at.to_str().unwrap()]).well();
    user.assert_at_rest();
}

#[test]
fn a_user_cannot_use_the_systems_store_and_is_told_so() {
    let user = User::new();
    let image = Image::usual(104).write_layout(&user.node.path("layout"));
    let root = user.node.path("of-root");
    let ran = user.oncefs(&["--root", root.to_str().unwrap(), "pull", &image]);
    ran.fails(7, &[root.to_str().unwrap(), "Permission denied"]);
    let place = user.node.place("place-of-root");
    let ran = user.oncefs(&["mount", &image, place.to_str().unwrap()]);
    assert!(ran.code == Some(1) && ran.err.contains(place.to_str().unwrap()), "{ran:?}");
    user.assert_at_rest();
}

#[test]
fn what_a_user_may_not_read_any_more_is_told_with_its_path_and_is_no_loss() {
    let user = User::new();
    let image = Image::usual(105).write_layout(&user.node.path("layout"));
    user.oncefs(&["pull", &image]).well();
    until("the server ends", || user.node.processes().is_empty());
    let (store, at) = (user.home("data/oncefs"), user.home("mnt"));
    let allow = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    for place in ["db", "layers", "notes"] {
        let place = store.join(place);
        allow(&place, 0);
        let ran = user.oncefs(&["mount", &image, at.to_str().unwrap()]);
        ran.fails(7, &[place.to_str().unwrap(), "Permission denied"]);
        assert!(mounts_below(&at).is_empty());
        until("the server ends", || user.node.processes().is_empty());
        allow(&place, 0o700);
    }
    let layer = std::fs::read_dir(store.join("layers/sha256")).unwrap().next().unwrap().unwrap().path();
    let tree = layer.join("tree");
    allow(&tree, 0);
    let at = user.mounts(&image, "mnt");
    let ran = user.runs("cat", &[at.join("etc/hello").to_str().unwrap()]);
    assert!(ran.code == Some(1) && ran.err.contains("Input/output error"), "{ran:?}");
    let log = std::fs::read_to_string(user.home("run/oncefs/oncefs.log")).unwrap();
    assert!(log.contains(tree.to_str().unwrap()) && log.contains("Permission denied"), "{log}");
    allow(&tree, 0o600);
    assert_eq!(user.runs("cat", &[at.join("etc/hello").to_str().unwrap()]).well().out, "hello from the top\n");
    user.oncefs(&["umount", at.to_str().unwrap()]).well();
    user.assert_at_rest();
    assert!(!store.join("db.broken-0").exists());
}
