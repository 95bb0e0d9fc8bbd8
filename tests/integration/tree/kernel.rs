//! The kernel mounts a tree with its data file and shows what our reader says.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use oncefs::index::tree::read::Visited;
use oncefs::index::tree::write::{Content, From, Inode, Piece, Source};
use oncefs::index::tree::{Kind, Time};
use proptest::prelude::*;

use super::any::{any_source, directory, file, inode};
use super::{Laid, Mounted, lay};

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]

    #[test]
    fn privileged_the_kernel_and_fsck_agree_with_our_reader(source in any_source()) {
        let laid = lay(&source);
        prop_assert_eq!(laid.fsck(), Ok(()));
        compare_all(&laid, &laid.mount());
    }
}

/// Every name of the tree against the mount, and no name more.
pub(super) fn compare_all(laid: &Laid, mounted: &Mounted) {
    for visited in laid.tree.walk() {
        let visited = visited.unwrap();
        compare(laid, &visited, &mounted.path(&visited.path));
    }
}

fn compare(laid: &Laid, visited: &Visited, path: &Path) {
    let node = laid.tree.node(visited.nid).unwrap();
    let stat = fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let kind = stat.file_type();
    let same_kind = match node.kind {
        Kind::File => kind.is_file(),
        Kind::Directory => kind.is_dir(),
        Kind::Symlink => kind.is_symlink(),
        Kind::CharDevice => kind.is_char_device(),
        Kind::BlockDevice => kind.is_block_device(),
        Kind::Fifo => kind.is_fifo(),
        Kind::Socket => kind.is_socket(),
    };
    assert!(same_kind && visited.kind == node.kind, "{path:?}");
    assert_eq!(u32::from(node.mode), stat.mode() & 0o7777, "{path:?}");
    assert_eq!((node.uid, node.gid, node.size), (stat.uid(), stat.gid(), stat.size()), "{path:?}");
    let mtime = Time { seconds: stat.mtime(), nanos: stat.mtime_nsec() as u32 };
    assert_eq!((node.mtime, u64::from(node.nlink)), (mtime, stat.nlink()), "{path:?}");
    let device = (rustix::fs::major(stat.rdev()), rustix::fs::minor(stat.rdev()));
    assert_eq!(node.device, device, "{path:?}");
    assert_eq!(u64::from(visited.nid.0), stat.ino(), "hard links have one number: {path:?}");
    compare_xattrs(laid, visited, path);
    match node.kind {
        Kind::Symlink => {
            assert_eq!(laid.tree.target(visited.nid).unwrap(), fs::read_link(path).unwrap().as_os_str().as_bytes());
        }
        Kind::File => assert_eq!(laid.content(visited.nid, node.size), fs::read(path).unwrap(), "{path:?}"),
        Kind::Directory => {
            let shown = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().as_bytes().to_vec());
            let ours = laid.tree.list(visited.nid).unwrap().map(|child| child.unwrap().name.to_vec());
            assert_eq!(shown.collect::<BTreeSet<_>>(), ours.collect(), "{path:?}");
        }
        _ => {}
    }
}

fn compare_xattrs(laid: &Laid, visited: &Visited, path: &Path) {
    let mut names = vec![0; 1 << 16];
    let len = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let shown: BTreeSet<Vec<u8>> = names[..len].split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    for (name, value) in laid.tree.xattrs(visited.nid).unwrap() {
        // The kernel hides some that are there: only files and directories can be asked for `user.`, symlinks have no
        // access control lists, and what is no directory has no default one.
        let is_plain = matches!(visited.kind, Kind::File | Kind::Directory);
        let is_acl = name.starts_with(b"system.");
        if name.starts_with(b"user.") && !is_plain || is_acl && visited.kind != Kind::Directory {
            continue;
        }
        assert!(shown.contains(&name), "{path:?} {}", name.escape_ascii());
        let mut read = vec![0; 1 << 16];
        let len = rustix::fs::lgetxattr(path, &name[..], &mut read[..])
            .unwrap_or_else(|error| panic!("{path:?} {}: {error}", name.escape_ascii()));
        assert_eq!(value, read[..len], "{path:?} {}", name.escape_ascii());
    }
}

fn data(at: u64, len: u64, offset: u64) -> Piece {
    Piece { at, len, from: From::Data(offset) }
}

fn bytes(at: u64, text: &[u8]) -> Piece {
    Piece { at, len: text.len() as u64, from: From::Bytes(text.to_vec()) }
}

/// All in one page of 4096 bytes, where the kernel has to put it together from three places.
#[test]
fn privileged_a_page_of_data_holes_and_own_bytes_reads_as_its_pieces() {
    let pieces = vec![data(0, 512, 1024), bytes(1000, b"own"), bytes(1100, b"more"), data(2048, 1000, 8192)];
    let inodes = vec![directory(vec![(b"f".to_vec(), 1)]), file(3048, pieces)];
    let laid = lay(&Source { inodes });
    assert_eq!(laid.fsck(), Ok(()));
    compare_all(&laid, &laid.mount());
}

#[test]
fn privileged_the_last_bytes_of_a_file_are_at_the_data_files_ragged_end() {
    let len = super::DATA_BYTES - 4096;
    let laid = lay(&Source { inodes: vec![directory(vec![(b"f".to_vec(), 1)]), file(len, vec![data(0, len, 4096)])] });
    compare_all(&laid, &laid.mount());
}

#[test]
fn privileged_times_before_1970_and_large_ids_and_devices_arrive() {
    let times = [(-1, 999_999_999), (i64::from(i32::MIN) - 1, 0), (1 << 40, 1)];
    let mut inodes = vec![directory((1..=3).map(|id| (vec![b'0' + id as u8], id)).collect())];
    inodes.extend(times.map(|(seconds, nanos)| Inode {
        mtime: Time { seconds, nanos },
        uid: u32::MAX - 1,
        device: (4095, (1 << 20) - 1),
        ..inode(Kind::BlockDevice, Content::None)
    }));
    let laid = lay(&Source { inodes });
    assert_eq!(laid.fsck(), Ok(()));
    compare_all(&laid, &laid.mount());
}
