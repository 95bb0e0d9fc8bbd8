//! Attributes, extended attributes and link targets, compared with the directory that a layer was made of and with
//! what the kernel's own EROFS shows of the layer's tree.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown, lchown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use oncefs::fuse::Operation;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, lgetxattr, llistxattr, lsetxattr, makedev, mknodat,
    statvfs, utimensat,
};

use super::stage::{Packing, Stage};
use super::tars::{noise, of_directory};

/// VFS_CAP_REVISION_2 with the effective flag, permitted: CAP_NET_RAW (include/uapi/linux/capability.h).
const NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn node(path: &Path, kind: FileType, device: u64) {
    mknodat(CWD, path, kind, Mode::from_raw_mode(0o640), device).unwrap();
}

fn at(path: &Path, seconds: i64, nanos: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn set(path: &Path, name: &str, value: &[u8]) {
    lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// A directory with something of everything.
fn furnish(root: &Path) {
    let inside = |name: &str| root.join(name);
    fs::write(inside("plain"), noise(1, 100_000)).unwrap();
    fs::write(inside("empty"), b"").unwrap();
    fs::create_dir_all(inside("a/b/c")).unwrap();
    fs::write(inside("a/b/c/deep"), b"deep").unwrap();
    fs::hard_link(inside("plain"), inside("a/second-name")).unwrap();
    symlink("a/b/../b/c/deep", inside("link")).unwrap();
    symlink("/nowhere/".repeat(40), inside("long-link")).unwrap();
    fs::write(inside(&"n".repeat(255)), b"longest name").unwrap();
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"not-utf8-\xff\xfe")), b"bytes").unwrap();
    node(&inside("char"), FileType::CharacterDevice, makedev(1, 3));
    node(&inside("block"), FileType::BlockDevice, makedev(4095, (1 << 20) - 1));
    node(&inside("fifo"), FileType::Fifo, 0);
    for (name, mode) in [("plain", 0o4755), ("empty", 0o000), ("a", 0o1777), ("a/b", 0o2750)] {
        fs::set_permissions(inside(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    lchown(inside("link"), Some(123_456), Some(4_000_000_000)).unwrap();
    chown(inside("a/b/c/deep"), Some(1000), Some(1000)).unwrap();
    set(&inside("plain"), "user.colour", b"blue \0 and green");
    set(&inside("plain"), "trusted.secret", b"");
    set(&inside("a"), "user.long", &noise(2, 3000));
    set(&inside("empty"), "security.capability", &NET_RAW);
    at(&inside("a/b/c/deep"), -1_000_000_000, 999_999_999);
    at(&inside("link"), 4_300_000_000, 1);
    at(&inside("empty"), 0, 0);
    for directory in ["a/b/c", "a/b", "a", "."] {
        at(&inside(directory), 1_600_000_000, 123_456_789);
    }
}

/// Every path below a directory, itself first.
fn paths(root: &Path) -> Vec<PathBuf> {
    let (mut found, mut next) = (vec![PathBuf::new()], 0);
    while let Some(path) = found.get(next).cloned() {
        next += 1;
        if fs::symlink_metadata(root.join(&path)).unwrap().is_dir() {
            found.extend(fs::read_dir(root.join(&path)).unwrap().map(|entry| path.join(entry.unwrap().file_name())));
        }
    }
    found.sort();
    found
}

fn xattrs(path: &Path) -> BTreeSet<(CString, Vec<u8>)> {
    let mut names = vec![0; 1 << 16];
    let len = llistxattr(path, &mut names[..]).unwrap();
    let value = |name: &[u8]| {
        let mut value = vec![0; 1 << 16];
        let name = CString::new(name).unwrap();
        let len = lgetxattr(path, &name, &mut value[..]).unwrap_or_else(|error| panic!("{path:?} {name:?}: {error}"));
        value.truncate(len);
        (name, value)
    };
    names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(value).collect()
}

/// What must be the same wherever a file is shown. The link counts and sizes of directories are a file system's own.
fn facts(path: &Path) -> impl PartialEq + std::fmt::Debug + use<> {
    let stat = fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let kind = stat.file_type();
    let target = kind.is_symlink().then(|| fs::read_link(path).unwrap());
    let content = kind.is_file().then(|| fs::read(path).unwrap());
    let device = (kind.is_char_device() || kind.is_block_device()).then(|| stat.rdev());
    let sizes = (!kind.is_dir()).then(|| (stat.nlink(), stat.size()));
    let owner = (stat.uid(), stat.gid());
    (
        stat.mode(),
        owner,
        (stat.mtime(), stat.mtime_nsec()),
        device,
        sizes,
        target,
        content.map(|c| c == noise(1, c.len()) || c.len() < 100),
        xattrs(path),
    )
}

#[test]
fn privileged_a_mount_shows_the_directory_that_the_layer_was_made_of() {
    let stage = Stage::new();
    let original = stage.directory("original");
    furnish(&original);
    let layer = stage.layer(&of_directory(&original), Packing::Gzip);
    let shown = stage.show("view", &[&layer]);
    let erofs = stage.erofs(&layer);
    assert_eq!(paths(&shown), paths(&original));
    for path in paths(&original) {
        assert_eq!(facts(&shown.join(&path)), facts(&original.join(&path)), "{path:?} as it was");
        assert_eq!(facts(&shown.join(&path)), facts(&erofs.0.join(&path)), "{path:?} as EROFS shows it");
        let [ours, erofs] = [&shown, &erofs.0].map(|root| fs::symlink_metadata(root.join(&path)).unwrap());
        assert_eq!((ours.size(), ours.blksize() > 0), (erofs.size(), true), "{path:?}");
    }
}

#[test]
fn privileged_hard_links_have_one_number_and_different_files_have_two() {
    let stage = Stage::new();
    let original = stage.directory("original");
    furnish(&original);
    let shown = stage.show_tar("view", &of_directory(&original));
    let number = |path: &str| fs::symlink_metadata(shown.join(path)).unwrap().ino();
    assert_eq!(number("plain"), number("a/second-name"));
    let all: BTreeSet<u64> =
        paths(&shown).iter().map(|path| fs::symlink_metadata(shown.join(path)).unwrap().ino()).collect();
    assert_eq!(all.len(), paths(&shown).len() - 1);
}

#[test]
fn privileged_xattrs_say_how_long_they_are_and_what_is_not_there() {
    let stage = Stage::new();
    let original = stage.directory("original");
    furnish(&original);
    let file = stage.show_tar("view", &of_directory(&original)).join("plain");
    assert_eq!(rustix::fs::lgetxattr_query(&file, "user.colour"), Ok(16));
    assert_eq!(lgetxattr(&file, "user.colour", &mut [0u8; 15][..]), Err(rustix::io::Errno::RANGE));
    assert_eq!(lgetxattr(&file, "user.color", &mut [0u8; 15][..]), Err(rustix::io::Errno::NODATA));
    assert_eq!(llistxattr(&file, &mut [0u8; 3][..]), Err(rustix::io::Errno::RANGE));
    assert_eq!(lsetxattr(&file, "user.colour", b"red", XattrFlags::empty()), Err(rustix::io::Errno::ROFS));
}

/// A program run as nobody says which capabilities it has.
#[test]
fn privileged_file_capabilities_work() {
    let stage = Stage::new();
    let original = stage.directory("original");
    fs::copy("/usr/bin/grep", original.join("grep")).unwrap();
    set(&original.join("grep"), "security.capability", &NET_RAW);
    let shown = stage.show_tar("view", &of_directory(&original));
    let bound = stage.bind(&shown);
    let mut program = Command::new(bound.0.join("grep"));
    let status = program.args(["CapEff", "/proc/self/status"]).uid(65534).gid(65534).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&status.stdout), "CapEff:\t0000000000002000\n");
}

/// `user::rw- user:1000:r-- group::--- mask::rw- other::---`, for which the mode says 0660.
#[test]
fn privileged_access_control_lists_are_kept_to() {
    let entry =
        |tag: u16, perm: u16, id: u32| [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat();
    let none = u32::MAX;
    let entries = [(0x01, 6, none), (0x02, 4, 1000), (0x04, 0, none), (0x10, 6, none), (0x20, 0, none)];
    let list: Vec<u8> =
        2u32.to_le_bytes().into_iter().chain(entries.into_iter().flat_map(|(t, p, id)| entry(t, p, id))).collect();
    let stage = Stage::new();
    let original = stage.directory("original");
    fs::write(original.join("file"), b"for some eyes").unwrap();
    chown(original.join("file"), Some(0), Some(50)).unwrap();
    set(&original.join("file"), "system.posix_acl_access", &list);
    let mut archive = super::tars::Tar::new();
    archive = archive.file_with("file", b"for some eyes", 0o660, 50, &[("system.posix_acl_access", &list)]);
    let shown = stage.show_tar("view", &archive.end());
    let bound = stage.bind(&shown);
    for (user, group) in [(1000, 1000), (1001, 50), (1001, 1001), (0, 0)] {
        let may = |file: PathBuf| Command::new("cat").arg(file).uid(user).gid(group).output().unwrap().status.success();
        assert_eq!(may(bound.0.join("file")), may(original.join("file")), "user {user} of group {group}");
    }
}

#[test]
fn privileged_a_view_is_as_large_as_its_layers_and_full() {
    let stage = Stage::new();
    let original = stage.directory("original");
    furnish(&original);
    let layer = stage.layer(&of_directory(&original), Packing::Plain);
    let shown = stage.show("view", &[&layer]);
    assert!(fs::read_dir(&shown).unwrap().count() > 0);
    let stat = statvfs(&shown).unwrap();
    assert_eq!(stat.f_blocks * stat.f_frsize, layer.data_bytes().next_multiple_of(4096));
    assert_eq!((stat.f_bfree, stat.f_bavail, stat.f_ffree), (0, 0, 0));
    assert_eq!(stat.f_files, u64::from(layer.tree().counts().inodes));
    assert_eq!(stat.f_namemax, 255);
}

#[test]
fn privileged_what_was_looked_at_is_not_asked_for_again() {
    let stage = Stage::new();
    let original = stage.directory("original");
    furnish(&original);
    let bound = stage.bind(&stage.show_tar("view", &of_directory(&original)));
    let inside = |path: &Path| bound.0.join(path);
    let look = || {
        for path in paths(&bound.0) {
            let stat = fs::symlink_metadata(inside(&path)).unwrap();
            if stat.is_symlink() {
                fs::read_link(inside(&path)).unwrap();
            } else if stat.is_file() {
                fs::read(inside(&path)).unwrap();
            }
            assert!(fs::symlink_metadata(inside(&path).join("nothing")).is_err());
        }
    };
    look();
    look(); // the view's root looked different before the view was loaded, and is listed once more
    let counts = stage.session().counts();
    let before = counts.all();
    look();
    let asked = counts.all() - before;
    assert_eq!(asked, 0, "requests for what the kernel knew");
    assert!(counts.of(Operation::Open) <= 1 && counts.of(Operation::Opendir) <= 1, "{counts:?}");
}
