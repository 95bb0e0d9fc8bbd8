//! What the tools of erofs-utils print of a tree, and what they say of a broken one.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;

use oncefs::index::tree::write::{From, Inode, Piece, Source};

use super::any::{directory, file};
use super::{Laid, erofs_tool, lay};

fn dump(laid: &Laid, arguments: &[&str]) -> String {
    erofs_tool("dump.erofs", "DUMP_EROFS", laid, arguments).unwrap()
}

fn sample() -> Source {
    let pieces = vec![Piece { at: 0, len: 3000, from: From::Data(2048) }];
    let file = Inode { uid: 70000, gid: 80000, mode: 0o4751, ..file(3000, pieces) };
    Source { inodes: vec![directory(vec![(b"f".to_vec(), 1), (b"again".to_vec(), 1)]), file] }
}

#[test]
fn dump_says_what_the_superblock_and_a_file_are() {
    let laid = lay(&sample());
    let superblock = dump(&laid, &["-s"]);
    for part in [
        "mtime chunked_file device_table",
        "blocksize:                         512",
        "inode count:                       2",
    ] {
        assert!(superblock.contains(part), "{part}:\n{superblock}");
    }
    let (nid, _) = laid.tree.lookup(laid.tree.root(), b"f").unwrap().unwrap();
    let shown = dump(&laid, &["--path=/f", "-e"]);
    for part in ["3000", &format!("NID: {}", nid.0), "Links: 2", "0751", "70000", "80000"] {
        assert!(shown.contains(part), "{part}:\n{shown}");
    }
}

#[test]
fn fsck_sees_a_broken_directory() {
    let laid = lay(&sample());
    assert_eq!(laid.fsck(), Ok(()));
    let tree = OpenOptions::new().write(true).open(laid.path("tree")).unwrap();
    // Where the first of the root's names begins, in the entry that follows the root's inode.
    tree.write_all_at(&[0xff, 0xff], u64::from(laid.tree.root().0) * 32 + 64 + 8).unwrap();
    assert!(laid.fsck().is_err(), "the checks above prove nothing if fsck passes this");
}
