//! Mounting, and how a mount ends.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use oncefs::fuse::{Config, Options, Root, Session};
use oncefs::sys::mount::{self, Restrictions};
use oncefs::view::ViewSlot;

use super::stage::{Gate, Packing, SOON, Stage, State, output, until};
use super::tars::Tar;

fn ended(stage: &Stage, session: &Session) -> bool {
    let ended = session.ended();
    stage.runtime.block_on(async { tokio::time::timeout(SOON, ended).await }).is_ok()
}

fn one_view(stage: &Stage) -> ViewSlot {
    let layer = stage.layer(&Tar::new().file("dir/file", b"content").end(), Packing::Plain);
    let gate = Gate::new(stage.ready(&[&layer]), State::Open);
    stage.show_through("view", &gate)
}

#[test]
fn privileged_the_table_of_mounts_says_what_it_is() {
    let stage = Stage::new();
    let mounted = mount::mounted_at(&stage.mountpoint()).unwrap().unwrap();
    assert_eq!(mounted.kind, "fuse.oncefs");
    let line = output(Command::new("findmnt").args(["-no", "SOURCE,OPTIONS"]).arg(stage.mountpoint()));
    let options: Vec<&str> = line.split([' ', ',', '\n']).collect();
    for option in ["oncefs", "ro", "default_permissions", "allow_other"] {
        assert!(options.contains(&option), "{option} in {line}");
    }
    assert!(!options.contains(&"nodev") && !options.contains(&"nosuid"), "images have both: {line}");
}

#[test]
fn privileged_a_mount_that_somebody_takes_away_ends() {
    let stage = Stage::new();
    one_view(&stage);
    assert!(stage.mountpoint().join("view/dir/file").exists());
    output(Command::new("umount").arg(stage.mountpoint()));
    assert!(ended(&stage, stage.session()));
}

#[test]
fn privileged_a_busy_mount_is_out_of_sight_at_once_and_ends_with_its_last_user() {
    let mut stage = Stage::new();
    one_view(&stage);
    let open = fs::File::open(stage.mountpoint().join("view/dir/file")).unwrap();
    assert_eq!(mount::unmount(&stage.mountpoint()).unwrap_err().kind(), std::io::ErrorKind::ResourceBusy);
    stage.session.as_mut().unwrap().unmount();
    assert_eq!(fs::read_dir(stage.mountpoint()).unwrap().count(), 0);
    assert_eq!(std::io::read_to_string(&open).unwrap(), "content", "who has a file open reads on");
    let waiting = stage.session().ended();
    let early = stage.runtime.block_on(async { tokio::time::timeout(Duration::from_millis(200), waiting).await });
    assert!(early.is_err());
    drop(open);
    assert!(ended(&stage, stage.session()));
}

#[test]
fn privileged_unmounting_leaves_what_others_mounted_over_it() {
    let mut stage = Stage::new();
    let at = stage.mountpoint();
    output(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&at));
    stage.session.as_mut().unwrap().unmount();
    assert_eq!(mount::mounted_at(&at).unwrap().unwrap().kind, "tmpfs");
    mount::unmount(&at).unwrap();
    stage.session.as_mut().unwrap().unmount();
    assert!(ended(&stage, stage.session()));
    assert!(mount::mounted_at(&at).unwrap().is_none());
}

#[test]
fn privileged_one_view_can_be_the_root_of_a_mount() {
    let stage = Stage::unmounted();
    let slot = one_view(&stage);
    let at = stage.directory("alone");
    let session = stage.mount(Root::One(slot), &at);
    assert!(fs::metadata(&at).unwrap().is_dir());
    assert_eq!(fs::read(at.join("dir/file")).unwrap(), b"content");
    assert_eq!(fs::read_dir(&at).unwrap().count(), 1);
    let numbers = [at.clone(), at.join("dir/..")].map(|path| fs::metadata(path).unwrap().ino());
    assert_eq!(numbers, [1, 1]);
    assert_eq!(rustix::fs::statvfs(&at).unwrap().f_files, 3);
    drop(session);
    until("it is gone", || mount::mounted_at(&at).unwrap().is_none());
}

#[test]
fn privileged_everything_can_be_shown_as_somebodys() {
    let stage = Stage::unmounted();
    let slot = one_view(&stage);
    let at = stage.directory("alone");
    let restrictions = Restrictions::default();
    let options = Options { root: Root::One(slot), allow_other: true, owner: Some((1234, 5678)), restrictions };
    let handle = stage.runtime.handle().clone();
    let _session = Session::start(&stage.shelf, &at, &options, &Config::default(), handle).unwrap();
    for path in ["", "dir", "dir/file"] {
        let stat = fs::metadata(at.join(path)).unwrap();
        assert_eq!((stat.uid(), stat.gid()), (1234, 5678), "{path:?}");
    }
}

/// Runs this program's test `as_nobody` as a user who may do nothing, with the device as udev makes it: for everybody.
#[test]
fn privileged_an_ordinary_user_mounts_through_fusermount3() {
    let stage = Stage::unmounted();
    let device = stage.mountpoint().join("fuse");
    let script = "set -e
mknod -m 666 \"$1\" c 10 229
mount --bind \"$1\" /dev/fuse
exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$2\" --ignored --exact mount::session::as_nobody --nocapture";
    let mut nobody = Command::new("unshare");
    nobody.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]).arg(device);
    nobody.arg(std::env::current_exe().unwrap()).current_dir("/").env_remove("TMPDIR");
    let said = output(&mut nobody);
    assert!(said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "the test above runs it, as an ordinary user"]
fn as_nobody() {
    assert_eq!(rustix::process::geteuid().as_raw(), 65534);
    let stage = Stage::for_anybody();
    let slot = one_view(&stage);
    let at = stage.directory("alone");
    let restrictions = Restrictions::default();
    let options = Options { root: Root::One(slot), allow_other: false, owner: Some((65534, 65534)), restrictions };
    let handle = stage.runtime.handle().clone();
    let mut session = Session::start(&stage.shelf, &at, &options, &Config::default(), handle)
        .expect("this test needs fusermount3, set-user-id root (package fuse3)");
    assert_eq!(mount::mounted_at(&at).unwrap().unwrap().kind, "fuse.oncefs");
    assert_eq!(fs::read(at.join("dir/file")).unwrap(), b"content");
    assert_eq!(fs::metadata(at.join("dir/file")).unwrap().uid(), 65534);
    session.unmount();
    assert!(mount::mounted_at(&at).unwrap().is_none());
    assert!(ended(&stage, &session));
}

#[test]
fn privileged_errors_say_what_to_do() {
    let stage = Stage::unmounted();
    let restrictions = Restrictions::default();
    let options = Options { root: Root::All, allow_other: true, owner: None, restrictions };
    let at = stage.mountpoint().join("missing");
    let handle = stage.runtime.handle().clone();
    let failed = Session::start(&stage.shelf, &at, &options, &Config::default(), handle).err().unwrap();
    assert!(failed.to_string().contains("is the directory there"), "{failed}");
}

/// Images' device nodes and set-user-id programs are of no use if the bind mount that shows them refuses them; and they
/// are to be reached through it alone.
#[test]
fn privileged_everybody_gets_at_a_view_through_its_bind_mount_only() {
    let stage = Stage::new();
    one_view(&stage);
    let view = stage.mountpoint().join("view");
    let bound = stage.bind(&view);
    let options = output(Command::new("findmnt").args(["-no", "OPTIONS"]).arg(&bound.0));
    assert!(options.contains("ro") && !options.contains("nodev") && !options.contains("nosuid"), "{options}");
    let as_nobody = |path: std::path::PathBuf| Command::new("cat").arg(path).uid(65534).gid(65534).output().unwrap();
    let [inside, beside] = [bound.0.join("dir/file"), view.join("dir/file")].map(as_nobody);
    assert_eq!(inside.stdout, b"content");
    assert!(String::from_utf8_lossy(&beside.stderr).contains("Permission denied"), "{beside:?}");
    mount::unmount(&bound.0).unwrap();
    assert!(mount::mounted_at(&bound.0).unwrap().is_none());
}
