//! The writer's own tests: what it counts, what it refuses, that it is deterministic.

use super::*;
use crate::digest::Digest;

fn inode(kind: Kind, content: Content) -> Inode {
    let mtime = Time { seconds: 1_700_000_000, nanos: 5 };
    Inode { kind, mode: 0o755, uid: 0, gid: 0, mtime, device: (0, 0), xattrs: Xattrs::new(), content }
}

fn dir(children: &[(&str, u32)]) -> Inode {
    let children = children.iter().map(|(name, id)| (name.as_bytes().into(), InodeId(*id))).collect();
    inode(Kind::Directory, Content::Children(children))
}

fn labels() -> Labels {
    Labels { diff_id: DiffId(Digest::of(b"a layer")), data_bytes: 1 << 20 }
}

fn written(inodes: Vec<Inode>) -> Result<Vec<u8>, WriteError> {
    let file = tempfile::tempfile().unwrap();
    let written = write(&Source { inodes }, &labels(), &file)?;
    let mut bytes = vec![0; written.bytes as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(file.metadata().unwrap().len(), written.bytes);
    Ok(bytes)
}

/// The path and the reason with which these inodes are refused.
fn refusal(inodes: Vec<Inode>) -> (String, Refusal) {
    match written(inodes) {
        Err(WriteError::Refused { path, reason }) => (path, reason),
        other => panic!("not refused: {other:?}"),
    }
}

fn data(at: u64, len: u64, offset: u64) -> Piece {
    Piece { at, len, from: From::Data(offset) }
}

#[test]
fn the_order_of_the_source_does_not_matter() {
    let file = |size| inode(Kind::File, Content::Extents { size, pieces: vec![data(0, size, 512)] });
    let one = written(vec![dir(&[("a", 1), ("b", 2)]), file(5), file(6)]).unwrap();
    let other = written(vec![dir(&[("b", 1), ("a", 3)]), file(6), dir(&[]), file(5)]).unwrap();
    assert_eq!(one, other);
}

/// Old trees stay on disk when oncefs changes: whoever changes what is written sees it here first.
#[test]
fn a_small_trees_bytes_are_pinned() {
    let mut marked = dir(&[("n", 2)]);
    marked.xattrs = vec![(b"user.x".to_vec(), b"1".to_vec()), (b"trusted.overlay.opaque".to_vec(), b"y".to_vec())];
    let device = Inode { device: (259, 70000), ..inode(Kind::BlockDevice, Content::None) };
    let link = inode(Kind::Symlink, Content::Target(b"d/n".to_vec()));
    let from = From::Bytes(b"own bytes".to_vec());
    let pieces = vec![data(0, 4096, 1024), Piece { at: 8192, len: 9, from }];
    let sparse = inode(Kind::File, Content::Extents { size: 20000, pieces });
    let tree = written(vec![dir(&[("d", 1), ("l", 3), ("s", 4)]), marked, device, link, sparse]).unwrap();
    assert_eq!(Digest::of(&tree).hex(), "cdebfcca542c734a795be73b00348d15e6fed4e835f21c754136a729b9f6f040");
}

#[test]
fn what_a_tree_cannot_hold_is_refused_with_its_path() {
    let none = || inode(Kind::Fifo, Content::None);
    let in_d = |inode: Inode| vec![dir(&[("d", 1)]), dir(&[("x", 2)]), inode];
    let at_d = ("d".to_owned(), Refusal::Name);
    for name in ["", "a/b", "a\0b", &"n".repeat(256)] {
        assert_eq!(refusal(vec![dir(&[("d", 1)]), dir(&[(name, 2)]), none()]), at_d, "{name:?}");
    }
    for names in [["n", "n"], [".", "n"], ["n", ".."]] {
        let inodes = vec![dir(&[(names[0], 1), (names[1], 2)]), none(), none()];
        assert_eq!(refusal(inodes), (String::new(), Refusal::TwiceNamed));
    }
    assert_eq!(refusal(vec![dir(&[("d", 1)]), dir(&[("up", 0)])]), ("d/up".to_owned(), Refusal::SecondParent));
    assert_eq!(refusal(vec![dir(&[("d", 1), ("e", 1)]), dir(&[])]), ("d".to_owned(), Refusal::SecondParent));
    assert_eq!(refusal(vec![dir(&[("d", 9)])]), (String::new(), Refusal::NoSuchInode));
    assert_eq!(refusal(vec![none()]), (String::new(), Refusal::Content));
    let refused = |inode| {
        let (path, reason) = refusal(in_d(inode));
        assert_eq!(path, "d/x");
        reason
    };
    assert_eq!(refused(inode(Kind::File, Content::Target(vec![b'x']))), Refusal::Content);
    assert_eq!(refused(Inode { mode: 0o10000, ..none() }), Refusal::Mode);
    assert_eq!(refused(Inode { mtime: Time { seconds: 0, nanos: 1_000_000_000 }, ..none() }), Refusal::Time);
    assert_eq!(refused(Inode { device: (1 << 12, 0), ..inode(Kind::CharDevice, Content::None) }), Refusal::Device);
    for target in [vec![], vec![b'x'; 4096], b"a\0b".to_vec()] {
        assert_eq!(refused(inode(Kind::Symlink, Content::Target(target))), Refusal::Target);
    }
    let file = |size, pieces| inode(Kind::File, Content::Extents { size, pieces });
    assert_eq!(refused(file(1 << 63, vec![])), Refusal::Size);
    assert_eq!(refused(file(700, vec![data(0, 700, 1)])), Refusal::Unaligned);
    assert_eq!(refused(file(700, vec![data(0, 700, 1 << 20)])), Refusal::OutsideData);
}

#[test]
fn attributes_that_erofs_cannot_hold_are_refused() {
    let reason = |xattrs: &[(&[u8], usize)]| {
        let xattrs = xattrs.iter().map(|(name, len)| (name.to_vec(), vec![1; *len])).collect();
        written(vec![dir(&[("f", 1)]), Inode { xattrs, ..inode(Kind::Fifo, Content::None) }]).err().map(|error| {
            match error {
                WriteError::Refused { reason, .. } => reason,
                other => panic!("{other}"),
            }
        })
    };
    assert_eq!(reason(&[(b"user.x", 65535), (b"system.posix_acl_access", 4)]), None);
    assert_eq!(reason(&[(b"user.x", 65536)]), Some(Refusal::XattrSize));
    let many: [(&[u8], usize); 5] =
        [(b"user.a", 60000), (b"user.b", 60000), (b"user.c", 60000), (b"user.d", 60000), (b"user.e", 60000)];
    assert_eq!(reason(&many), Some(Refusal::XattrSize));
    for name in [&b"user."[..], b"system.nfs4_acl", b"system.posix_acl_access2", b"nothing", b"user.a\0b"] {
        assert_eq!(reason(&[(name, 1)]), Some(Refusal::XattrName), "{}", String::from_utf8_lossy(name));
    }
    assert_eq!(reason(&[(b"user.x", 1), (b"user.y", 1), (b"user.x", 2)]), Some(Refusal::XattrName));
}

#[test]
fn a_tar_of_nothing_but_holes_cannot_make_a_huge_tree() {
    let too_large = |files: Vec<Inode>| {
        let names: Vec<_> = (1..=files.len()).map(|id| (id.to_string(), id as u32)).collect();
        let names: Vec<_> = names.iter().map(|(name, id)| (name.as_str(), *id)).collect();
        let inodes = [vec![dir(&names)], files].concat();
        matches!(written(inodes), Err(WriteError::TooLarge(_)))
    };
    // Seams at 512 bytes and at 1 TiB: 2^31 chunks of 512 bytes.
    let pieces = vec![data(0, 512, 0), data(1 << 40, 512, 512)];
    assert!(too_large(vec![inode(Kind::File, Content::Extents { size: (1 << 40) + 512, pieces })]));
    let huge = inode(Kind::File, Content::Extents { size: i64::MAX as u64, pieces: vec![] });
    assert!(too_large(vec![huge.clone(), huge.clone(), huge]));
}
