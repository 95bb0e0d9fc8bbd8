//! Tars as GNU tar, bsdtar and Python make them, compared with what GNU tar or bsdtar unpack from them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, lsetxattr, makedev, mknodat, utimensat,
};
use tempfile::TempDir;

use super::told::{assert_same, bytes_of, layer_of, told_of};

/// What a format has place for: each has what those before it have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Format {
    /// Names of 99 bytes, small ids, times since 1970.
    V7,
    /// Names of 255 bytes, devices.
    Ustar,
    /// Names of any length, large ids, times before 1970, sparse files.
    Gnu,
    /// Nanoseconds, extended attributes.
    Pax,
}

/// What an archive will have place for.
#[derive(Debug, Clone, Copy)]
struct Can {
    format: Format,
    /// It keeps holes as holes, so that a file of many GiB is no many GiB in it.
    holes: bool,
}

fn run(program: &str, args: &[&OsStr]) {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("{program} is needed for this test: {error}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn args<'a>(words: &'a str, paths: &[&'a Path]) -> Vec<&'a OsStr> {
    let mut paths = paths.iter();
    let words = words.split_whitespace();
    words.map(|word| if word == "PATH" { paths.next().unwrap().as_os_str() } else { OsStr::new(word) }).collect()
}

// === something to archive ===

struct Making {
    dir: PathBuf,
}

impl Making {
    fn at(&self, name: impl AsRef<[u8]>) -> PathBuf {
        self.dir.join(OsStr::from_bytes(name.as_ref()))
    }

    fn file(&self, name: impl AsRef<[u8]>, bytes: &[u8]) -> PathBuf {
        let path = self.at(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn node(&self, name: &str, kind: FileType, (major, minor): (u32, u32)) {
        let device = makedev(major, minor);
        mknodat(CWD, self.at(name), kind, Mode::from_raw_mode(0o620), device).expect("device nodes need root");
    }

    fn owned(&self, name: &str, uid: u32, gid: u32) {
        lchown(self.at(name), Some(uid), Some(gid)).expect("giving files away needs root");
    }

    fn mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.at(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn time(&self, name: &str, seconds: i64, nanos: i64) {
        let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, self.at(name), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }

    fn xattr(&self, name: &str, xattr: &str, value: &[u8]) {
        lsetxattr(self.at(name), xattr, value, XattrFlags::empty()).expect("trusted and security attributes need root");
    }

    /// A file of `size` bytes with these stretches of data in it.
    fn sparse(&self, name: &str, size: u64, stretches: &[(u64, usize)]) {
        let file = File::create(self.at(name)).unwrap();
        file.set_len(size).unwrap();
        for (at, len) in stretches {
            let bytes: Vec<u8> = (0..*len).map(|n| (n % 253) as u8 + 1).collect();
            file.write_all_at(&bytes, *at).unwrap();
        }
    }
}

fn make(dir: &Path, can: Can) {
    let making = Making { dir: dir.to_owned() };
    for name in ["d", "d/e", "d/empty directory", "many"] {
        fs::create_dir(making.at(name)).unwrap();
    }
    making.file("d/file", b"content\n");
    making.file("d/empty", b"");
    making.file("d/block", &[7; 512]);
    making.file("d/more", &(0..5000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
    making.file(b"d/not \xff UTF-8 \x01 \n", b"x");
    making.file(" leading", b"y");
    making.file("d/.whiteout-like", b"z");
    fs::hard_link(making.at("d/file"), making.at("d/e/same")).unwrap();
    fs::hard_link(making.at("d/file"), making.at("a name before")).unwrap();
    symlink("d/file", making.at("link")).unwrap();
    symlink("/nowhere/at/../all", making.at("d/dangling")).unwrap();
    (0..300).for_each(|n| drop(making.file(format!("many/{n}"), n.to_string().as_bytes())));
    making.mode("d/file", 0o4751);
    making.mode("d/e", 0o3777);
    making.owned("d/block", 1000, 100);
    making.owned("link", 5, 6);
    if can.format >= Format::Ustar {
        making.node("char", FileType::CharacterDevice, (10, 229));
        making.node("block", FileType::BlockDevice, (259, 70_000));
        making.node("fifo", FileType::Fifo, (0, 0));
        let split = ["p".repeat(90), "q".repeat(60)].join("/");
        fs::create_dir_all(making.at(&split)).unwrap();
        making.file([&split, "/", &"n".repeat(99)].concat(), b"split");
    }
    if can.format >= Format::Gnu {
        let mut deep = String::new();
        for _ in 0..3 {
            deep = [&deep, "/", &"l".repeat(255)].concat().trim_start_matches('/').to_owned();
            fs::create_dir(making.at(&deep)).unwrap();
        }
        making.file([&deep, "/f"].concat(), b"deep");
        fs::hard_link(making.at([&deep, "/f"].concat()), making.at("far")).unwrap();
        symlink("t/".repeat(2000), making.at("long link")).unwrap();
        making.owned("d/more", 4_000_000_000, 3_000_000);
        making.time("d/more", -1_000_000_000, 0);
        making.sparse("sparse", 3 << 20, &[(0, 4096), (1 << 20, 9000), (2 << 20, 1)]);
        making.sparse("sparse to the end", (1 << 20) + 77, &[(8192, 4096), ((1 << 20) - 4096, 4096 + 77)]);
        making.sparse("hole", 1 << 20, &[]);
        let many: Vec<_> = (0..100).map(|n| (n * 16384, 4096)).collect();
        making.sparse("many stretches", 100 * 16384, &many);
    }
    if can.holes {
        making.sparse("huge", 20 << 30, &[(0, 100), (10 << 30, 5000), ((20 << 30) - 4096, 4096)]);
    }
    if can.format >= Format::Pax {
        making.xattr("d/file", "user.binary", b"a=b\n\0\xff\n12 x=y\n");
        making.xattr("d/file", "user.empty", b"");
        making.xattr("d/file", "security.capability", b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        making.xattr("d", "trusted.mine", &[b'v'; 4000]);
        making.xattr("sparse", "user.on sparse", b"1");
        making.time("d/block", 1_234_567_890, 123_456_789);
        making.time("link", -5, 999_999_999);
        making.time("d/empty", -1, 1);
    }
}

/// What `make` makes, archived by one program and unpacked by another, is what the tree shows.
fn compare(can: Can, create: (&str, &str), extract: (&str, &str)) {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (source, unpacked, tar) = (path("source"), path("unpacked"), path("tar"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&unpacked).unwrap();
    make(&source, can);
    run(create.0, &args(create.1, &[&tar, &source]));
    run(extract.0, &args(extract.1, &[&tar, &unpacked]));
    let layer = layer_of(bytes_of(&tar)).unwrap();
    let (mut got, mut want) = (layer.told(), told_of(&unpacked));
    if extract.0 == "bsdtar" {
        // It leaves the directory it unpacks into as it is. And it writes a time before 1970 as its two parts: one
        // nanosecond after -1 becomes -1.000000001, which we read as GNU tar and Go do, two nanoseconds earlier.
        for path in [&b""[..], b"link", b"d/empty"] {
            got.remove(path);
            want.remove(path);
        }
    }
    assert_same(&got, &want, create.1);
}

const GNU_EXTRACT: (&str, &str) = ("tar", "--numeric-owner --xattrs --xattrs-include=* --same-owner -pxf PATH -C PATH");

fn gnu(format: Format, options: &str) {
    // Looking for holes by reading would take too long with many GiB.
    let can = Can { format, holes: options.contains("--sparse") && !options.contains("=raw") };
    compare(can, ("tar", &format!("--numeric-owner {options} -cf PATH -C PATH .")), GNU_EXTRACT);
}

#[test]
fn gnu_tars_oldest_formats_are_read() {
    gnu(Format::V7, "--format=v7");
    gnu(Format::Ustar, "--format=ustar");
    gnu(Format::Gnu, "--format=oldgnu");
}

#[test]
fn gnu_tars_own_format_is_read() {
    gnu(Format::Gnu, "--format=gnu");
    gnu(Format::Gnu, "--format=gnu --sparse --hole-detection=seek");
    gnu(Format::Gnu, "--format=gnu --sparse --hole-detection=raw");
}

#[test]
fn gnu_tars_pax_format_is_read() {
    gnu(Format::Pax, "--format=pax --xattrs --xattrs-include=*");
    for version in ["0.0", "0.1", "1.0"] {
        gnu(Format::Pax, &format!("--format=pax --xattrs --xattrs-include=* --sparse --sparse-version={version}"));
    }
}

#[test]
fn what_bsdtar_makes_is_read() {
    let bsdtar = |format, holes, options: &str| {
        let create = format!("{options} --numeric-owner -cf PATH -C PATH .");
        let extract = ("bsdtar", "--numeric-owner --same-owner --xattrs -pxf PATH -C PATH");
        compare(Can { format, holes }, ("bsdtar", &create), extract);
    };
    bsdtar(Format::Ustar, false, "--format=ustar");
    bsdtar(Format::Gnu, false, "--format=gnutar");
    bsdtar(Format::Pax, true, "--format=pax --xattrs");
}

#[test]
fn what_python_makes_is_read() {
    let script = "import sys, tarfile\n\
                  with tarfile.open(sys.argv[2], 'w', format=int(sys.argv[1])) as tar: tar.add(sys.argv[3], '.')";
    for (format, number) in [(Format::Ustar, "0"), (Format::Gnu, "1"), (Format::Gnu, "2")] {
        let dir = TempDir::new().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (source, unpacked, tar) = (path("source"), path("unpacked"), path("tar"));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&unpacked).unwrap();
        make(&source, Can { format, holes: false });
        let script = ["-c", script, number].map(OsStr::new);
        run("python3", &[&script[..], &[tar.as_os_str(), source.as_os_str()]].concat());
        run(GNU_EXTRACT.0, &args(GNU_EXTRACT.1, &[&tar, &unpacked]));
        assert_same(&layer_of(bytes_of(&tar)).unwrap().told(), &told_of(&unpacked), number);
    }
}

/// What umoci, and with it Go's archive/tar, makes of a directory is what it unpacks from that again.
#[test]
fn what_umoci_makes_is_read() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (layout, bundle, rootfs, tar) = (path("layout"), path("bundle"), path("bundle/rootfs"), path("tar"));
    let image = PathBuf::from(format!("{}:made", layout.display()));
    run("umoci", &args("init --layout PATH", &[&layout]));
    run("umoci", &args("new --image PATH", &[&image]));
    run("umoci", &args("unpack --image PATH PATH", &[&image, &bundle]));
    make(&rootfs, Can { format: Format::Pax, holes: false });
    run("umoci", &args("repack --image PATH PATH", &[&image, &bundle]));
    let largest = fs::read_dir(layout.join("blobs/sha256")).unwrap().map(|entry| entry.unwrap().path());
    let layer = largest.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    run("sh", &args("-c PATH PATH PATH", &[Path::new("gzip -dc <$0 >$1"), &layer, &tar]));
    let unpacked = path("unpacked");
    run("umoci", &args("unpack --image PATH PATH", &[&image, &unpacked]));
    assert_same(&layer_of(bytes_of(&tar)).unwrap().told(), &told_of(&unpacked.join("rootfs")), "umoci");
}
