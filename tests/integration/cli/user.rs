//! Ordinary users: no root, no bind mounts, a store and a server of their own.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rustix::process::Pid;

use super::image::Image;
use super::node::{Node, ONCEFS, Ran, Running, copy_program, kill_wholly, mounts_below, run, until};
use super::registry::{Fault, Registry};
use crate::takeover::stage::{keeper_and_server, kill, layers_of_files};
use oncefs::digest::Digest;

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
        self.starts(program, arguments).end()
    }

    fn starts(&self, program: &str, arguments: &[&str]) -> Running {
        let mut command = Command::new("runuser");
        command.args(["-u", NAME, "--", program]).args(arguments).current_dir(self.home(""));
        command.env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("HOME", self.home(""));
        command.env("XDG_DATA_HOME", self.home("data")).env("XDG_RUNTIME_DIR", self.home("run"));
        Running::start(&mut command)
    }

    /// What runs as this user.
    fn processes(&self) -> Vec<Pid> {
        let is_theirs = |pid: &Pid| {
            let of = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_pid())).unwrap_or_default();
            of.contains(&format!("Uid:\t{}\t", self.uid))
        };
        self.node.processes().into_iter().filter(is_theirs).collect()
    }

    fn oncefs(&self, arguments: &[&str]) -> Ran {
        self.runs(&self.program(), arguments)
    }

    fn program(&self) -> String {
        self.node.path("oncefs").to_str().unwrap().to_owned()
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
    kill_wholly(&user.node.processes());
    until("the server is dead", || user.node.processes().is_empty());
    user.oncefs(&["umount", at.to_str().unwrap()]).well();
    assert!(mounts_below(&at).is_empty());
    let at = user.mounts(&image, "mnt");
    user.runs("ls", &[at.to_str().unwrap()]).well();
    user.oncefs(&["umount", at.to_str().unwrap()]).well();
    user.assert_at_rest();
}

#[test]
fn a_users_reader_sees_a_pause_when_the_server_is_killed_and_nothing_else() {
    let (user, (image, files)) = (User::new(), layers_of_files(4));
    let image = Image::of(&image).write_layout(&user.node.path("layout"));
    let at = user.mounts(&image, "mnt");
    let want: Vec<_> = files.iter().map(|(path, bytes)| format!("{}  {path}\n", Digest::of(bytes).hex())).collect();
    std::fs::write(user.home("sums"), want.concat()).unwrap();
    // Readers who ask the server each time: it is another mount for each server's page cache, and each sum is of all files.
    let read = "while [ ! -e ../over ]; do sha256sum --quiet --strict -c ../sums || exit 1; echo >>../rounds; done";
    let reader = user.starts("sh", &["-c", &format!("cd {} && {read}", at.display())]);
    let rounds = || std::fs::read_to_string(user.home("rounds")).unwrap_or_default().len();
    for _ in 0..4 {
        let (keeper, server) = keeper_and_server(&user.home(""));
        kill(server);
        until("another server is there", || keeper_and_server(&user.home("")).1.is_some_and(|now| Some(now) != server));
        assert_eq!(keeper_and_server(&user.home("")).0, keeper);
        let before = rounds();
        until("the reader goes on", || rounds() > before);
    }
    std::fs::write(user.home("over"), "").unwrap();
    reader.end().well();
    user.oncefs(&["umount", at.to_str().unwrap()]).well();
    user.assert_at_rest();
}

/// As that of a server: whoever asks registries has passwords in it.
#[test]
fn the_memory_of_a_command_that_asks_a_registry_is_not_for_its_user_to_see() {
    let user = User::new();
    let registry = Registry::with(&Image::usual(106));
    registry.fault("1", Fault::StallsAfter(0));
    let (image, at) = (registry.image(), user.home("mnt"));
    let commands: [&[&str]; 4] = [
        &["pull", "--in-process", &image],
        &["index", "ls", "--in-process", &image],
        &["doctor", &image],
        &["mount", "--foreground", &image, at.to_str().unwrap()],
    ];
    for command in commands {
        let asked = registry.count("1").requests;
        let _runs = user.starts(&user.program(), command);
        until("it asks", || registry.count("1").requests > asked);
        let pids = user.processes();
        assert!(!pids.is_empty());
        for pid in pids {
            let memory = std::fs::metadata(format!("/proc/{}/mem", pid.as_raw_pid())).unwrap();
            assert_eq!(memory.uid(), 0, "{command:?}");
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        until("it has ended", || user.node.processes().is_empty());
    }
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
